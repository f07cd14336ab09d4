"""The storms at full length: ``make soak``. Writes what it saw to ``docs/reliability.md``; exits 1 on any fault.

python -m e2e.soak [--users 1000] [--seconds 60] [--kills 10] [--reloads 200] [--trouble 30]
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from e2e.servers import PresenceServer
from e2e.troubles import Trouble, troubled_storm
from e2e.weather import Weather, killing_storm, storm
from support import ROOT


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


def report(calm: Weather, killed: Weather, page: dict[str, object], troubles: list[Trouble]) -> str:
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
        f"{os.cpu_count()} cores, the load on the same machine.",
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
        f"A page of the stock JavaScript client, reloaded {page['reloads']} times at random moments inside the "
        f"grace: a watcher saw {page['changes']}, and at the end `{page['final']}`.",
        "",
    ]
    lines += troubles_table(troubles)
    faults = calm.faults + killed.faults + [fault for trouble in troubles for fault in trouble.faults]
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
    parser.add_argument("--trouble", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        calm = asyncio.run(storm(directory / "calm.db", users=options.users, seconds=options.seconds))
        killed = asyncio.run(killing_storm(directory / "killed.db", users=options.users, kills=options.kills))
        page = reloads(directory / "page.db", options.reloads)
        troubles = asyncio.run(troubled_storm(directory, users=options.users, seconds=options.trouble))
    text = report(calm, killed, page, troubles)
    (ROOT / "docs/reliability.md").write_text(text)
    sys.stdout.write(text)
    wrong = calm.faults or killed.faults or any(trouble.faults for trouble in troubles)
    return 1 if wrong or page["changes"] != ["connect"] else 0


if __name__ == "__main__":
    sys.exit(main())
