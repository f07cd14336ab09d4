"""Answers requests while a start waits for the database: that the process lives, and does not serve yet.

Whoever asks, a probe or a proxy, is answered at once, and is not left with a connection that nobody reads.
"""

import asyncio
import contextlib
import socket
import ssl
from typing import Final, Self

from herenow.http.api import NOT_STARTED

READ_WITHIN_S: Final = 5.0
"""How long a request's head may take."""

_HEAD: Final = 16_384
"""Bytes of a request's head, at most."""

_ALIVE: Final = b'{"alive":true}'
_NOT_READY: Final = f'{{"ready":false,"reason":"{NOT_STARTED}"}}'.encode()
_REFUSED: Final = f'{{"error":{{"code":"shutting_down","message":"{NOT_STARTED}","temporary":true}}}}'.encode()


class Starting:
    """Answers on a socket that another server is to have.

    Args:
        listener: it goes on to listen afterwards.
        tls: with it, where the server speaks TLS.
    """

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._listener = listener
        self._tls = tls
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    def begin(self) -> None:
        """Begin to answer, unless it does already; in the event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._serve(), name="herenow starting")

    async def end(self) -> None:
        """Answer no more; who has not been answered is the other server's."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _serve(self) -> None:
        server = await asyncio.start_server(_answer, sock=self._listener.dup(), limit=_HEAD, ssl=self._tls)
        async with server:
            await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(READ_WITHIN_S):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_answer_to(head))
            await writer.drain()
    writer.close()


def _answer_to(head: bytes) -> bytes:
    path = (head.split(b" ", 2)[1:2] or [b""])[0].partition(b"?")[0]
    status, body = b"503 Service Unavailable", _REFUSED
    if path.endswith(b"/healthz"):
        status, body = b"200 OK", _ALIVE
    elif path.endswith(b"/readyz"):
        body = _NOT_READY
    if head.startswith(b"HEAD "):
        body = b""
    return (
        b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: 1\r\n"
        b"Connection: close\r\n\r\n%s" % (status, len(body), body)
    )
