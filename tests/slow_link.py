"""A link that carries little: a relay between a client and a server, with small buffers, by bytes a second."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

PIECE = 2_048
"""Bytes carried at a time."""

BUFFER = 4_096
"""What the kernel is asked to keep at either end, so that what is on its way is with the server."""


class SlowLink:
    """The relay.

    Attributes:
        url: where clients are to connect.
        carried: bytes from the server so far.
        stops_after: carries no more than so many bytes from the server, and keeps the connection.
    """

    def __init__(self, url: str, bytes_per_s: float, *, stops_after: float = float("inf")) -> None:
        scheme, _, place = url.partition("://")
        host, _, port = place.partition(":")
        self.scheme, self._host, self._port = scheme, host, int(port)
        self._bytes_per_s = bytes_per_s
        self.stops_after = stops_after
        self.carried = 0
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        server.setblocking(False)
        await asyncio.get_running_loop().sock_connect(server, (self._host, self._port))
        theirs, to_server = await asyncio.open_connection(sock=server, limit=PIECE)
        up = asyncio.create_task(self._carry_up(reader, to_server))
        try:
            await self._carry_down(theirs, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass  # either end is gone, or the test is over
        finally:
            up.cancel()
            to_server.transport.abort()
            writer.transport.abort()
            self._tasks.discard(task)

    async def _carry_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def _carry_down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        free_s = loop.time()
        while True:
            if self.carried >= self.stops_after:
                await asyncio.Event().wait()
            data = await reader.read(PIECE)
            if not data:
                return
            free_s = max(free_s, loop.time() - 0.2) + len(data) / self._bytes_per_s
            await asyncio.sleep(free_s - loop.time())
            self.carried += len(data)
            writer.write(data)

    async def close(self) -> None:
        """Cut all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def slow_link(url: str, bytes_per_s: float, *, stops_after: float = float("inf")) -> AsyncIterator[SlowLink]:
    """Run a relay to the server at ``url``."""
    link = SlowLink(url, bytes_per_s, stops_after=stops_after)
    listener = await asyncio.start_server(link._serve, "127.0.0.1", 0)
    link.url = f"{link.scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        listener.close()
        await link.close()
