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
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from herenow.logs import get_logger
from herenow.sparing import Sparing, alike
from herenow.steady import Steady
from herenow.supervision import OnFault

from .client import Peer
from .engineio.connection import Connection
from .engineio.engine import Engine
from .engineio.session import Reason
from .errors import BadPacket, CallTimeout, ConnectRefused, Disconnected
from .message import Message
from .namespace import Handler, Namespace, Reply, Socket
from .packets import Packet, PacketType, encode
from .settings import ServerSettings
from .transports.asgi import EngineApp
from .transports.requests import ASGIApp

log = get_logger("herenow.socketio")

MAX_HELLO: Final = 131_072
"""Bytes of a message from a connection that is in no namespace, at most: what a stranger sends is a CONNECT."""

MAX_REFUSALS: Final = 10
"""So many CONNECTs of one connection are refused; with one more it is closed. Each may cost a look into a database."""


class Server:
    """A Socket.IO server.

    Args:
        settings: how it behaves; the defaults are those of the reference server.
        clock: by which clients are waited for, where an application has one for all its parts.
    """

    def __init__(self, settings: ServerSettings | None = None, *, clock: Steady | None = None) -> None:
        self.settings = settings or ServerSettings()
        self.greeting_s = self.settings.greeting_ms / 1000
        self.engine = Engine(self, self.settings, clock)
        self._sparing = Sparing()
        self._namespaces: dict[str, Namespace] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop_handler: Callable[[], Any] | None = None

    def supervise(self, on_fault: OnFault) -> None:
        """Have what raises in the server's own work reported; by default the event loop's exception handler is told."""
        self.engine.supervise(on_fault)

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
        its server, and there the server is stopped. See :class:`~.transports.asgi.EngineApp` for how to stop fast.
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

    def disconnect(self, socket: Socket, *, close: bool = False) -> None:
        """See :meth:`Socket.disconnect`."""
        connection = socket.connection
        if close:
            try:
                self._end_greetings(connection)
            finally:
                # Who has left the namespace has been told to stay away.
                connection.close(may_return=socket.reason is None)
        elif socket.reason is None:
            socket.end_greeting()
            was_connected = socket.connected
            self._forget(socket, Reason.SERVER)
            if was_connected:
                self._call_disconnect(socket, Reason.SERVER)
            connection.push(Message(*encode(Packet(PacketType.DISCONNECT, socket.namespace.name))))

    def _end_greetings(self, connection: Connection) -> None:
        for socket in list(connection.state.sockets.values()):
            socket.end_greeting()

    # -- engine.Application ----------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """A connection is open: now it must name a namespace in time."""
        connection.state = Peer(self.settings.max_packet)
        connection.set_timer(self.settings.connect_timeout_ms)

    def stopping(self) -> None:
        """The engine is about to close all connections."""
        for connection in list(self.engine.connections.values()):
            if connection.is_open:
                try:
                    self._end_greetings(connection)
                except Exception as error:  # of one
                    self.engine.on_fault("closing", error)
        if self._stop_handler is not None:
            try:
                self._stop_handler()
            except Exception:  # the application's own
                log.exception("the stop handler raised")

    def due(self, connection: Connection) -> None:
        """The connection is in no namespace for too long."""
        client: Peer = connection.state
        if not any(socket.connected for socket in client.sockets.values()):
            self.engine.on_refused("connect_timeout")
            connection.close()

    def received(self, connection: Connection, data: str | bytes) -> None:
        """A message came; when it completes a packet, act on it."""
        client: Peer = connection.state
        client.incoming += len(data)
        try:
            if client.incoming > MAX_HELLO and not client.sockets:
                raise BadPacket("a message that is too large for one that is in no namespace")
            packet = client.decoder.feed(data)
            if packet is None:
                return
            size, client.incoming = client.incoming, 0
            if packet.type is PacketType.ACK or not (client.backlog or self._is_busy(connection, client)):
                self._packet(connection, client, packet)
                return
        except BadPacket as error:
            connection.refuse(str(error))
            return
        if client.backlog is None:
            client.backlog = deque()
        client.backlog.append((packet, size))
        client.backlog_size += size
        if client.is_full() and not client.held:
            client.held = True
            connection.hold()

    def _is_busy(self, connection: Connection, client: Peer) -> bool:
        return connection.slow or client.running >= self.settings.max_running

    def _work_off(self, connection: Connection) -> None:
        """Act on the packets that wait, as long as there is room for what comes of them."""
        client: Peer = connection.state
        while client.backlog and connection.is_open and not self._is_busy(connection, client):
            packet, size = client.backlog.popleft()
            client.backlog_size -= size
            try:
                self._packet(connection, client, packet)
            except BadPacket as error:
                connection.refuse(str(error))
        if client.held and not client.is_full():
            client.held = False
            connection.release()

    def closed(self, connection: Connection, reason: Reason) -> None:
        """The connection is closed, and with it all its sockets."""
        client: Peer = connection.state
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

    def _packet(self, connection: Connection, client: Peer, packet: Packet) -> None:
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
            socket.acknowledged(packet.id or 0, packet.data)
        elif packet.type is PacketType.DISCONNECT:
            was_connected = socket.connected
            self._forget(socket, Reason.CLIENT)
            if was_connected:
                self._call_disconnect(socket, Reason.CLIENT)
        else:
            raise BadPacket("a packet that a client does not send, or not before it is connected")

    def _connect(self, connection: Connection, client: Peer, packet: Packet) -> None:
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
        if socket.reason is not None:
            self._call_disconnect(socket, socket.reason)
            return
        socket.namespace.sockets[socket.id] = socket
        socket.connection.set_timer(None)
        socket.let_in()

    def _connect_failed(self, socket: Socket, error: BaseException) -> None:
        if not isinstance(error, ConnectRefused):
            self._sparing.say(
                log.error,
                "a connect handler raised",
                of=alike(error),
                namespace=socket.namespace.name,
                exc_info=error,
            )
            error = ConnectRefused("Internal error")
        if socket.reason is None:
            self._forget(socket, Reason.SERVER)
            socket.connection.state.former -= {socket.namespace.name}
            self._refuse(socket.connection, socket.namespace.name, error)

    def _refuse(self, connection: Connection, namespace: str, refusal: ConnectRefused) -> None:
        data = {"message": refusal.message}
        if refusal.data is not None:
            data["data"] = refusal.data
        try:
            message = Message(*encode(Packet(PacketType.CONNECT_ERROR, namespace, data)))
        except Exception as error:  # the application's own
            event = "what a connect handler refused with cannot be encoded"
            self._sparing.say(log.exception, event, of=alike(error), namespace=namespace)
            message = Message(*encode(Packet(PacketType.CONNECT_ERROR, namespace, {"message": "Internal error"})))
        connection.push(message)
        client: Peer = connection.state
        client.refusals += 1
        if client.refusals > MAX_REFUSALS:
            connection.close()

    def _event(self, connection: Connection, client: Peer, socket: Socket, packet: Packet) -> None:
        name, *args = packet.data
        registered = socket.namespace.handlers.get(name)
        handler = socket.namespace.unknown_handler if registered is None else registered.handler
        if registered is None:
            args = packet.data
        elif not registered.least <= len(args) <= registered.most:
            event = "an event has the wrong number of arguments"
            self._sparing.say(log.info, event, of=name, session=connection.label, name=name, number=len(args))
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
        known = name if name in socket.namespace.handlers else "another"  # no client fills the log with names
        about = {"name": known, "namespace": socket.namespace.name}
        if isinstance(error, Disconnected | CallTimeout):
            self._sparing.say(log.info, "a handler ended", of=known, **about, reason=str(error))
        else:
            self._sparing.say(log.error, "a handler raised", of=(known, alike(error)), **about, exc_info=error)

    def _acknowledge(self, socket: Socket, ack_id: int | None, result: Any) -> None:
        if not socket.connected:
            return
        try:
            if isinstance(result, Reply):
                if ack_id is None:
                    socket.emit(*result.otherwise)
                    return
                result = result.ack
            if ack_id is None:
                return
            data = list(result) if isinstance(result, tuple) else [] if result is None else [result]
            message = Message(*encode(Packet(PacketType.ACK, socket.namespace.name, data, ack_id)))
        except Exception as error:  # the application's own: what it answers cannot be encoded
            event = "what a handler answered with cannot be encoded"
            self._sparing.say(log.exception, event, of=alike(error), namespace=socket.namespace.name)
            return
        socket.answer(message)

    # -- handlers --------------------------------------------------------------------------------------------------

    def _start(self, connection: Connection, work: Any) -> None:
        """Run an async handler as a task, and go on with what waits when it has ended."""
        client: Peer = connection.state
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        client.running += 1

        def ended(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            client.running -= 1
            self._work_off(connection)

        task.add_done_callback(ended)

    def _forget(self, socket: Socket, reason: Reason) -> None:
        client: Peer = socket.connection.state
        socket.end(reason)
        socket.namespace.sockets.pop(socket.id, None)
        client.sockets.pop(socket.namespace.name, None)
        client.former |= {socket.namespace.name}
        if not client.sockets and socket.connection.is_open:
            socket.connection.set_timer(self.settings.connect_timeout_ms)

    def _call_disconnect(self, socket: Socket, reason: Reason) -> None:
        self._call(socket.namespace.disconnect_handler, socket, reason)

    def _call(self, handler: Callable[..., Any] | None, socket: Socket, *args: Any) -> None:
        """Call a handler that is owed no answer."""
        if handler is None:
            return
        try:
            result = handler(socket, *args)
        except Exception as error:  # the application's own
            self._call_failed(socket, error)
            return
        if inspect.isawaitable(result):
            self._start(socket.connection, self._finish_call(socket, result))

    async def _finish_call(self, socket: Socket, result: Awaitable[Any]) -> None:
        try:
            await result
        except Exception as error:  # the application's own
            self._call_failed(socket, error)

    def _call_failed(self, socket: Socket, error: Exception) -> None:
        self._sparing.say(
            log.error, "a handler raised", of=alike(error), namespace=socket.namespace.name, exc_info=error
        )


def _raise_if_cancelled(error: BaseException) -> None:
    """Go on with a cancellation that was meant for this task, and not for something that it awaited."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
