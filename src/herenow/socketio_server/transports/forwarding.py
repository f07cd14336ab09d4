"""A request that is another process's, passed on by HTTP over a local socket, and its answer passed back."""

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import httptools

from ..errors import UnknownSession
from .requests import Headers, Receive, Scope, Send, refusal_body, respond

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


async def forward(path: Path, scope: Scope, receive: Receive, send: Send, *, max_body: int) -> None:
    """Have another process answer a request of HTTP; where it is not there, the session is not either.

    Args:
        path: of the socket on which it listens.
        scope: of the request, as ASGI has it.
        receive: brings its body.
        send: takes the answer.
        max_body: bytes; what is longer is passed on no further, and refused there.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        await _refuse(send)
        return
    try:
        body = await _body(receive, max_body)
        if body is None:
            return
        writer.write(_head(scope, len(body)) + body)
        gone = asyncio.ensure_future(_until_gone(receive))
        passing = asyncio.ensure_future(_pass_back(reader, send))
        try:
            await asyncio.wait((gone, passing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            passing.cancel()
            await asyncio.gather(gone, passing, return_exceptions=True)
    finally:
        writer.transport.abort()  # the other one sees that nobody waits any more


async def _body(receive: Receive, most: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most or not message.get("more_body", False):
            return bytes(body[: most + 1])


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
    while not answer.is_whole and (data := await reader.read(READ)):
        parser.feed_data(data)
        if answer.has_head and not has_begun:
            has_begun = True
            status = parser.get_status_code()
            await send({"type": "http.response.start", "status": status, "headers": answer.headers})
        parts, answer.parts = answer.parts, []
        if has_begun and parts:
            await send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})
    if has_begun:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    else:  # it has ended meanwhile, and the session with it
        await _refuse(send)


async def _refuse(send: Send) -> None:
    refusal = UnknownSession()
    await respond(send, refusal.status, refusal_body(refusal), [(b"content-type", b"application/json")])


async def _until_gone(receive: Receive) -> None:
    with contextlib.suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass
