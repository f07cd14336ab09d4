"""A Socket.IO v5 server: namespaces, events, acknowledgements, and events to many, encoded and framed once.

    server = Server(ServerSettings(path="/socket.io/"))
    chat = server.namespace("/")

    @chat.on_connect
    async def connected(socket: Socket, auth: dict[str, Any] | None) -> None:
        socket.data = await who_is(auth)              # raise ConnectRefused to refuse

    @chat.on("say")
    def say(socket: Socket, text: str) -> str:
        chat.emit(chat.sockets.values(), "said", text)
        return "heard"                                # what is returned is the acknowledgement

    app = server.asgi_app()                           # uvicorn app:app --ws herenow.socketio_server:FastWebSocket

What handlers can count on:

* Sync handlers run at once, in the order of the packets; async ones are started in that order, each a task.
* At most ``max_running`` async handlers of one connection run at a time. Until one has ended, its further events wait;
  when ``MAX_BACKLOG`` of them do, nothing more is read from that client. The others are served meanwhile. The same
  holds while a client is slow, so that one who asks and does not read the answers fills only its own socket.
* Acknowledgements never wait, so a handler may ``await socket.call(...)``.
* A handler that raises is logged. Its own acknowledgement is not sent; nothing else happens to anybody. An event whose
  arguments do not fit its handler is not the handler's fault: it is noted at level INFO.
* ``on_disconnect`` is called exactly once for each socket whose connect handler has returned without refusing, even if
  the client was gone by then. It is never called before the connect handler has returned.
"""

import asyncio
import inspect
import itertools
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from .asgi import EngineApp
from .engine import Connection, Engine, EngineSettings, Handshake
from .errors import BadPacket, CallTimeout, ConnectRefused, Disconnected
from .message import Message
from .packets import RESERVED_EVENTS, Decoder, Packet, PacketType, encode
from .requests import ASGIApp
from .session import Reason, Transport

