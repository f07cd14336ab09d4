"""A proxy before a real Redis that understands what passes: it can hold a command back, or answer in Redis' place."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files

Command = list[bytes]
"""Its name and what follows."""

Instead = Callable[[int, Command], Awaitable[bytes | None]]
"""Called with each command before it is passed on, and with how many connections were older than its own. What it
returns is the answer; ``None``: Redis is to give it."""


async def pass_on(_: int, __: Command) -> None:
    """Leave a command to Redis."""


class Proxy:
    """Carries commands from its own port to a Redis on this machine, of each connection one at a time.

    Args:
        to_port: of the Redis.

    Attributes:
        port: where clients connect.
        to_port: where new connections lead.
        connections: how many there were so far.
        instead: asked about each command.
    """

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self.to_port = to_port
        self.connections = 0
        self.instead: Instead = pass_on
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The address of the proxy."""
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut all, and listen no more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def cut(self) -> None:
        """Cut every connection."""
        for task in self._serving:
            task.cancel()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        number, self.connections = self.connections, self.connections + 1
        to_redis: asyncio.StreamWriter | None = None
        try:
            redis, to_redis = await asyncio.open_connection("127.0.0.1", self.to_port)
            while True:
                asked, command = await _read(client)
                answer = await self.instead(number, command)
                if answer is None:
                    to_redis.write(asked)
                    answer, _ = await _read(redis)
                to_client.write(answer)
                await to_client.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(task)
            for writer in (to_client, to_redis):
                if writer is not None:
                    writer.transport.abort()


async def _read(source: asyncio.StreamReader) -> tuple[bytes, list[bytes]]:
    """Read one value of Redis' protocol: its bytes as they came, and the texts in it."""
    line = await source.readuntil(b"\r\n")
    kind, rest = line[:1], line[1:-2]
    raw, texts = [line], []
    if kind in b"$=!" and rest != b"-1":
        body = await source.readexactly(int(rest) + 2)
        raw.append(body)
        texts.append(body[:-2])
    elif kind in b"*~>%":
        for _ in range(int(rest) * (2 if kind == b"%" else 1)):
            part, inner = await _read(source)
            raw.append(part)
            texts += inner
    return b"".join(raw), texts


def runs(command: Command, script: str) -> bool:
    """Whether a command runs one of herenow's scripts."""
    return command[0] == b"EVALSHA" and command[1] == _digest(script)


def _digest(script: str) -> bytes:
    text = (files("herenow.registry.redis") / f"{script}.lua").read_bytes()
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


def refuses(word: str) -> bytes:
    """An answer of Redis that refuses a command with a word."""
    what = "866 127.0.0.1:1" if word in ("MOVED", "ASK") else "not now"
    return f"-{word} {what}\r\n".encode()


@contextlib.asynccontextmanager
async def proxied(to_port: int) -> AsyncIterator[Proxy]:
    """Run a proxy before a Redis."""
    proxy = Proxy(to_port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
