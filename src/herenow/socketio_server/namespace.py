"""What an application holds of a Socket.IO server: its namespaces, and in each the sockets of the connected clients.

What goes out goes by here; what comes in, and which handler it is for, is ``server.py``'s.

Between its CONNECT and its end a socket is in one of four states::

    connecting ──let_in──▶ greeted ──end_greeting──▶ connected
        └─────────────────────┴──────────end─────────────┴──▶ closed

In the first two, what is sent is held back: till the CONNECT, which must come first, and then for the server's
``greeting_ms``.
"""

import asyncio
import inspect
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from .engineio.connection import Connection, Handshake
from .engineio.session import Reason, Transport
from .errors import CallTimeout, Disconnected
from .ids import new_id
from .message import Message
from .packets import RESERVED_EVENTS, Packet, PacketType, encode

Handler = TypeVar("Handler", bound=Callable[..., Any])

_MOST_EARLY: Final = 100
"""Events that are held back, at most; with one more, all go."""

_CONNECTING: Final = "connecting"
_GREETED: Final = "greeted"
_CONNECTED: Final = "connected"
_CLOSED: Final = "closed"


class Reply:
    """What a handler may return to answer also those who asked for no acknowledgement.

    Args:
        ack: the acknowledgement's argument.
        otherwise: event and argument that are emitted to a client that asked for none.
    """

    __slots__ = ("ack", "otherwise")

    def __init__(self, ack: Any, *, otherwise: tuple[str, Any]) -> None:
        self.ack = ack
        self.otherwise = otherwise