log = logging.getLogger("herenow.socketio")

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings(EngineSettings):
    """How a server behaves. All times are in milliseconds, all sizes in bytes.

    Attributes:
        connect_timeout_ms: how long a client may be connected to no namespace before it is closed.
        max_packet: how much one packet may hold with its attachments.
        max_running: async handlers of one connection that run at a time, at most.
    """

    path: str = "/socket.io/"
    connect_timeout_ms: int = 45_000
    max_packet: int = 10_000_000
    max_running: int = 64

    def __post_init__(self) -> None:
        super(ServerSettings, self).__post_init__()  # the short form fails in a dataclass with slots
        for name in ("connect_timeout_ms", "max_packet", "max_running"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


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
        data: the application's to use; begins as ``None``.
    """

    __slots__ = ("_acks", "_connection", "_early", "_reason", "_state", "data", "id", "namespace")

    def __init__(self, namespace: "Namespace", connection: Connection) -> None:
        self.id = secrets.token_urlsafe(15)
        self.namespace = namespace
        self.data: Any = None
        self._reason: Reason | None = None
        self._connection = connection
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
        return self._connection.slow

    @property
    def handshake(self) -> Handshake:
        """The request that opened the connection: headers, query, address."""
        return self._connection.handshake

    @property
    def transport(self) -> str:
        """``polling`` or ``websocket``, as of now."""
        return self._connection.session.transport

    @property
    def last_pong_ms(self) -> float | None:
        """When the client last answered a ping, by the event loop's clock; ``None`` before the first."""
        return self._connection.last_pong_ms

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
            return self._connection.send(message)
        if self._state is _CLOSED:
            return False
        self._hold_back(message)
        return True

    def answer(self, message: Message) -> None:
        """Send an acknowledgement: even to a slow client, and behind what is still held back."""
        if self._state is _GREETED:
            self._hold_back(message)
        elif self._state is _CONNECTED:
            self._connection.push(message)

    def _hold_back(self, message: Message) -> None:
        if self._early is None:
            self._early = []
        self._early.append(message)
        if self._state is _GREETED and len(self._early) >= _MOST_EARLY:
            self.end_greeting()

    def end_greeting(self) -> None:
        """Send what was held back since the CONNECT; from now on, events go at once."""
        if self._state is _GREETED:
            self._state = _CONNECTED
            early, self._early = self._early or (), None
            for message in early:
                self._connection.push(message)

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
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise CallTimeout(f"no acknowledgement of {event!r} within {timeout_s:g} s") from error
        finally:
            self._acks.pop(ack_id, None)

    def disconnect(self, *, close: bool = False) -> None:
        """End the connection to this namespace, or with ``close`` the whole connection. Idempotent.

        The stock client does not come back by itself after the first, and does after the second.
        """
        if close:
            self.namespace.server.end_greetings(self._connection)
            self._connection.close()
        else:
            self.namespace.server.disconnect(self)


# The states of a socket. Events go at once in _CONNECTED; in the first two they are held back.
_CONNECTING: Final = "connecting"
_GREETED: Final = "greeted"
_CONNECTED: Final = "connected"
_CLOSED: Final = "closed"

GREETING_S: Final = 0.01
"""How long after a CONNECT the first event is held back, if the connect handler sent one. A client whose library hands
it all frames of one read in one turn, such as the published test suite's, registers for the next event only after it
has seen its CONNECT, and would miss one that came in the same segment. (At 3 ms, one run in sixteen of the published
suite still lost one on a machine that was busy.)"""

MAX_BACKLOG: Final = 64
"""Packets of one connection that may wait for its handlers; with more, nothing is read from it."""

MAX_BACKLOG_BYTES: Final = 65_536
"""And how much they may hold."""

_MOST_EARLY: Final = 100
"""Events that are held back, at most; with one more, all go."""


class Namespace:
    """A namespace that clients may connect to; made by :meth:`Server.namespace`.

    Attributes:
        name: begins with ``/``.
        sockets: the connected ones, by id. Do not change it.
    """

    def __init__(self, server: "Server", name: str) -> None:
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
                taken += socket._connection.link.send(message)
            else:
                taken += socket.send(message)
        return taken


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


class _Client:
    """What the server knows of a connection.

    Attributes:
        sockets: by namespace; ``former`` are the namespaces that it was in before.
        running: async handlers that run for it.
        backlog: packets that wait, each with its size; ``backlog_size`` is that of all.
        held: whether nothing is read because of the backlog.
        incoming: the size of the packet that is being received.
    """

    __slots__ = ("backlog", "backlog_size", "decoder", "former", "held", "incoming", "running", "sockets")

    def __init__(self, max_packet: int) -> None:
        self.decoder = Decoder(max_packet)
        self.sockets: dict[str, Socket] = {}
        # Made when they are needed: an idle connection should cost little, and there are many.
        self.former: frozenset[str] = frozenset()
        self.running = 0
        self.backlog: deque[tuple[Packet, int]] | None = None
        self.backlog_size = 0
        self.held = False
        self.incoming = 0

    def is_full(self) -> bool:
        """Whether more waits than may."""
        return len(self.backlog or ()) > MAX_BACKLOG or self.backlog_size > MAX_BACKLOG_BYTES


class Server:
    """A Socket.IO server.

    Args:
        settings: how it behaves; the defaults are those of the reference server.
    """

    def __init__(self, settings: ServerSettings | None = None) -> None:
        self.settings = settings or ServerSettings()
        self.engine = Engine(self, self.settings)
        self._namespaces: dict[str, Namespace] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop_handler: Callable[[], Any] | None = None

    def namespace(self, name: str = "/") -> Namespace:
        """Declare a namespace, or return it. Clients are refused any other.

        Raises:
            ValueError: the name does not begin with ``/``, or holds a comma or a question mark.
        """
        if not name.startswith("/") or "," in name or "?" in name:
            raise ValueError(f"a namespace begins with '/' and holds neither ',' nor '?': {name!r}")
        return self._namespaces.setdefault(name, Namespace(self, name))

    def on_stop(self, handler: Handler) -> Handler:
        """Register ``handler()``, sync: the server stops and is about to close all connections; it may still emit.

        Under ASGI's own WebSocket, uvicorn has closed the connections by then, unless :meth:`stop` was called first.
        """
        self._stop_handler = handler
        return handler

    def asgi_app(self, other: ASGIApp | None = None) -> EngineApp:
        """Return the ASGI application: this server at its path, ``other`` for the rest and for the lifespan.

        It wraps ``other`` rather than being mounted in it, so that it sees the lifespan: there the fast WebSocket finds
        its server, and there the server is stopped. See :class:`~.asgi.EngineApp` for how to stop fast.
        """
        return EngineApp(self.engine, other, on_shutdown=self.stop)

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Let nobody in any more, close every connection, and wait for the handlers that run.

        Those that still run after ``timeout_s`` seconds are cancelled.
        """
        self.engine.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def disconnect(self, socket: Socket) -> None:
        """End a socket's connection to its namespace. Idempotent."""
        if socket._state is _CLOSED:
            return
        socket.end_greeting()
        connection, namespace = socket._connection, socket.namespace
        was_connected = socket.connected
        self._forget(socket, Reason.SERVER)
        connection.push(Message(*encode(Packet(PacketType.DISCONNECT, namespace.name))))
        if was_connected:
            self._call_disconnect(socket, Reason.SERVER)

    def end_greetings(self, connection: Connection) -> None:
        """Send what is held back for the sockets of a connection."""
        for socket in list(connection.state.sockets.values()):
            socket.end_greeting()

    # -- engine.Application ----------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """A connection is open: now it must name a namespace in time."""
        connection.state = _Client(self.settings.max_packet)
        connection.set_timer(self.settings.connect_timeout_ms)

    def stopping(self) -> None:
        """The engine is about to close all connections."""
        for connection in self.engine.connections.values():
            if connection.is_open:
                self.end_greetings(connection)
        if self._stop_handler is not None:
            try:
                self._stop_handler()
            except Exception:  # the application's own
                log.exception("the stop handler raised")

    def due(self, connection: Connection) -> None:
        """The connection is in no namespace for too long."""
        client: _Client = connection.state
        if not any(socket.connected for socket in client.sockets.values()):
            connection.close()

    def received(self, connection: Connection, data: str | bytes) -> None:
        """A message came; when it completes a packet, act on it."""
        client: _Client = connection.state
        client.incoming += len(data)
        try:
            packet = client.decoder.feed(data)
            if packet is None:
                return
            size, client.incoming = client.incoming, 0
            if packet.type is PacketType.ACK or not (client.backlog or self._is_busy(connection, client)):
                self._packet(connection, client, packet)
                return
        except BadPacket as error:
            self._bad_packet(connection, error)
            return
        if client.backlog is None:
            client.backlog = deque()
        client.backlog.append((packet, size))
        client.backlog_size += size
        if client.is_full() and not client.held:
            client.held = True
            connection.hold()

    def _is_busy(self, connection: Connection, client: _Client) -> bool:
        return connection.slow or client.running >= self.settings.max_running

    def _work_off(self, connection: Connection) -> None:
        """Act on the packets that wait, as long as there is room for what comes of them."""
        client: _Client = connection.state
        while client.backlog and connection.is_open and not self._is_busy(connection, client):
            packet, size = client.backlog.popleft()
            client.backlog_size -= size
            try:
                self._packet(connection, client, packet)
            except BadPacket as error:
                self._bad_packet(connection, error)
        if client.held and not client.is_full():
            client.held = False
            connection.release()

    def _bad_packet(self, connection: Connection, error: BadPacket) -> None:
        log.info("session %s sent a bad packet: %s", connection.label, error)
        connection.refuse()

    def closed(self, connection: Connection, reason: Reason) -> None:
        """The connection is closed, and with it all its sockets."""
        client: _Client = connection.state
        client.backlog = None
        for socket in list(client.sockets.values()):
            was_connected = socket.connected
            self._forget(socket, reason)
            if was_connected:
                self._call_disconnect(socket, reason)

    def slow(self, connection: Connection) -> None:
        """Tell the sockets of a connection that became slow."""
        for socket in list(connection.state.sockets.values()):
            self._call(socket.namespace.slow_handler, socket)

    def drained(self, connection: Connection) -> None:
        """Tell the sockets of a connection that drained, then go on with what it asked for."""
        for socket in list(connection.state.sockets.values()):
            self._call(socket.namespace.drain_handler, socket)
        self._work_off(connection)

    # -- packets in ------------------------------------------------------------------------------------------------

    def _packet(self, connection: Connection, client: _Client, packet: Packet) -> None:
        socket = client.sockets.get(packet.namespace)
        if packet.type is PacketType.CONNECT:
            if socket is not None:
                raise BadPacket("a second CONNECT to a namespace")
            self._connect(connection, client, packet)
        elif socket is None:
            # "If the server does not receive a CONNECT packet first, then it MUST close the connection immediately."
            # But what crossed our own DISCONNECT on its way is no fault of the client's.
            if packet.namespace not in client.former:
                raise BadPacket("a packet for a namespace that was not connected")
        elif packet.type is PacketType.EVENT and socket.connected:
            self._event(connection, client, socket, packet)
        elif packet.type is PacketType.ACK and socket.connected:
            answer = (socket._acks or {}).pop(packet.id or 0, None)
            if answer is not None and not answer.done():
                answer.set_result(tuple(packet.data))
        elif packet.type is PacketType.DISCONNECT:
            was_connected = socket.connected
            self._forget(socket, Reason.CLIENT)
            if was_connected:
                self._call_disconnect(socket, Reason.CLIENT)
        else:
            raise BadPacket("a packet that a client does not send, or not before it is connected")

    def _connect(self, connection: Connection, client: _Client, packet: Packet) -> None:
        namespace = self._namespaces.get(packet.namespace)
        if namespace is None:
            self._refuse(connection, packet.namespace, ConnectRefused("Invalid namespace"))
            return
        socket = Socket(namespace, connection)
        client.sockets[namespace.name] = socket
        client.former -= {namespace.name}
        handler = namespace.connect_handler
        try:
            result = handler(socket, packet.data) if handler is not None else None
        except (Exception, asyncio.CancelledError) as error:  # the application's own
            self._connect_failed(socket, error)
            return
        if inspect.isawaitable(result):
            self._start(connection, self._finish_connect(socket, result))
        else:
            self._connected(socket)

    async def _finish_connect(self, socket: Socket, result: Awaitable[Any]) -> None:
        try:
            await result
        except (Exception, asyncio.CancelledError) as error:  # the application's own, or it awaited what was cancelled
            self._connect_failed(socket, error)
            _raise_if_cancelled(error)
        else:
            self._connected(socket)

    def _connected(self, socket: Socket) -> None:
        connection, namespace = socket._connection, socket.namespace
        if socket._state is _CLOSED:
            self._call_disconnect(socket, socket._reason or Reason.CLIENT)
            return
        socket._state = _GREETED
        namespace.sockets[socket.id] = socket
        connection.set_timer(None)
        connection.push(Message(*encode(Packet(PacketType.CONNECT, namespace.name, {"sid": socket.id}))))
        if socket._early and connection.session.transport is Transport.WEBSOCKET:
            asyncio.get_running_loop().call_later(GREETING_S, socket.end_greeting)
        else:
            socket.end_greeting()

    def _connect_failed(self, socket: Socket, error: BaseException) -> None:
        if not isinstance(error, ConnectRefused):
            log.error("the connect handler of %s raised", socket.namespace.name, exc_info=error)
            error = ConnectRefused("Internal error")
        if socket._state is not _CLOSED:
            self._forget(socket, Reason.SERVER)
            socket._connection.state.former -= {socket.namespace.name}
            self._refuse(socket._connection, socket.namespace.name, error)

    def _refuse(self, connection: Connection, namespace: str, refusal: ConnectRefused) -> None:
        data = {"message": refusal.message}
        if refusal.data is not None:
            data["data"] = refusal.data
        try:
            message = Message(*encode(Packet(PacketType.CONNECT_ERROR, namespace, data)))
        except (ValueError, TypeError):
            log.exception("what a connect handler of %s refused with cannot be encoded", namespace)
            message = Message(*encode(Packet(PacketType.CONNECT_ERROR, namespace, {"message": "Internal error"})))
        connection.push(message)

    def _event(self, connection: Connection, client: _Client, socket: Socket, packet: Packet) -> None:
        name, *args = packet.data
        registered = socket.namespace.handlers.get(name)
        handler = socket.namespace.unknown_handler if registered is None else registered.handler
        if registered is None:
            args = packet.data
        elif not registered.least <= len(args) <= registered.most:
            log.info("session %s sent %r with %d arguments", connection.label, name, len(args))
            return
        try:
            result = handler(socket, *args) if handler is not None else None
        except (Exception, asyncio.CancelledError) as error:  # the application's own: it harms nobody else
            self._event_failed(socket, name, error)
            return
        if inspect.isawaitable(result):
            self._start(connection, self._finish_event(socket, packet, result))
        else:
            self._acknowledge(socket, packet.id, result)

    async def _finish_event(self, socket: Socket, packet: Packet, result: Awaitable[Any]) -> None:
        try:
            self._acknowledge(socket, packet.id, await result)
        except (Exception, asyncio.CancelledError) as error:  # the application's own: it harms nobody else
            self._event_failed(socket, packet.data[0], error)
            _raise_if_cancelled(error)

    def _event_failed(self, socket: Socket, name: Any, error: BaseException) -> None:
        if isinstance(error, Disconnected | CallTimeout):
            log.info("the handler of %r in %s ended: %s", name, socket.namespace.name, error)
        else:
            log.error("the handler of %r in %s raised", name, socket.namespace.name, exc_info=error)

    def _acknowledge(self, socket: Socket, ack_id: int | None, result: Any) -> None:
        if not socket.connected:
            return
        if isinstance(result, Reply):
            if ack_id is None:
                socket.emit(*result.otherwise)
                return
            result = result.ack
        if ack_id is None:
            return
        data = list(result) if isinstance(result, tuple) else [] if result is None else [result]
        try:
            message = Message(*encode(Packet(PacketType.ACK, socket.namespace.name, data, ack_id)))
        except (ValueError, TypeError):
            log.exception("an acknowledgement in %s cannot be encoded", socket.namespace.name)
            return
        socket.answer(message)

    # -- handlers --------------------------------------------------------------------------------------------------

    def _start(self, connection: Connection, work: Any) -> None:
        """Run an async handler as a task, and go on with what waits when it has ended."""
        client: _Client = connection.state
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        client.running += 1

        def ended(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            client.running -= 1
            self._work_off(connection)

        task.add_done_callback(ended)

    def _forget(self, socket: Socket, reason: Reason) -> None:
        client: _Client = socket._connection.state
        socket._state = _CLOSED
        socket._reason = reason
        socket._early = None
        socket.namespace.sockets.pop(socket.id, None)
        client.sockets.pop(socket.namespace.name, None)
        client.former |= {socket.namespace.name}
        if not client.sockets and socket._connection.is_open:
            socket._connection.set_timer(self.settings.connect_timeout_ms)
        for answer in (socket._acks or {}).values():
            if not answer.done():
                answer.set_exception(Disconnected(f"{socket!r} disconnected: {reason}"))

    def _call_disconnect(self, socket: Socket, reason: Reason) -> None:
        self._call(socket.namespace.disconnect_handler, socket, reason)

    def _call(self, handler: Callable[..., Any] | None, socket: Socket, *args: Any) -> None:
        """Call a handler that is owed no answer."""
        if handler is None:
            return
        try:
            result = handler(socket, *args)
        except Exception:  # the application's own
            log.exception("a handler of %s raised", socket.namespace.name)
            return
        if inspect.isawaitable(result):
            self._start(socket._connection, self._finish_call(socket, result))

    async def _finish_call(self, socket: Socket, result: Awaitable[Any]) -> None:
        try:
            await result
        except Exception:  # the application's own
            log.exception("a handler of %s raised", socket.namespace.name)


def _raise_if_cancelled(error: BaseException) -> None:
    """Go on with a cancellation that was meant for this task, and not for something that it awaited."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
