"""``python -m e2e.renewals``: renews a server ten times under a thousand clients, and says what others saw of it.

The clients are those of the tests, which come back after 0.3 s, and the stock JavaScript client with its defaults. Each
renewal begins while some come, go and claim.
"""

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from clients import Client
from e2e.renewable import Renewable, crowd, renewable, watch
from support import ROOT, http_get, until


async def change(server: Renewable) -> None:
    """Have somebody come, claim and leave, again and again: what others see of them is no flicker."""
    while True:
        with contextlib.suppress(Exception):
            client = await Client.connect(server.address, "restless")
            await client.call("presence:claim", {"availability": "busy"})
            await client.leave()
        await asyncio.sleep(0.05)


def connections(server: Renewable) -> int:
    """How many are connected; 0 while nobody answers."""
    with contextlib.suppress(Exception):
        return int(http_get(f"{server.address}/v1/stats", timeout=2).json()["connections"])
    return 0


async def renew(server: Renewable, times: int, clients: int) -> list[float]:
    """Renew it so often; return how long it took each time until all were back, in seconds."""
    took: list[float] = []
    for next_life in range(2, times + 2):
        began_s = time.monotonic()
        server.hang_up()
        await until(partial(server.has_begun, next_life), 60)
        await until(lambda: connections(server) >= clients, 60)
        took.append(time.monotonic() - began_s)
        await asyncio.sleep(3)  # whoever was not back in time would be seen to go
    return took


@contextlib.asynccontextmanager
async def stock_crowd(server: Renewable, users: int) -> AsyncIterator[list[str]]:
    """The same as ``crowd``, of the stock JavaScript client."""
    command = ("crowd.mjs", server.address, str(users))
    program = await asyncio.create_subprocess_exec("node", *command, cwd=ROOT / "tests/node", stdin=subprocess.PIPE)
    await until(lambda: connections(server) == users, 120)
    await asyncio.sleep(1)  # until those are told who came last
    seen: list[str] = []
    watching = asyncio.create_task(watch(server, {f"js-{number}" for number in range(users)}, seen))
    await until(lambda: connections(server) == users + 1)
    try:
        yield seen
    finally:
        watching.cancel()
        program.kill()
        await asyncio.gather(watching, program.wait(), return_exceptions=True)


async def measure(directory: Path, kind: str, users: int, times: int) -> str:
    """Renew a server under one kind of client; return a row of the table."""
    come = crowd if kind == "fast" else stock_crowd
    with renewable(directory) as server:
        async with come(server, users) as seen:
            restless = asyncio.create_task(change(server))
            took = await renew(server, times, users + 1)
            restless.cancel()
            changes = [each for each in seen if not each.startswith(("restless", "watcher"))]
    for each in changes[:20]:
        sys.stderr.write(f"{each}\n")
    middle = statistics.median(took)
    return f"| {kind} | {users:,} | {times} | {len(changes)} | {middle:.1f} s | {max(took):.1f} s |"


def main() -> int:
    """Measure both kinds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--times", type=int, default=10)
    options = parser.parse_args()
    lines = [
        "| clients | how many | renewals | changes seen of them | all back after, median | at most |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for kind in ("fast", "stock"):
        with tempfile.TemporaryDirectory() as name:
            lines.append(asyncio.run(measure(Path(name), kind, options.users, options.times)))
    sys.stdout.write("\n".join([*lines, ""]))
    return 0 if all("| 0 |" in line for line in lines[2:]) else 1


if __name__ == "__main__":
    sys.exit(main())