class Socket:
    """A client in a namespace.

    Attributes:
        id: the client's own ``socket.id``; unguessable, and fit to be shown to others: it cannot be used to speak for
            the client.
        namespace: where it is connected.
        connection: the engine's connection that carries it. Send by the socket, not by this.
        reason: why it was disconnected; ``None`` until then.
        data: the application's to use; begins as ``None``.
    """

    __slots__ = ("_acks", "_early", "_state", "connection", "data", "id", "namespace", "reason")

    def __init__(self, namespace: "Namespace", connection: Connection) -> None:
        self.id = new_id()
        self.namespace = namespace
        self.data: Any = None
        self.connection = connection
        self.reason: Reason | None = None
        self._state = _CONNECTING
        # What a connect handler sends comes to the client after its CONNECT, or not at all.
        self._early: list[Message] | None = None
        self._acks: dict[int, asyncio.Future[tuple[Any, ...]]] | None = None

    def __repr__(self) -> str:
        return f"<Socket {self.id[:6]}… in {self.namespace.name}>"

    @property
    def connected(self) -> bool:
        """Whether events can be sent."""
        return self._state is _CONNECTED or self._state is _GREETED

    @property
    def slow(self) -> bool:
        """Whether the client has so much unsent that ``emit`` refuses."""
        return self.connection.slow

    @property
    def handshake(self) -> Handshake:
        """The request that opened the connection: headers, query, address."""
        return self.connection.handshake

    @property
    def transport(self) -> str:
        """``polling`` or ``websocket``, as of now."""
        return self.connection.session.transport

    @property
    def last_pong_ms(self) -> float | None:
        """When the client last answered a ping, by the engine's clock; ``None`` before the first."""
        return self.connection.last_pong_ms

    def emit(self, event: str, *args: Any) -> bool:
        """Send an event.

        Returns:
            False, with nothing sent, when the client is slow or gone; the caller merges or drops.

        Raises:
            ValueError: the name is reserved, or the arguments are nested too deep or not valid Unicode.
            TypeError: the arguments hold what JSON cannot express.
        """
        return self.send(self.namespace.message(event, *args))

    def send(self, message: Message) -> bool:
        """Send what :meth:`Namespace.message` built; otherwise as :meth:`emit`."""
        if self._state is _CONNECTED:
            return self.connection.send(message)
        if self._state is _CLOSED:
            return False
        self._hold_back(message)
        return True

    async def call(self, event: str, *args: Any, timeout_s: float = 60.0) -> tuple[Any, ...]:
        """Send an event and wait for the client's acknowledgement.

        Returns:
            The arguments that the client acknowledged with.

        Raises:
            CallTimeout: none came within ``timeout_s`` seconds; one that comes later is ignored.
            Disconnected: the client is slow or gone, or went while this waited.
            ValueError, TypeError: as :meth:`emit`.
        """
        if not self.connected:
            raise Disconnected(f"{self!r} is not connected")
        if self._acks is None:
            self._acks = {}
        ack_id = next(self.namespace.ack_ids)
        answer: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()
        self._acks[ack_id] = answer
        try:
            if not self.send(self.namespace.message(event, *args, ack_id=ack_id)):
                raise Disconnected(f"{self!r} is slow or gone")
            async with self.connection.engine.clock.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise CallTimeout(f"no acknowledgement of {event!r} within {timeout_s:g} s") from error
        finally:
            self._acks.pop(ack_id, None)

    def disconnect(self, *, close: bool = False) -> None:
        """End the connection to this namespace, or with ``close`` the whole connection. Idempotent.

        A client does not come back by itself after the first. The second alone ends as a lost connection does, without
        a close frame: after that, every client comes back (decision 037).
        """
        self.namespace.server.disconnect(self, close=close)

    # -- for the server --------------------------------------------------------------------------------------------

    def let_in(self) -> None:
        """Tell the client that it is connected, then greet it with what the connect handler has sent."""
        self._state = _GREETED
        connect = Message(*encode(Packet(PacketType.CONNECT, self.namespace.name, {"sid": self.id})))
        greeting_s = self.namespace.server.greeting_s
        if self._early and greeting_s and self.connection.session.transport is Transport.WEBSOCKET:
            self.connection.push(connect)
            asyncio.get_running_loop().call_later(greeting_s, self.end_greeting)
        else:
            self._early = [connect, *(self._early or ())]
            self.end_greeting()

    def end_greeting(self) -> None:
        """Send what was held back since the CONNECT; from now on, events go at once."""
        if self._state is _GREETED:
            self._state = _CONNECTED
            early, self._early = self._early, None
            if early:
                self.connection.push(*early)

    def answer(self, message: Message) -> None:
        """Send an acknowledgement: even to a slow client, and behind what is still held back."""
        if self._state is _GREETED:
            self._hold_back(message)
        elif self._state is _CONNECTED:
            self.connection.push(message)

    def acknowledged(self, ack_id: int, args: Iterable[Any]) -> None:
        """The client acknowledged a call; what it was not asked for, or asked too long ago, is ignored."""
        answer = (self._acks or {}).pop(ack_id, None)
        if answer is not None and not answer.done():
            answer.set_result(tuple(args))

    def end(self, reason: Reason) -> None:
        """The client is in this namespace no more: nothing is sent, nobody waits for it."""
        self._state = _CLOSED
        self.reason = reason
        self._early = None
        for answer in (self._acks or {}).values():
            if not answer.done():
                answer.set_exception(Disconnected(f"{self!r} disconnected: {reason}"))

    def _hold_back(self, message: Message) -> None:
        if self._early is None:
            self._early = []
        self._early.append(message)
        if self._state is _GREETED and len(self._early) >= _MOST_EARLY:
            self.end_greeting()


class Host(Protocol):
    """What a namespace needs of the server that it belongs to.

    Attributes:
        greeting_s: how long after a CONNECT the first events are held back.
    """

    greeting_s: float

    def disconnect(self, socket: Socket, *, close: bool = False) -> None:
        """See :meth:`Socket.disconnect`."""


class _Registered(NamedTuple):
    """A handler of an event, and how many arguments of the client's it takes."""

    handler: Callable[..., Any]
    least: int
    most: float


def _arity(handler: Callable[..., Any]) -> tuple[int, float]:
    """How many arguments, beside the socket, a handler needs and takes."""
    least, most = -1, -1.0
    for parameter in inspect.signature(handler).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = float("inf")
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += parameter.default is parameter.empty
    return max(least, 0), most


