"""``herenow status`` against a server at size: as a process, from its start to its end, as an operator waits for it."""

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from e2e.servers import PresenceServer
from herenow.model import Availability, StoredUser
from herenow.store.sqlite.store import SqlStore
from support import PYTHONPATH

FILL = 10_000


async def fill(database: Path, users: int) -> None:
    """Make a store of so many users who were here before and are offline."""
    store = SqlStore(f"sqlite:///{database}")
    await store.init()
    now_ms = time.time_ns() // 1_000_000
    for start in range(0, users, FILL):
        some = range(start, min(users, start + FILL))
        await store.apply([StoredUser(f"user-{n}", False, Availability.OFFLINE, now_ms - n, None, n + 1) for n in some])
    await store.close()


@dataclass
class Looks:
    """How long the looks took, sorted, and what a look cost: the processor time of the command and of the server."""

    seconds: list[float]
    command_cpu_s: float
    server_cpu_s: float


def status_looks(database: Path, *, connected: int, looks: int) -> Looks:
    """Connect so many users of a filled store, each over a WebSocket, and look.

    Every look must find them all, and no drift.
    """
    server = PresenceServer(database)
    server.start()
    try:
        crowd = subprocess.Popen(
            [sys.executable, "-m", "e2e.crowd", str(server.port), str(connected)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
        )
        assert crowd.stdin is not None and crowd.stdout is not None
        try:
            assert crowd.stdout.readline() == "ready\n"
            time.sleep(0.5)  # the last rows are on their way to the store
            server_cpu_s, command_cpu_s = server.cpu_s(), _children_cpu_s()
            seconds = sorted(_look(database, connected) for _ in range(looks))
            server_cpu_s, command_cpu_s = server.cpu_s() - server_cpu_s, _children_cpu_s() - command_cpu_s
            assert crowd.communicate(timeout=30)[0] == "lost 0\n"
        finally:
            crowd.kill()
            crowd.wait()
    finally:
        server.stop()
    return Looks(seconds, command_cpu_s / looks, server_cpu_s / looks)


def _children_cpu_s() -> float:
    """The processor time of the processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _look(database: Path, connected: int) -> float:
    command = [sys.executable, "-m", "herenow.cli", "status", "--database", f"sqlite:///{database}"]
    began = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    seconds = time.monotonic() - began
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{connected:,} online · {connected:,} connections" in ended.stdout
    return seconds
