"""A request that is another process's, passed on by HTTP over a local socket, and its answer passed back."""

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import httptools

from ..errors import UnknownSession
from .requests import Headers, Receive, Scope, Send

_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"expect", b"content-length")
)
"""Headers that are about one connection."""

READ: Final = 65_536


class _Answer:
    """The answer, as the parser finds it."""

    def __init__(self) -> None:
        self.headers: Headers = []
        self.parts: list[bytes] = []
        self.has_head = self.is_whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() not in _HOP or name.lower() == b"content-length":
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.is_whole = True


async def forward(path: Path, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Have another process answer a request of HTTP.

    Args:
        path: of the socket on which it listens.
        scope: of the request, as ASGI has it.
        body: of the request.
        receive: says when the client goes away.
        send: takes the answer.

    Raises:
        UnknownSession: the other process is not there, and so the session is not either.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError as error:
        raise UnknownSession from error
    try:
        writer.write(_head(scope, len(body)) + body)
        gone = asyncio.ensure_future(_until_gone(receive))
        passing = asyncio.ensure_future(_pass_back(reader, send))
        try:
            await asyncio.wait((gone, passing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            passing.cancel()
            _, answered = await asyncio.gather(gone, passing, return_exceptions=True)
    finally:
        writer.transport.abort()  # the other one sees that nobody waits any more
    if isinstance(answered, UnknownSession):
        raise answered


def _head(scope: Scope, length: int) -> bytes:
    target: bytes = scope.get("raw_path") or scope["path"].encode()
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    headers = b"".join(b"%s: %s\r\n" % (name, value) for name, value in scope["headers"] if name not in _HOP)
    method: bytes = scope["method"].encode()
    return b"%s %s HTTP/1.1\r\n%scontent-length: %d\r\nconnection: close\r\n\r\n" % (method, target, headers, length)


async def _pass_back(reader: asyncio.StreamReader, send: Send) -> None:
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    has_begun = False
    while not answer.is_whole and (data := await _read(reader)):
        parser.feed_data(data)
        if answer.has_head and not has_begun:
            has_begun = True
            status = parser.get_status_code()
            await send({"type": "http.response.start", "status": status, "headers": answer.headers})
        parts, answer.parts = answer.parts, []
        if has_begun and parts:
            await send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})
    if not has_begun:  # it has ended meanwhile, and the session with it
        raise UnknownSession
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Read on; a process that was killed has ended like any other."""
    try:
        return await reader.read(READ)
    except ConnectionError:
        return b""


async def _until_gone(receive: Receive) -> None:
    with contextlib.suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass
