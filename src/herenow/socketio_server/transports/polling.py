"""Shell 2, polling: one HTTP request of Engine.IO's long-polling transport, under any ASGI server."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Final

from herenow.progress import HIDDEN, Progress, hold_little, progress_of, transport_behind

from .. import packets
from ..engineio.connection import Connection, find_header
from ..engineio.engine import Engine
from ..engineio.session import Reason, Transport
from ..engineio.turns import READ_SLICE, TURN_S
from ..errors import BadPacket, RequestRefused, TooLarge
from ..message import Message
from .forwarding import forward
from .requests import (
    ClientGone,
    Headers,
    Receive,
    Scope,
    Send,
    handshake_of,
    peer_of,
    read_body,
    refusal_body,
    respond,
)

_TEXT: Final = (b"content-type", b"text/plain; charset=UTF-8")
_JSON: Final = (b"content-type", b"application/json")


class PollingLink:
    """The way to a polling client: the GET that waits, if one does."""

    __slots__ = ("_released", "_taken", "_transport", "_unsent", "_waiter", "connection", "full")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.full = False
        self._waiter: asyncio.Future[str] | None = None
        self._released: asyncio.Future[None] | None = None
        self._taken = 0  # of all that went before the transport of the latest answer; and each GET, which shows life
        self._unsent = 0  # of the answer that is given to the ASGI server
        self._transport: asyncio.Transport | None = None

    def send(self, message: Message) -> bool:
        """Queue a message for the next GET, or for the one that waits."""
        connection = self.connection
        if self.full or connection is None or not connection.is_open:
            return False
        connection.session.send(*message.messages)
        self.flush()
        return True

    def flush(self) -> None:
        """Answer the GET that waits, if there is something to say."""
        connection = self.connection
        if connection is None:
            return
        if self._waiter is not None and not self._waiter.done():
            body = connection.session.poll_data()
            if body is not None:
                self._waiter.set_result(body)
        settings = connection.engine.settings
        if not self.full and connection.session.queued > settings.write_buffer_high:
            self.full = True
            connection.became_slow()
        elif self.full and connection.session.queued <= settings.write_buffer_low:
            self.full = False
            connection.became_drained()

    def close(self, reason: Reason) -> None:
        """Say the last words."""
        self.flush()
        self.release()

    def hold(self) -> None:
        """Let the POST that is under way wait."""

    def release(self) -> None:
        """Let the POST that is under way go on."""
        if self._released is not None and not self._released.done():
            self._released.set_result(None)

    def forget(self) -> None:
        """Drop the connection, which is over."""
        self.connection = self._transport = None

    async def released(self) -> None:
        """Wait until the connection is held no more, or closed, or has moved to its WebSocket."""
        while self.connection is not None and self.connection.held and self.is_current:
            self._released = asyncio.get_running_loop().create_future()
            await self._released

    @property
    def is_current(self) -> bool:
        """Whether the session is open and polling still carries it."""
        return self.connection is not None and self.connection.is_open and self.connection.link is self

    def progress(self) -> Progress:
        """How far the client has come with its answers; what is for the next one is out of sight."""
        acknowledged, waiting = (0, 0) if self._transport is None else progress_of(self._transport)
        if self.connection is not None and self.connection.session.has_more:
            waiting += HIDDEN
        return Progress(self._taken + acknowledged, self._unsent + waiting)

    def answering(self, size: int) -> None:
        """An answer begins that has so many bytes."""
        self._unsent = size

    def taken(self, size: int) -> None:
        """The ASGI server has taken so many of them, for which the client may have had to take others."""
        self._unsent -= size
        if self._transport is None:
            self._taken += size

    def begin(self, transport: asyncio.Transport | None) -> "asyncio.Future[str]":
        """A GET begins to wait; its body comes by the future. ``transport`` is the one under it, if that is known."""
        if transport is not self._transport:
            if self._transport is not None:
                self._taken += max(0, progress_of(self._transport).acknowledged)
            self._transport = transport
        self._taken += 1
        self._waiter = asyncio.get_running_loop().create_future()
        self.flush()
        return self._waiter


class PollingRequest:
    """One HTTP request of the polling transport."""

    def __init__(self, engine: Engine, scope: Scope, receive: Receive, send: Send) -> None:
        self._engine = engine
        self._scope = scope
        self._receive = receive
        self._send = send
        self._cors: Headers = []

    async def serve(self, owner: Path | None) -> None:
        """Answer the request; ``owner``: the socket of another process, whose session it is for."""
        method, headers = self._scope["method"], self._scope["headers"]
        try:
            self._cors = _cors_headers(self._engine, headers)
            if method == "OPTIONS":
                await respond(self._send, 204, b"", [*self._cors, *_preflight(headers)])
                return
            if owner is not None:
                await self._forward(owner)
                return
            query = self._scope["query_string"].decode("latin-1")
            connection = self._engine.admit(Transport.POLLING, method, query, headers, peer_of(self._scope))
            if connection is None:
                await self._open()
            elif method == "GET":
                await self._poll(connection)
            else:
                await self._post(connection)
        except RequestRefused as refusal:
            await respond(self._send, refusal.status, refusal_body(refusal), [_JSON, *self._cors])

    def _transport(self) -> asyncio.Transport | None:
        transport = transport_behind(self._scope, self._send)
        if transport is not None:
            hold_little(transport)
        return transport

    async def _answer(self, body: str) -> bool:
        headers = [_TEXT, (b"cache-control", b"no-store"), *self._cors]
        return await respond(self._send, 200, body.encode(), headers)

    async def _answer_poll(self, connection: Connection, link: PollingLink, body: str) -> None:
        """Answer a GET. If that fails, or is cancelled, the packets in it are lost, and so is the session."""
        is_sent = False
        try:
            data, headers = body.encode(), [_TEXT, (b"cache-control", b"no-store"), *self._cors]
            link.answering(len(data))
            is_sent = await respond(self._send, 200, data, headers, link.taken)
        finally:
            if not is_sent and link.is_current:
                self._engine.handle(connection, connection.session.transport_lost(error=True))

    async def _open(self) -> None:
        link = PollingLink()
        link.connection = connection = self._engine.open(Transport.POLLING, link, handshake_of(self._scope))
        connection.session.begin_poll()
        body = link.begin(self._transport())
        self._engine.start(connection)
        await self._answer_poll(connection, link, await body)

    async def _poll(self, connection: Connection) -> None:
        link = connection.link
        if not isinstance(link, PollingLink):
            raise AssertionError("a session that polls has no polling link")
        if refused := connection.session.begin_poll():
            self._engine.handle(connection, refused)
            raise RequestRefused(connection.session.fault)
        body = link.begin(self._transport())
        if not connection.is_open:
            self._engine.forget(connection)  # these were its last words
        if not body.done():
            gone = asyncio.ensure_future(_until_gone(self._receive))
            try:
                await asyncio.wait((body, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                if not body.done():
                    # The client gave the request up (or the server is being torn down): nobody is there.
                    self._engine.handle(connection, connection.session.transport_lost())
        if not body.cancelled() and body.done():
            await self._answer_poll(connection, link, body.result())

    async def _forward(self, owner: Path) -> None:
        """Pass the request on, with as much of a body that is too long as lets the owner refuse it."""
        try:
            body = await self._read_body()
        except (ClientGone, TimeoutError) as error:
            raise RequestRefused from error
        await forward(owner, self._scope, body, self._receive, self._send)

    async def _read_body(self) -> bytes:
        """Read the body for no longer than a session lives that is silent, and while it posts a polling client is."""
        settings = self._engine.settings
        async with self._engine.clock.timeout((settings.ping_interval_ms + settings.ping_timeout_ms) / 1000):
            return await read_body(self._receive, settings.max_payload)

    async def _post(self, connection: Connection) -> None:
        link, session, settings = connection.link, connection.session, self._engine.settings
        if not isinstance(link, PollingLink):
            raise AssertionError("a session that polls has no polling link")
        if refused := session.begin_post():
            self._engine.handle(connection, refused)
            raise RequestRefused(session.fault)
        try:
            announced = find_header(self._scope["headers"], b"content-length")
            if announced is not None and announced.isascii() and announced.isdigit():
                _refuse_above(settings.max_payload, int(announced[:20]))
            body = await self._read_body()
            _refuse_above(settings.max_payload, len(body))
            if len(body) > READ_SLICE:
                await self._engine.turns.wait()
            began_s = monotonic()
            for packet in packets.split_payload(body):
                if (spent_s := monotonic() - began_s) > TURN_S:
                    await self._engine.turns.wait(spent_s)
                    began_s = monotonic()
                await link.released()
                if link.is_current:
                    self._engine.handle(connection, session.receive(packet))
        except (BadPacket, TooLarge, TimeoutError, ClientGone, asyncio.CancelledError) as error:
            lost = isinstance(error, ClientGone | TimeoutError | asyncio.CancelledError)
            if link.is_current:  # a session that has moved on is none of this request's business
                fault = "a message of more than max_payload" if isinstance(error, TooLarge) else str(error)
                self._engine.handle(connection, session.transport_lost(error=True) if lost else session.refuse(fault))
            if isinstance(error, TooLarge | asyncio.CancelledError):
                raise
        finally:
            session.end_post()
        if session.reason is not Reason.CLIENT and not link.is_current:
            raise RequestRefused(session.fault)
        await self._answer("ok")


def _refuse_above(limit: int, length: int) -> None:
    if length > limit:
        raise TooLarge


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _preflight(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return what lets the page send the request: the origin is allowed, so are the headers that it adds."""
    asked = find_header(headers, b"access-control-request-headers") or "content-type"
    return [
        (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
        (b"access-control-allow-headers", asked.encode("latin-1")),
        (b"access-control-max-age", b"600"),
    ]


def _cors_headers(engine: Engine, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return what lets the page read the answer. Cookies may come along only where the origins are named one by one.

    Raises:
        Forbidden: the origin is not allowed.
    """
    origin = engine.check_origin(headers)
    if origin is None:
        return []
    if engine.settings.origins == "*":
        return [(b"access-control-allow-origin", b"*")]
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"Origin"),
    ]
