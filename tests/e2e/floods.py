"""Floods against a server in a process of its own, small in the tests and at full size in ``make soak``.

What must hold, at any size: an honest client is served meanwhile; at the end no session is left but its own; the
process has its memory back; it has written nothing.
"""

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from websockets.asyncio.client import ClientConnection

from raw import HANDSHAKE, Raw, client_frame
from support import Process, Shell, connect_socket, free_port, receive, until

SPARE_FILES = 200
"""Open files that a process needs beside the sockets of a flood."""

NEAR_KB = 16_384
"""How much more memory the server may have after the last flood than after those before. Python's allocator keeps
room for what was small and short-lived; how much of it, differs by chance from one flood to the next, and a leak grows
with each."""

FLOODS = 3

POLLING = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Flood:
    """What a flood came to.

    Attributes:
        size: packets or handshakes.
        most_sessions: at any moment that was looked at, beside the honest client's.
        worst_s: the longest that the honest client waited for an answer.
        fresh_kb, before_kb, after_kb: the memory of the server's process at its start, after the first two floods
            (the greater figure), after a third; ``peak_kb``: the most that it had.
    """

    name: str
    shell: Shell
    size: int
    seconds: float = 0.0
    most_sessions: int = 0
    worst_s: float = 0.0
    fresh_kb: int = 0
    before_kb: int = 0
    peak_kb: int = 0
    after_kb: int = 0

    @property
    def faults(self) -> list[str]:
        """What did not hold."""
        grown_kb = self.after_kb - self.before_kb
        return [f"{self.name}, {self.shell}: {grown_kb:,} KB more than before"] if grown_kb > NEAR_KB else []


class Honest:
    """A client that asks all the time how many sessions there are, and notes how long it waits.

    Attributes:
        others: sessions beside its own, by the last answer.
    """

    def __init__(self, ws: ClientConnection, flood: Flood) -> None:
        self.others = -1
        self._ws = ws
        self._flood = flood

    async def ask(self) -> None:
        """Ask until cancelled."""
        while True:
            began = time.monotonic()
            await self._ws.send('421["sessions"]')
            answer = str(await receive(self._ws, timeout_s=60))
            self._flood.worst_s = max(self._flood.worst_s, time.monotonic() - began)
            [count] = msgspec.json.decode(answer.removeprefix("431"), type=tuple[int])
            self.others = count - 1
            self._flood.most_sessions = max(self._flood.most_sessions, self.others)
            await asyncio.sleep(0.01)


def memory_kb(process: Process, field: str) -> int:
    """What the kernel says of the process's memory: ``VmRSS`` now, ``VmHWM`` at most."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0])


def open_files(process: Process) -> int:
    """How many files and sockets the process has open."""
    return len(list(Path(f"/proc/{process.popen.pid}/fd").iterdir()))


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files, and that of those that it starts."""
    needed = count + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(
            f"{count:,} connections need {needed:,} open files, and the hard limit is {hard:,} (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def _measure(flood: Flood, attack: Callable[[str], Awaitable[None]], connect_timeout_ms: int) -> Flood:
    """Serve, with an honest client beside, and attack three times; see what the last adds to those before."""
    port = free_port()
    options = ("--port", str(port), "--shell", flood.shell, "--connect-timeout-ms", str(connect_timeout_ms))
    process = Process("-m", "e2e.flooded", *options, port=port)
    try:
        await asyncio.to_thread(process.wait_until_ready)
        files = open_files(process)
        flood.fresh_kb = memory_kb(process, "VmRSS")
        *before_kb, flood.after_kb = [await _round(flood, attack, process, files) for _ in range(FLOODS)]
        flood.before_kb = max(before_kb)
        flood.peak_kb = memory_kb(process, "VmHWM")
    finally:
        written = process.stop()
    assert written == "", written
    return flood


async def _round(flood: Flood, attack: Callable[[str], Awaitable[None]], process: Process, files: int) -> int:
    """Attack once; return the memory that the process then has, in KB."""
    async with await connect_socket(process.url) as ws:
        honest = Honest(ws, flood)
        asking = asyncio.create_task(honest.ask())
        began = time.monotonic()
        await attack(process.url)
        await until(lambda: honest.others == 0, 60)
        flood.seconds = time.monotonic() - began
        await until(lambda: open_files(process) <= files + 1, 30)
        asking.cancel()
        await asyncio.wait([asking])
    async with await connect_socket(process.url) as ws:
        await ws.send('421["tidy"]')
        assert await receive(ws) == "431[]"
    return memory_kb(process, "VmRSS")


async def tiny_packets(shell: Shell, size: int) -> Flood:
    """Noops, empty fragments and the smallest events, from four clients, as fast as they can write."""
    each = size // 16

    async def one(url: str) -> None:
        raw = await Raw.upgrade(url)
        await raw.send(client_frame(b"40"))
        await raw.send(client_frame(b"6") * each * 2)
        await raw.send(client_frame(b"4", fin=False) + client_frame(b"", opcode=0, fin=False) * each)
        await raw.send(client_frame(b'2["x"]', opcode=0) + client_frame(b'42["x"]') * each)
        await raw.send(client_frame(b'421["echo"]'))
        received = b""
        while b"431[]" not in received:
            chunk = await raw.reader.read(65_536)
            assert chunk, "the server closed"
            received = received[-8:] + chunk
        raw.abort()

    async def attack(url: str) -> None:
        async with asyncio.timeout(300):
            await asyncio.gather(*(one(url) for _ in range(4)))

    return await _measure(Flood("tiny packets", shell, size), attack, 2_000)


async def half_open_handshakes(shell: Shell, size: int) -> Flood:
    """Sockets that say nothing, half a request, or open a session and go no further; they stay till all are closed."""
    allow_open_files(size)
    connect_timeout_ms = 1_000 + size

    async def attack(url: str) -> None:
        raws = []
        for number in range(size):
            raws.append(await Raw.open(url))
            await raws[-1].send((b"", HANDSHAKE[:60], HANDSHAKE, POLLING)[number % 4])
        await asyncio.sleep(connect_timeout_ms / 1000)
        for raw in raws:
            raw.abort()

    return await _measure(Flood("half-open handshakes", shell, size), attack, connect_timeout_ms)
