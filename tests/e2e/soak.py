"""The storms at full length: ``make soak``. Writes what it saw to ``docs/reliability.md``; exits 1 on any fault.

python -m e2e.soak [--users 1000] [--seconds 60] [--kills 10] [--reloads 200] [--stored 100000] [--connected 10000]
                   [--packets 1000000] [--handshakes 10000] [--trouble 30]
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from e2e.at_size import Looks, fill, status_looks
from e2e.floods import Flood, half_open_handshakes, tiny_packets
from e2e.servers import PresenceServer
from e2e.troubles import Trouble, troubled_storm
from e2e.weather import Weather, killing_storm, storm
from security.beside import Outcome
from security.full import attack_all, attacks_table
from support import ROOT, SHELLS


def reloads(database: Path, times: int) -> dict[str, object]:
    """Reload a page of the stock client at random moments inside the grace; return what a watcher saw."""
    node = shutil.which("node")
    if node is None:
        raise SystemExit("Node is not on the PATH: run `make install`, or install Node 20 or later")
    server = PresenceServer(database)
    server.start()
    try:
        done = subprocess.run(
            [node, "reloads.mjs", server.url, str(times)],
            cwd=ROOT / "tests/node",
            capture_output=True,
            text=True,
            timeout=60 + 2 * times,
            check=True,
        )
    finally:
        server.stop()
    seen: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return seen


def row(name: str, weather: Weather) -> str:
    """One line of the table."""
    return (
        f"| {name} | {weather.users:,} | {weather.seconds:g} | {weather.kills} | {weather.connects:,} | "
        f"{weather.reloads:,} | {weather.leaves:,} | {weather.deaths:,} | {weather.checks:,} | {len(weather.faults)} |"
    )


def troubles_table(troubles: list[Trouble]) -> list[str]:
    """What P9 came to on MongoDB."""
    rows = [
        f"| {trouble.name} | {trouble.seconds:g} | {trouble.checks:,} | {trouble.back_after_s:.2f} | "
        f"{len(trouble.faults)} |"
        for trouble in troubles
    ]
    return [
        "On MongoDB (one member of a replica set), while the storm went on: for so long the database was in trouble,",
        "and all the while a watcher was held against the truth. Then, how long after its return the collection told",
        "the truth too (the promise: 2 s).",
        "",
        "| MongoDB | seconds | checks | agreed after, s | false |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of them lies; they are sorted."""
    return values[min(len(values) - 1, int(len(values) * share))]


def delays(what: str, bound: str, values: list[float]) -> str:
    """One line of the table of P1."""
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    return f"| {what} | {bound} | {len(values):,} | {p50:.0f} ms | {p99:.0f} ms | {values[-1]:.0f} ms |"


def flood_row(flood: Flood) -> str:
    """One line of the floods' table."""
    memory = " | ".join(f"{kb / 1024:.0f}" for kb in (flood.fresh_kb, flood.peak_kb, flood.before_kb, flood.after_kb))
    return (
        f"| {flood.size:,} {flood.name} | {flood.shell} | {flood.seconds:.0f} | {flood.most_sessions:,} | 0 | "
        f"{flood.worst_s * 1000:.0f} | {memory} |"
    )


def floods(packets: int, handshakes: int) -> list[Flood]:
    """Flood both shells, and print what came of each."""
    seen = []
    for flood, size in ((tiny_packets, packets), (half_open_handshakes, handshakes)):
        for shell in SHELLS:
            seen.append(asyncio.run(flood(shell, size)))
            sys.stdout.write(flood_row(seen[-1]) + "\n")
    return seen


