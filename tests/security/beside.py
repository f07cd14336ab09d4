"""An attack on a server in a process of its own, with honest clients beside: what the attackers get, and what these."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from e2e.servers import PresenceServer
from security.honest import SECRET, Seen
from support import PYTHONPATH

TOLD_P99_MS, STORED_MS, GONE_MS = 100.0, 250.0, 2_000.0
"""P1 and P2."""

GRACE_MS = 1_850.0
"""Nobody is shown offline before."""


@dataclass
class Outcome:
    """What an attack came to.

    Attributes:
        sizes: the attacks, each with its size.
        got: what each got.
        seen: what came of the honest.
        files: open in the server at the end; ``memory_mb``: its memory.
        server_cpu_s: processor time that the server used.
    """

    sizes: dict[str, int]
    honest: int
    got: dict[str, dict[str, int]]
    seen: Seen
    files: int
    memory_mb: float
    server_cpu_s: float
    log: str

    @property
    def attack(self) -> str:
        """What it was."""
        return ", ".join(self.sizes)

    @property
    def faults(self) -> list[str]:
        """What must not be, at any size and on any machine."""
        seen = self.seen
        faults = {
            "honest connections were lost": seen.lost,
            "honest users were falsely shown offline": seen.false,
            "honest users were not seen to come or to go": seen.unseen,
            "honest users were shown offline within the grace": sum(gone < GRACE_MS for gone in seen.gone),
        }
        return [f"{self.attack}: {number} {what}" for what, number in faults.items() if number]

    @property
    def told_p99_ms(self) -> float:
        """P1, at the watcher."""
        return percentile(self.seen.told, 0.99)

    @property
    def late(self) -> list[str]:
        """Which promise was not kept in time."""
        late = {
            "P1, told": (self.told_p99_ms, TOLD_P99_MS),
            "P1, stored": (self.seen.stored[-1] if self.seen.stored else 0.0, STORED_MS),
            "P2": (self.seen.gone[-1] if self.seen.gone else 0.0, GONE_MS),
        }
        return [f"{self.attack}: {what} {ms:.0f} ms" for what, (ms, bound_ms) in late.items() if ms > bound_ms]


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of them lies; they are sorted. 0 if there are none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


async def beside(
    sizes: dict[str, int], directory: Path, *, honest: int, seconds: float, log_level: str = "info"
) -> Outcome:
    """Attack for so long, with so many honest clients beside."""
    server = PresenceServer(directory / "attacked.db", flags=("--log-level", log_level), jwt_secret=SECRET)
    processes = []
    await asyncio.to_thread(server.start)
    try:
        crowd = await _run("security.honest", server.port, server.database, honest, seconds)
        processes.append(crowd)
        await _hear(crowd, b"ready\n")
        attackers = await _run("security.attack", server.port, *(f"{name}={size}" for name, size in sizes.items()))
        processes.append(attackers)
        await _hear(attackers, b"going\n")
        cpu_s = server.cpu_s()
        said, _ = await crowd.communicate(b"go\n")
        cpu_s = server.cpu_s() - cpu_s
        files, memory_mb = _size_of(server.pid)
        got, _ = await attackers.communicate(b"")
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
        await asyncio.to_thread(server.stop)
    seen = Seen(**json.loads(said))
    return Outcome(sizes, honest, json.loads(got), seen, files, memory_mb, cpu_s, server.log())


def _size_of(pid: int) -> tuple[int, float]:
    """How many files a process has open, and its memory in MB."""
    kb = int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), kb / 1024


async def _run(module: str, *arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )


async def _hear(process: asyncio.subprocess.Process, word: bytes) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        heard = await process.stdout.readline()
    assert heard == word, heard
