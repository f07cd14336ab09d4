"""Shell 2: Engine.IO under any ASGI server. Polling always comes this way; so does WebSocket where the fast one is not.

:class:`EngineApp` answers the engine's path and hands everything else to the application beside it. It also leaves the
engine in the lifespan state, where the fast WebSocket finds it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from types import coroutine
from typing import Any, Final

from herenow.logs import get_logger
from herenow.progress import Progress, hold_little, progress_of, transport_behind

from ..closing import CLOSE_TIMEOUT_MS, Cut
from ..engineio.connection import Connection
from ..engineio.engine import STATE_KEY, Engine
from ..engineio.session import MESSAGE_COST, Reason, Transport
from ..engineio.turns import Allowance
from ..errors import RequestRefused
from ..message import Message, asgi_send
from ..on_uvicorn.shortcut import Shortcut
from .polling import PollingRequest
from .requests import (
    ASGIApp,
    Receive,
    Scope,
    Send,
    handshake_of,
    hide_secrets,
    peer_of,
    respond,
)

log = get_logger("herenow.socketio")

HEARS_WITHIN_S: Final = 0.1
"""So long after a send has failed, the server has said why, if it knows."""

_SENT: Final = object()

_TEXT: Final = (b"content-type", b"text/plain; charset=UTF-8")


class EngineApp:
    """An ASGI application that serves one engine.

    Args:
        engine: what to serve, at its path. What of ``root_path`` stands before that does not count, be it from a
            proxy, a server's setting or an application that this one is mounted in.
        other: gets every request for another path, and the lifespan; without it they are answered 404.
        on_shutdown: awaited when the lifespan ends, after the engine has stopped.

    uvicorn ends the lifespan only after all requests have ended. A polling GET may wait for as long as the ping
    interval: to stop faster, call :meth:`Engine.stop` on the signal, or give uvicorn ``--timeout-graceful-shutdown``.
    """

    def __init__(
        self,
        engine: Engine,
        other: ASGIApp | None = None,
        *,
        on_shutdown: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.engine = engine
        self._other = other
        self._on_shutdown = on_shutdown
        hide_secrets()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif not self._serves(scope):
            await self._elsewhere(scope, receive, send)
        else:
            await self._serve(kind, scope, receive, send)

    async def _serve(self, kind: str, scope: Scope, receive: Receive, send: Send) -> None:
        self.engine.heard_on(scope.get("server"))
        if kind == "http":
            await PollingRequest(self.engine, scope, receive, send).serve(self._elsewhere_by(scope))
        elif kind == "websocket":
            await _serve_websocket(self.engine, scope, receive, send)

    def _elsewhere_by(self, scope: Scope) -> Path | None:
        siblings = self.engine.siblings
        number = None if siblings is None else siblings.owner_of(scope["query_string"].decode("latin-1"))
        return None if siblings is None or number is None else siblings.http_path(number)

    def _serves(self, scope: Scope) -> bool:
        path, root, ours = scope["path"], scope.get("root_path", ""), self.engine.settings.path
        before, found, behind = path.rpartition(ours.rstrip("/"))
        return bool(found) and behind in ("", "/") and root.startswith(before)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (state := scope.get("state")) is not None:
            state.setdefault(STATE_KEY, {})[self.engine.settings.path] = self.engine

        async def receive_and_stop() -> MutableMapping[str, Any]:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.engine.start_again()
            else:
                self.engine.stop()
                if self._on_shutdown is not None:
                    await self._on_shutdown()
            return message

        if self._other is not None:
            await self._other(scope, receive_and_stop, send)
            return
        while True:
            message = await receive_and_stop()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._other is not None:
            await self._other(scope, receive, send)
        elif scope["type"] == "http":
            await respond(send, 404, b"Not found", [_TEXT])
        else:
            await receive()
            await send({"type": "websocket.close"})


async def _serve_websocket(engine: Engine, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    try:
        query = scope["query_string"].decode("latin-1")
        connection = engine.admit(Transport.WEBSOCKET, "GET", query, scope["headers"], peer_of(scope))
    except RequestRefused:
        # The server answers 403. ASGI's extension for another status makes uvicorn log an error for each refusal.
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    link = AsgiWebSocket(engine, send)
    if connection is None:
        connection = link.connection = engine.open(Transport.WEBSOCKET, link, handshake_of(scope))
        engine.start(connection)
    elif engine.websocket_opened(connection, link):
        link.connection = connection
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": "the session has a WebSocket already"})
        return
    await link.serve(receive)


class AsgiWebSocket:
    """The way to a client over an ASGI server's WebSocket.

    ASGI's ``send`` is a coroutine, but one that an idle server finishes without ever waiting. So it is stepped by hand,
    right where a message is sent, and only when it does wait, for a peer that does not read, does a task take over.
    Both step it as the task that serves the WebSocket: a middleware may have put a time limit around it, which cancels
    the task that it finds itself in, and that must not be somebody else's.
    What goes to many has its frames built once, and takes the :class:`~.shortcut.Shortcut` where there is one.
    """

    __slots__ = ("_closed", "_engine", "_gave_up", "_pump", "_queue", "_queued", "_released", "_send", "_settings",
                 "_shortcut", "_taken", "_task", "_transport", "connection", "full")  # fmt: skip

    def __init__(self, engine: Engine, send: Send) -> None:
        self.connection: Connection | None = None
        self.full = False
        self._settings = engine.settings
        self._engine = engine
        self._send = send
        self._shortcut = Shortcut.past(send)
        self._queue: deque[MutableMapping[str, Any]] = deque()
        self._queued = 0
        self._pump: asyncio.Task[None] | None = None
        self._closed = False
        self._gave_up = False
        self._released: asyncio.Future[None] | None = None
        self._task = _this_task()
        self._taken = 0
        self._transport = transport_behind({}, send)
        if self._transport is not None:
            hold_little(self._transport)

    async def serve(self, receive: Receive) -> None:
        """Feed the session until the WebSocket is gone, or this is cancelled: then it takes the session with it."""
        allowance = Allowance()
        try:
            while True:
                await self._may_read()
                message = await receive()
                now_s = monotonic()
                clock = allowance.clock(now_s)
                began_s = clock()
                if message["type"] == "websocket.disconnect":
                    # 1000, 1001 and 1005 are a peer's goodbye; 1006 is a socket that broke, or just went.
                    self._lost(error=False)
                    break
                self._received(message)
                spent_s = clock() - began_s
                allowance.spend(now_s, spent_s)
                if allowance.is_spent(monotonic()):
                    await self._engine.turns.wait(spent_s)
            if self._pump is not None:
                await self._pump
        except asyncio.CancelledError:
            if not self._gave_up:
                raise
            # It was ours: the patience with a peer that does not read, or does not go, is at its end.
        finally:
            self._lost(error=True)
            if self._pump is not None:
                self._pump.cancel()

    def _received(self, message: MutableMapping[str, Any]) -> None:
        connection = self.connection
        if connection is None:
            return
        data: str | bytes | None = message.get("bytes")
        if data is None:
            data = message["text"]
        if len(data.encode() if isinstance(data, str) else data) > self._settings.max_payload:
            connection.engine.note_fault(connection, "a message of more than max_payload")
            self._lost(error=True, code=1009)
            return
        connection.engine.websocket_received(connection, self, data)

    async def _may_read(self) -> None:
        while self.connection is not None and self.connection.held and self.connection.link is self:
            self._released = asyncio.get_running_loop().create_future()
            await self._released

    def _lost(self, *, error: bool, code: int = 1000) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            self._close(code, "")
            connection.engine.websocket_lost(connection, self, error=error)

    # -- engine.WebSocketLink --------------------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        """Send a message, or have it queued behind what the server has not taken yet."""
        if self.full or self._closed:
            return False
        shortcut = self._shortcut
        if shortcut is None or self._pump is not None or not shortcut.write(message.frames()):
            self._put(message.asgi())
        return True

    def write(self, packets: Sequence[str | bytes]) -> None:
        """Send packets even when full."""
        if not self._closed:
            self._put([asgi_send(packet) for packet in packets])

    def flush(self) -> None:
        """Send what the session has queued."""
        if self.connection is not None and (out := self.connection.session.data_to_send()):
            self.write(out)

    def close(self, reason: Reason) -> None:
        """Flush, then close the WebSocket; who is to come back gets no close frame, where the transport can be seen."""
        self.flush()
        connection, self.connection = self.connection, None
        if reason is Reason.SENT_AWAY and self._transport is not None:
            self._hang_up(self._transport)
            return
        self._close(self._engine.close_code(reason), reason if connection is None else connection.last_words(reason))

    def _close(self, code: int, reason: str) -> None:
        if self._closed:
            return
        self._put([{"type": "websocket.close", "code": code, "reason": reason}])
        self._closed = True
        self.release()
        self._give_up_later()

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """End the connection as the network does (decision 037), once what waits for it is sent."""
        if self._closed:
            return
        self._closed = True
        self.release()
        if self._pump is None:
            transport.close()
        else:
            self._pump.add_done_callback(lambda _: transport.close())
        Cut(transport, self._engine.clock)  # or what the peer does not read holds the socket for ever
        self._give_up_later()

    def _give_up_later(self) -> None:
        self._engine.clock.call_later(CLOSE_TIMEOUT_MS / 1000, self._give_up)

    def _give_up(self) -> None:
        """The peer has not answered the close frame, or does not even read: leave."""
        if not self._task.done():
            self._gave_up = True
            self._task.cancel()

    def hold(self) -> None:
        """Stop reading: :meth:`serve` asks before each message."""

    def release(self) -> None:
        """Read again."""
        if self._released is not None and not self._released.done():
            self._released.set_result(None)

    def progress(self) -> Progress:
        """How far the peer has come; where the transport is hidden, what the server has taken."""
        acknowledged, waiting = (0, 0) if self._transport is None else progress_of(self._transport)
        return Progress(self._taken + acknowledged, self._queued + waiting + (self._pump is not None))

    def forget(self) -> None:
        """Drop the connection, which is over."""
        self.connection = None

    # -- sending ---------------------------------------------------------------------------------------------------

    def _put(self, items: Iterable[MutableMapping[str, Any]]) -> None:
        for item in items:
            if self._pump is not None:
                self._enqueue(item)
                continue
            sending = self._send(item).__await__()
            try:
                awaited = _as(self._task, partial(next, sending, _SENT))
            except (Exception, asyncio.CancelledError) as error:  # whatever is raised for a peer that is gone
                log.debug("an ASGI server's send failed", error=repr(error))
                # Not at once: the caller may be in the middle of a loop over many connections.
                asyncio.get_running_loop().call_soon(self._broken)
                return
            if awaited is not _SENT:
                self._pump = asyncio.get_running_loop().create_task(self._drain(_rest(self._task, sending, awaited)))

    def _enqueue(self, item: MutableMapping[str, Any]) -> None:
        self._queue.append(item)
        self._queued += _size(item)
        if not self.full and self._queued > self._settings.write_buffer_high:
            self.full = True
            if self.connection is not None and self.connection.link is self:
                self.connection.became_slow()

    async def _drain(self, rest: Awaitable[None]) -> None:
        try:
            await rest
            while self._queue:
                item = self._queue.popleft()
                self._queued -= _size(item)
                sending = self._send(item).__await__()
                awaited = _as(self._task, partial(next, sending, _SENT))
                if awaited is not _SENT:
                    await _rest(self._task, sending, awaited)
                self._taken += 1
                if self.full and self._queued <= self._settings.write_buffer_low:
                    self._drained()
        except (Exception, asyncio.CancelledError) as error:  # whatever is raised for a peer that is gone
            log.debug("an ASGI server's send failed", error=repr(error))
            self._queue.clear()
            self._queued = 0
            self._broken()
        finally:
            self._pump = None

    def _drained(self) -> None:
        self.full = False
        if self.connection is not None and self.connection.link is self:
            self.connection.became_drained()

    def _broken(self) -> None:
        if not self._closed:
            self._closed = True
            self._give_up_later()  # it may have been a middleware that broke it: then the server knows of no end
        self.release()
        # First hear the server say how the peer went: one that closed is none that broke.
        asyncio.get_running_loop().call_later(HEARS_WITHIN_S, partial(self._lost, error=True))


def _size(item: MutableMapping[str, Any]) -> int:
    return len(item.get("text") or item.get("bytes") or b"") + MESSAGE_COST


@coroutine
def _rest(task: asyncio.Task[Any], steps: Generator[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """Go on with an awaitable whose first step was taken by hand, as ``task``, and gave ``awaited`` to wait for."""
    try:
        while True:
            try:
                result = yield awaited
            except BaseException as error:
                awaited = _as(task, partial(steps.throw, error))
            else:
                awaited = _as(task, partial(steps.send, result))
    except StopIteration:
        return


def _as(task: asyncio.Task[Any], step: Callable[[], Any]) -> Any:
    """Take a step of a coroutine so that it finds itself in ``task``, whoever takes it.

    The switch is what asyncio's documentation names for those who step coroutines ("Extending asyncio").
    """
    loop, current = asyncio.get_running_loop(), asyncio.current_task()
    if current is task:
        return step()
    if current is not None:
        asyncio.tasks._leave_task(loop, current)
    asyncio.tasks._enter_task(loop, task)
    try:
        return step()
    finally:
        asyncio.tasks._leave_task(loop, task)
        if current is not None:
            asyncio.tasks._enter_task(loop, current)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("an ASGI application runs in a task")
    return task
