"""A server's process that stands still for a while: stopped, swapped out, or on a disk that hangs.

What its clients sent meanwhile waits in the kernel. The server once judged them by its own clock before it had read
that, and showed users offline who had answered all the time.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from clients import Client
from e2e.servers import PresenceServer
from support import PYTHONPATH, ROOT, Poller, connect_socket, free_port, http_client, websocket

PING_S, PONG_S, OFFLINE_S = 0.6, 1.1, 1.0
STOP_S = 2.5
"""More than any of them."""

MARGIN_S = 1.0
"""For a machine that is busy with something else."""


class Answering:
    """A client that answers every ping. On demand it keeps one answer back, so that it can be sent into the stall.

    Attributes:
        asked: set while an answer is kept back.
        ended: set when its connection has ended, which it must not.
    """

    def __init__(self) -> None:
        self.keeps = False
        self.asked = asyncio.Event()
        self.ended = asyncio.Event()
        self.ws: ClientConnection | None = None
        self.poller: Poller | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, work: Any) -> None:
        self._task = asyncio.create_task(work)

    async def read(self, ws: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for data in ws:
                await self.take(str(data))
        self.ended.set()

    async def take(self, data: str) -> None:
        if data != "2":
            return
        if self.keeps:
            self.asked.set()
        else:
            await self.pong()

    async def open(self, url: str, user: str) -> None:
        raise NotImplementedError

    async def pong(self) -> None:
        raise NotImplementedError

    async def go_on(self) -> None:
        self.keeps = False
        await self.pong()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.ws is not None:
            self.ws.transport.abort()
        if self.poller is not None:
            await self.poller.http.aclose()


class OnWebSocket(Answering):
    async def open(self, url: str, user: str) -> None:
        self.ws = await connect_socket(url, f'40{{"userId":"{user}"}}')
        self.begin(self.read(self.ws))

    async def pong(self) -> None:
        assert self.ws is not None
        await self.ws.send("3")


class OnPolling(Answering):
    """Polls; with ``probes`` a WebSocket of its upgrade is half open, and takes over when it is asked to."""

    def __init__(self, *, probes: bool = False) -> None:
        super().__init__()
        self.probes = probes

    async def open(self, url: str, user: str) -> None:
        self.poller = poller = Poller(url)
        await poller.open()
        await poller.post(f'40{{"userId":"{user}"}}')
        await poller.get()
        if self.probes:
            self.ws = await websocket(url, sid=poller.sid)
            await self.ws.send("2probe")
            assert await self.ws.recv() == "3probe"
        self.begin(self._poll(poller))

    async def _poll(self, poller: Poller) -> None:
        try:
            while True:
                answer = await poller.get()
                if answer.status_code != 200:
                    break
                for packet in answer.text.split("\x1e"):
                    await self.take(packet)
        except httpx.HTTPError:
            pass
        self.ended.set()

    async def pong(self) -> None:
        if self.poller is None:
            assert self.ws is not None
            await self.ws.send("3")
        else:
            assert (await self.poller.post("3")).status_code == 200

    async def go_on(self) -> None:
        self.keeps = False
        self.posting = asyncio.create_task(self.pong())  # it will be answered when the server is back

    async def upgrade(self) -> None:
        """Let the WebSocket take over, once what was under way has been answered."""
        assert self.ws is not None and self.poller is not None
        await self.posting
        await self.ws.send("5")
        await self.ended.wait()
        self.ended.clear()
        await self.poller.http.aclose()
        self.poller = None
        self.begin(self.read(self.ws))


@contextlib.asynccontextmanager
async def mounted(directory: Path, settings: dict[str, Any]) -> AsyncIterator[tuple[str, int]]:
    """The application under plain uvicorn."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = _start_mounted(directory, port, settings)
    try:
        async with http_client() as http, asyncio.timeout(30):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await http.get(url + "/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.05)
        yield url, process.pid
    finally:
        process.kill()
        process.wait()


def _start_mounted(directory: Path, port: int, settings: dict[str, Any]) -> "subprocess.Popen[bytes]":
    given = {"database": f"sqlite:///{directory / 'mounted.db'}", "dev": 1, **settings}
    environment = {f"HERENOW_{name.upper()}": str(value) for name, value in given.items()}
    command = [sys.executable, "-m", "uvicorn", "e2e.mounted:app", "--port", str(port), "--log-level", "warning"]
    with (directory / "mounted.log").open("wb") as out:
        return subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": PYTHONPATH, **environment}, stdout=out, stderr=out
        )


@contextlib.asynccontextmanager
async def served(directory: Path, settings: dict[str, Any]) -> AsyncIterator[tuple[str, int]]:
    """``herenow serve``: the fast shell."""
    server = PresenceServer(directory / "served.db", **settings)
    await asyncio.to_thread(server.start)
    try:
        yield server.url, server.pid
    finally:
        server.kill()


async def stall(url: str, pid: int) -> None:
    """Stop the server under clients of every kind, and see that it takes nobody for gone who was not."""
    watcher = await Client.connect(url, "watcher")
    stay: dict[str, Answering] = {
        "socket": OnWebSocket(),
        "poller": OnPolling(),
        "upgrader": OnPolling(probes=True),
        "lost": OnWebSocket(),
    }
    for user, client in stay.items():
        await client.open(url, user)
    goes, back = await Client.connect(url, "goes"), await Client.connect(url, "back")
    await watcher.watch(*stay, "goes", "back")
    for client in stay.values():
        client.keeps = True
    async with asyncio.timeout(10):
        for client in stay.values():
            await client.asked.wait()
    await back.close()  # a network that changes: it comes again while the server stands
    os.kill(pid, signal.SIGSTOP)
    try:
        lost = stay.pop("lost")  # never heard of again
        for client in stay.values():
            await client.go_on()
        goes.kill()
        coming = asyncio.create_task(Client.connect(url, "back"))
        await asyncio.sleep(STOP_S)
    finally:
        os.kill(pid, signal.SIGCONT)
    began = time.monotonic()
    upgrader = stay["upgrader"]
    assert isinstance(upgrader, OnPolling)
    await upgrader.upgrade()
    await watcher.until(lambda: watcher.shows("goes") == "offline", 15)
    assert time.monotonic() - began < OFFLINE_S + MARGIN_S
    await watcher.until(lambda: watcher.shows("lost") == "offline", 15)
    assert time.monotonic() - began < PING_S + PONG_S + OFFLINE_S + MARGIN_S
    assert watcher.causes("lost") == ["timeout"]
    back = await coming
    assert [cause for user in (*stay, "back") for cause in watcher.causes(user)] == []
    assert not any(client.ended.is_set() for client in stay.values())
    assert upgrader.ws is not None
    await upgrader.ws.send('420["presence:idle"]')  # by the WebSocket that has taken over
    await watcher.until(lambda: watcher.shows("upgrader") == "away")
    for client in (*stay.values(), lost):
        await client.stop()
    for left in (watcher, back):
        await left.leave()


async def test_a_process_that_stands_still_takes_nobody_for_gone_who_answered(tmp_path: Path) -> None:
    settings = {
        "ping_interval_s": PING_S,
        "ping_timeout_s": PONG_S,
        "offline_within_s": OFFLINE_S,
        "connect_timeout_s": 1,
        "request_timeout_s": 1,
    }
    async with contextlib.AsyncExitStack() as stack:
        servers = (served(tmp_path, settings), mounted(tmp_path, settings))
        fast, plain = await asyncio.gather(*map(stack.enter_async_context, servers))
        await asyncio.gather(stall(*fast), stall(*plain))