class Namespace:
    """A namespace that clients may connect to; made by :meth:`~.server.Server.namespace`.

    Attributes:
        server: whose it is.
        name: begins with ``/``.
        sockets: the connected ones, by id. Do not change it.
    """

    def __init__(self, server: Host, name: str) -> None:
        self.server = server
        self.name = name
        self.sockets: dict[str, Socket] = {}
        self.ack_ids = itertools.count()
        self.handlers: dict[str | int, _Registered] = {}
        self.connect_handler: Callable[[Socket, Any], Any] | None = None
        self.disconnect_handler: Callable[[Socket, Reason], Any] | None = None
        self.unknown_handler: Callable[..., Any] | None = None
        self.slow_handler: Callable[[Socket], Any] | None = None
        self.drain_handler: Callable[[Socket], Any] | None = None

    # -- handlers --------------------------------------------------------------------------------------------------

    def on(self, event: str) -> Callable[[Handler], Handler]:
        """Register ``handler(socket, *args)`` for an event. What it returns is the acknowledgement.

        A tuple gives several arguments, ``None`` gives none. A :class:`Reply` answers those too who asked for none.

        Raises:
            ValueError: the name is reserved, or has a handler already.
        """
        if event in RESERVED_EVENTS:
            raise ValueError(f"{event!r} is reserved: use on_connect or on_disconnect")
        if event in self.handlers:
            raise ValueError(f"{event!r} has a handler already")

        def register(handler: Handler) -> Handler:
            self.handlers[event] = _Registered(handler, *_arity(handler))
            return handler

        return register

    def on_connect(self, handler: Handler) -> Handler:
        """Register ``handler(socket, auth)``: ``auth`` is the CONNECT payload, an object or ``None``.

        It may raise :class:`ConnectRefused`. What it emits is sent after the client has been let in.
        """
        self.connect_handler = handler
        return handler

    def on_disconnect(self, handler: Handler) -> Handler:
        """Register ``handler(socket, reason)``."""
        self.disconnect_handler = handler
        return handler

    def on_unknown(self, handler: Handler) -> Handler:
        """Register ``handler(socket, event, *args)`` for events without a handler, which else are acknowledged empty.

        "The receiver MUST respond with an ACK packet" leaves no event without its answer.
        """
        self.unknown_handler = handler
        return handler

    def on_slow(self, handler: Handler) -> Handler:
        """Register ``handler(socket)``: ``emit`` refuses from now on. It must be sync and quick."""
        self.slow_handler = handler
        return handler

    def on_drain(self, handler: Handler) -> Handler:
        """Register ``handler(socket)``: a slow socket takes events again. It must be sync and quick."""
        self.drain_handler = handler
        return handler

    # -- sending ---------------------------------------------------------------------------------------------------

    def message(self, event: str, *args: Any, ack_id: int | None = None) -> Message:
        """Encode an event once, to be sent to any number of this namespace's sockets.

        Raises:
            ValueError: the name is reserved, or the arguments are nested too deep or not valid Unicode.
            TypeError: the arguments hold what JSON cannot express.
        """
        if event in RESERVED_EVENTS:
            raise ValueError(f"{event!r} is reserved")
        return Message(*encode(Packet(PacketType.EVENT, self.name, [event, *args], ack_id)))

    def emit(self, sockets: Iterable[Socket], event: str, *args: Any) -> int:
        """Send one event to many sockets of this namespace: encoded once, framed once.

        Returns:
            How many took it; the others are slow or gone.
        """
        message = self.message(event, *args)
        taken = 0
        for socket in tuple(sockets):  # an on_slow handler may disconnect one
            # Straight to the link: at ten thousand sockets, each call between is a millisecond.
            if socket._state is _CONNECTED:
                taken += socket.connection.link.send(message)
            else:
                taken += socket.send(message)
        return taken
