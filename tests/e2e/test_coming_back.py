"""Who is to come back does: the stock clients, over every transport, after the server has stopped and started again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import socketio

from e2e.servers import PresenceServer
from support import ROOT, until

TRANSPORTS = ["websocket", "polling", "polling,websocket"]
LIFE = ["ready", "shutting_down", "disconnected", "ready"]


@contextlib.asynccontextmanager
async def javascript(url: str, transports: str) -> AsyncIterator[list[str]]:
    """The stock JavaScript client; gives what happens to it."""
    process = await asyncio.create_subprocess_exec(
        *("node", "coming-back.mjs", url, transports),
        cwd=ROOT / "tests/node",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    happened: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            happened.append(line.decode().strip())

    reading = asyncio.create_task(read())
    try:
        yield happened
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await reading


@contextlib.asynccontextmanager
async def python(url: str, transports: str) -> AsyncIterator[list[str]]:
    """python-socketio's AsyncClient, with its own way of coming back.

    Its first try is after half a second at least: one that meets a server in the middle of its end may raise what the
    client does not expect (5.18, aiohttp 3), and ends its tries.
    """
    client = socketio.AsyncClient(reconnection_delay_max=1)
    happened: list[str] = []
    client.on("presence:ready", lambda _: happened.append("ready"))
    client.on("presence:error", lambda error: happened.append(error["code"]))
    client.on("disconnect", lambda *_: happened.append("disconnected"))
    await client.connect(url, auth={"userId": f"python-{transports}"}, transports=transports.split(","))
    try:
        yield happened
    finally:
        await client.disconnect()


async def test_every_stock_client_comes_back_by_itself_over_every_transport(tmp_path: Path) -> None:
    """Over polling, python-socketio took the end of the session for the server's last word, and stayed away."""
    server = PresenceServer(tmp_path / "app.db")
    await asyncio.to_thread(server.start)
    try:
        async with contextlib.AsyncExitStack() as stack:
            lives = {
                (client.__name__, transports): await stack.enter_async_context(client(server.url, transports))
                for client in (javascript, python)
                for transports in TRANSPORTS
            }
            await until(lambda: all(life == LIFE[:1] for life in lives.values()), 20)
            await asyncio.to_thread(server.stop)
            await until(lambda: all(life == LIFE[:3] for life in lives.values()), 20)
            await asyncio.to_thread(server.start)
            with contextlib.suppress(TimeoutError):
                await until(lambda: all(life == LIFE for life in lives.values()), 20)
            assert lives == dict.fromkeys(lives, LIFE)
    finally:
        server.stop()
