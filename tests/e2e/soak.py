"""The storms at full length: ``make soak``. Writes what it saw to ``docs/reliability.md``; exits 1 on any fault.

What ``surroundings`` wrote at the end of that page stays there.

python -m e2e.soak [--users 1000] [--seconds 60] [--kills 10] [--reloads 200] [--stored 100000] [--connected 10000]
                   [--packets 1000000] [--handshakes 10000] [--trouble 30]
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import mongod
from e2e import surroundings
from e2e.at_size import Looks, fill, status_looks
from e2e.floods import Flood, half_open_handshakes, tiny_packets
from e2e.servers import PresenceServer
from e2e.troubles import MongoPresenceServer, Trouble, troubled_storm
from e2e.weather import RESTART_GRACE_S, Weather, killing_storm, storm
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


def delays(database: str, weather: Weather) -> list[str]:
    """What P1 and P2 came to on one database, as lines of their table."""
    rows = (
        ("P1: a watcher is told", "p99 ≤ 100 ms", weather.told_ms),
        ("P1: the database says so", "≤ 250 ms", weather.stored_ms),
        ("P2: a watcher is told", "≤ 2,000 ms", weather.gone_told_ms),
        ("P2: the database says so", "≤ 2,000 ms", weather.gone_stored_ms),
    )
    return [
        f"| {database} | {what} | {bound} | {len(values):,} | {percentile(values, 0.5):,.0f} ms | "
        f"{percentile(values, 0.99):,.0f} ms | {values[-1]:,.0f} ms |"
        for what, bound, values in rows
    ]


def is_late(weather: Weather) -> bool:
    """Whether P1 or P2 was not kept."""
    return (
        percentile(weather.told_ms, 0.99) > 100
        or weather.stored_ms[-1] > 250
        or max(weather.gone_told_ms[-1], weather.gone_stored_ms[-1]) > 2000
    )


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


def calm_storm(database: str, directory: Path, users: int, seconds: float) -> Weather:
    """A storm that gives way to the server; for a process of its own, which cannot take that back."""
    PresenceServer.from_nothing = True
    if database == "SQLite":
        server = PresenceServer(directory / "calm.db")
        return asyncio.run(storm(server, users=users, seconds=seconds, give_way=True))
    with mongod.running(replica_set=True) as running:
        on_mongodb = MongoPresenceServer(directory, running)
        return asyncio.run(storm(on_mongodb, users=users, seconds=seconds, give_way=True))


def killed_storm(database: str, directory: Path, users: int, kills: int) -> Weather:
    """A storm in which the server is killed again and again."""
    if database == "SQLite":
        server = PresenceServer(directory / "killed.db", restart_grace_s=RESTART_GRACE_S)
        return asyncio.run(killing_storm(server, users=users, kills=kills))
    with mongod.running(replica_set=True) as running:
        on_mongodb = MongoPresenceServer(directory, running, restart_grace_s=RESTART_GRACE_S)
        return asyncio.run(killing_storm(on_mongodb, users=users, kills=kills))


def report(
    calm: dict[str, Weather],
    killed: dict[str, Weather],
    page: dict[str, object],
    looks: Looks,
    size: tuple[int, int],
    load: float,
    flooded: list[Flood],
    troubles: list[Trouble],
    attacked: list[Outcome],
) -> str:
    """The document."""
    restarts = sorted(restart_s for weather in killed.values() for restart_s in weather.restarts_s)
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
        *(row(f"storm, {database}", weather) for database, weather in calm.items()),
        *(row(f"storm with `kill -9`, {database}", weather) for database, weather in killed.items()),
        "",
    ]
    if restarts:
        lines += [
            f"Ready again after a kill: {restarts[0]:.1f} to {restarts[-1]:.1f} s. `restart_grace` was 9.5 s, "
            "the least that goes with a bound of 2 s;",
            "P5: once it is over, whoever stands online without a connection is false.",
            "",
        ]
    lines += [
        "P1 and P2 during the storm, without a kill. Users connect twenty times a second from another process, and go",
        "without a word once they are known. P1 is measured from when each was to connect, its own handshakes",
        "included, P2 from when it closed its socket. The server, the prober and MongoDB (one member of a replica",
        "set) share the cores with the storm's clients, which give way to them.",
        "",
        "| database | | bound | users | p50 | p99 | max |",
        "|---|---|---|---|---|---|---|",
        *(line for database, weather in calm.items() for line in delays(database, weather)),
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
    faults = [fault for weather in (*calm.values(), *killed.values()) for fault in weather.faults]
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
        calm, killed = {}, {}
        for database in ("SQLite", "MongoDB"):
            killed[database] = killed_storm(database, directory, options.users, options.kills)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                playing = process.submit(calm_storm, database, directory, options.users, options.seconds)
                calm[database] = playing.result()
        troubles = asyncio.run(troubled_storm(directory, users=options.users, seconds=options.trouble))
    text = report(calm, killed, page, looks, (options.stored, options.connected), load, flooded, troubles, attacked)
    surroundings.PAGE.write_text(text + surroundings.section_of(surroundings.PAGE.read_text()))
    sys.stdout.write(text)
    false = any(weather.faults for weather in (*calm.values(), *killed.values()))
    false = false or any(flood.faults for flood in flooded)
    false = false or any(outcome.faults or outcome.late for outcome in attacked)
    false = false or any(trouble.faults for trouble in troubles)
    late = any(map(is_late, calm.values())) or looks.seconds[-1] > 1
    return 1 if false or page["changes"] != ["connect"] or late else 0


if __name__ == "__main__":
    sys.exit(main())