def report(
    calm: Weather,
    killed: Weather,
    page: dict[str, object],
    looks: Looks,
    size: tuple[int, int],
    load: float,
    flooded: list[Flood],
    troubles: list[Trouble],
    attacked: list[Outcome],
) -> str:
    """The document."""
    restarts = sorted(killed.restarts_s)
    lines = [
        "# Reliability, measured",
        "",
        "Written by `make soak`; the same in short is part of `make test`. The load generator keeps the truth:",
        "when each connection was confirmed, and when and how it ended. Every half second a watcher of everybody",
        "and the store are held against it. *False* counts each user who was shown offline with a live connection,",
        "or online past the bound, at any check or at the end.",
        "",
        f"{time.strftime('%Y-%m-%d')}, {platform.system()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, the load on the same machine; its load average before the run, from other work, was "
        f"{load:.1f}.",
        "",
        "| | clients | seconds | kills | connects | reloads | leaves | deaths | checks | false |",
        "|---|---|---|---|---|---|---|---|---|---|",
        row("storm", calm),
        row("storm with `kill -9`", killed),
        "",
    ]
    if restarts:
        lines += [
            f"Ready again after a kill: {restarts[0]:.1f} to {restarts[-1]:.1f} s. `restart_grace` was 9.5 s, "
            "the least that goes with a bound of 2 s.",
            "",
        ]
    lines += [
        "P1 during the storm, without a kill. Users connect twenty times a second from another process, and each is",
        "measured from when it was to connect, its own handshakes included. The server and the prober share the cores",
        "with the storm's clients, which give way to them.",
        "",
        "| a user connects | bound | users | p50 | p99 | max |",
        "|---|---|---|---|---|---|",
        delays("a watcher is told", "p99 ≤ 100 ms", calm.told_ms),
        delays("the database says so", "≤ 250 ms", calm.stored_ms),
        "",
        f"`herenow status` with {size[0]:,} users in the store and {size[1]:,} of them connected over WebSocket, from",
        f"the start of the command to its end: {statistics.median(looks.seconds):.2f} s, at most "
        f"{looks.seconds[-1]:.2f} s in {len(looks.seconds)} looks; the bound is 1 s. A look costs",
        f"{looks.command_cpu_s:.2f} s of processor time in the command and {looks.server_cpu_s:.2f} s in the server.",
        "",
        f"A page of the stock JavaScript client, reloaded {page['reloads']} times at random moments inside the "
        f"grace: a watcher saw {page['changes']}, and at the end `{page['final']}`.",
        "",
    ]
    lines += [
        "Floods, each three times against a server of its own. An honest client asks it all the while; *longest wait*",
        "is its longest for an answer. All sockets of the flood are let go, and no session is left. Memory in MB: when",
        "the server has started, at most, after the first two floods (the greater figure) and after the third, which",
        "must add nothing: Python's allocator keeps holes, and a leak would grow with each flood. Under the ASGI",
        "shell, frames are the ASGI server's to parse.",
        "",
        "| | shell | seconds | sessions at most | left | longest wait, ms | start | most | before | third |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(flood_row, flooded),
        "",
    ]
    lines += attacks_table(attacked)
    lines += troubles_table(troubles)
    faults = calm.faults + killed.faults
    for faulty in (*(flood.faults for flood in flooded), *(trouble.faults for trouble in troubles)):
        faults += faulty
    for outcome in attacked:
        faults += outcome.faults + outcome.late
    if faults:
        lines += ["What was false (the first twenty):", "", *(f"- {fault}" for fault in faults[:20]), ""]
    return "\n".join(lines)


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--reloads", type=int, default=200)
    parser.add_argument("--stored", type=int, default=100_000)
    parser.add_argument("--connected", type=int, default=10_000)
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--handshakes", type=int, default=10_000)
    parser.add_argument("--trouble", type=float, default=30)
    options = parser.parse_args()
    PresenceServer.from_nothing = True
    load = os.getloadavg()[0]
    flooded = floods(options.packets, options.handshakes)
    attacked = attack_all()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        asyncio.run(fill(directory / "size.db", options.stored))
        looks = status_looks(directory / "size.db", connected=options.connected, looks=11)
        page = reloads(directory / "page.db", options.reloads)
        killed = asyncio.run(killing_storm(directory / "killed.db", users=options.users, kills=options.kills))
        troubles = asyncio.run(troubled_storm(directory, users=options.users, seconds=options.trouble))
        # Last, for it gives way, and all that this process started afterwards would too.
        seconds = options.seconds
        calm = asyncio.run(storm(directory / "calm.db", users=options.users, seconds=seconds, give_way=True))
    text = report(calm, killed, page, looks, (options.stored, options.connected), load, flooded, troubles, attacked)
    (ROOT / "docs/reliability.md").write_text(text)
    sys.stdout.write(text)
    false = calm.faults or killed.faults or any(flood.faults for flood in flooded)
    false = false or any(outcome.faults or outcome.late for outcome in attacked)
    false = false or any(trouble.faults for trouble in troubles)
    is_late = percentile(calm.told_ms, 0.99) > 100 or calm.stored_ms[-1] > 250 or looks.seconds[-1] > 1
    return 1 if false or page["changes"] != ["connect"] or is_late else 0


if __name__ == "__main__":
    sys.exit(main())
