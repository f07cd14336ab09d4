"""Scaling: what a delivery, a change and a storm cost as the numbers grow. ``results/curves.json`` has every point.

One server of each kind carries more and more connections, so that a point costs only its own work. The curves:

- ``connections``: CPU per delivery, and RSS per connection, of one event to everybody.
- ``watchers``: CPU per change of a user with so many watchers, on all connections of the last point.
- ``idle``: CPU of a server that only keeps its connections, by their heartbeats.
- ``changes``: CPU of a server on which so many users change a second, each watched by ``CONTACTS``.
- ``storm``: CPU and frames of the join storm, the seed's design beside ours.
"""

import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks import database
from benchmarks.processes import Cores
from benchmarks.servers import FLOOR, GATEWAY, NODE, PRESENCE, SEED, Run, running
from benchmarks.suite import Plan, Sample
from benchmarks.suites.common import AFTERMATH_S, cpu_s_of
from benchmarks.suites.storm import HERENOW, storm

NAME = "curves"

DELIVERIES = 50_000
"""In one point, about."""

MOST_ROUNDS = 500

CONTACTS = 20
"""Users who watch each user, in ``changes``."""

RATES = (50, 100, 200, 500, 1000)
RATE_S = 3.0
"""Changes a second, and for how long."""

IDLE_S = 5.0

STORMS = (9, 3, 1)
"""Storms of a ninth of the members, of a third, and of all."""

Points = dict[str, dict[str, list[Sample]]]
"""By curve and server: the points, each with its place ``x``."""

CURVES: Mapping[str, tuple[str, str, tuple[tuple[str, str, int], ...]]] = {
    "connections": (
        "One event to everybody",
        "connections",
        (("cpu_us", "CPU µs per delivery", 2), ("rss_kb", "RSS KB per connection", 1)),
    ),
    "watchers": (
        "A change of a user with so many watchers",
        "watchers",
        (("cpu_us_per_change", "CPU µs per change", 0), ("cpu_us", "CPU µs per delivery", 2)),
    ),
    "idle": ("Nothing but heartbeats", "connections", (("cpu_percent", "CPU % of one core", 2),)),
    "changes": (
        f"Users who change, each watched by {CONTACTS}",
        "changes a second",
        (
            ("cpu_percent", "CPU % of one core", 1),
            ("cpu_us_per_change", "CPU µs per change", 0),
            ("told_p50_ms", "p50 ms to the watcher", 0),
            ("told_p99_ms", "p99 ms", 0),
        ),
    ),
    "storm": (
        "Join storm: everybody watches everybody",
        "members",
        (("cpu_s", "CPU s", 2), ("frames", "frames", 0), ("commands", "database commands", 0)),
    ),
}
"""By name: the title, the heading of ``x``, and of each figure its key, heading and decimals."""


def run(plan: Plan, cores: Cores, console: Console, machine: Mapping[str, str], into: Path) -> None:
    """Measure all curves, and write ``curves.json`` and ``curves.md``.

    Raises:
        BenchmarkError: a server did not start, or did not do what was asked.
    """
    points: Points = {name: {} for name in CURVES}
    for server in (FLOOR, NODE, GATEWAY):
        console.print(f"curves: {server} to {plan.points[-1]:,} connections", style="dim")
        with running(server, cores) as measured:
            points["connections"][server] = _connections(measured, plan)
            if server == GATEWAY:
                points["watchers"][server] = _watchers(measured, plan)
    console.print(f"curves: {PRESENCE}, {plan.watchers:,} connections, changes", style="dim")
    with running(PRESENCE, cores) as measured:
        measured.load.order("users", plan.watchers, contacts=CONTACTS, among=plan.watchers)
        points["idle"][PRESENCE] = _idle(measured, plan)
        points["changes"][PRESENCE] = _changes(measured, plan)
    with database.running():
        for members in (plan.members // part for part in STORMS):
            for server in (SEED, HERENOW):
                console.print(f"curves: {server}, storm of {members}", style="dim")
                with running(server, cores, users=members) as measured:
                    points["storm"].setdefault(server, []).append({"x": members, **storm(measured, members)})
    into.mkdir(parents=True, exist_ok=True)
    page = {"suite": NAME, "plan": plan, "machine": machine, "curves": points}
    (into / f"{NAME}.json").write_bytes(msgspec.json.format(msgspec.json.encode(page), indent=2) + b"\n")
    (into / f"{NAME}.md").write_text(markdown(points, machine), encoding="utf-8")


def _audiences(plan: Plan) -> list[int]:
    """The sizes of the audiences: each number of connections, and powers of ten below."""
    return sorted({*plan.points, *(size for size in (10, 100, 1000) if size < plan.points[0])})


def _rounds(deliveries_a_round: int) -> int:
    return min(MOST_ROUNDS, max(3, math.ceil(DELIVERIES / deliveries_a_round)))


def _connections(run: Run, plan: Plan) -> list[Sample]:
    """Let more and more in, and tell all of them something."""
    empty, found, here = run.server.gauge.memory().rss, [], 0
    for count in plan.points:
        if run.peer.users:
            run.load.order("users", count - here, audiences=tuple(_audiences(plan)))
        else:
            run.load.order("connect", count - here)
        here, rounds = count, _rounds(count)
        memory = run.server.gauge.memory().rss
        if run.peer.users:
            run.load.order("changes", 3, among=count)
            cpu_s = cpu_s_of(run, partial(run.load.order, "changes", rounds, among=count))
        else:
            run.load.order("fanout", 3)
            cpu_s = cpu_s_of(run, partial(run.load.order, "fanout", rounds))
        found.append({"x": count, "cpu_us": cpu_s / rounds / count * 1e6, "rss_kb": (memory - empty) / count / 1000})
    return found


def _watchers(run: Run, plan: Plan) -> list[Sample]:
    """On all connections, let users change who have ever more watchers."""
    found = []
    for size in _audiences(plan):
        rounds = _rounds(size)
        cpu_s = cpu_s_of(run, partial(run.load.order, "changes", rounds, among=size))
        found.append({"x": size, "cpu_us_per_change": cpu_s / rounds * 1e6, "cpu_us": cpu_s / rounds / size * 1e6})
    return found


def _idle(run: Run, plan: Plan) -> list[Sample]:
    """Do nothing, for a while in which a fair share of the connections has a heartbeat."""
    cpu_s = cpu_s_of(run, lambda: time.sleep(IDLE_S))
    return [{"x": plan.watchers, "cpu_percent": cpu_s / (IDLE_S + AFTERMATH_S) * 100}]


def _changes(run: Run, plan: Plan) -> list[Sample]:
    """Let ever more users change a second."""
    found = []
    for rate in RATES:
        if rate > plan.watchers:
            break  # a user would change twice within a flush window, and be told of once
        figures: Sample = {}
        seconds = 0.0

        def phase(rate: int = rate) -> None:
            nonlocal figures, seconds
            reply = run.load.order("claims", rate=rate, seconds=RATE_S, contacts=CONTACTS)
            figures, seconds = reply.figures, reply.wall_s

        cpu_s = cpu_s_of(run, phase)
        found.append(
            {
                "x": rate,
                "watchers": CONTACTS,
                "connections": plan.watchers,
                "cpu_percent": cpu_s / seconds * 100,
                "cpu_us_per_change": cpu_s / figures["changes"] * 1e6,
                **figures,
            }
        )
    return found


def markdown(points: Points, machine: Mapping[str, str]) -> str:
    """Return the curves as a Markdown page."""
    parts = ["# Curves", ""]
    for name, (title, heading, figures) in CURVES.items():
        parts += [f"## {title}", ""]
        columns = [(server, *figure) for server in points[name] for figure in figures]
        headings = [heading, *(f"{server}: {text}" for server, _, text, _ in columns)]
        parts += ["| " + " | ".join(headings) + " |", "|--:" * len(headings) + "|"]
        for place, first in enumerate(next(iter(points[name].values()))):
            cells = [f"{first['x']:,.0f}"]
            for server, key, _, decimals in columns:
                cells.append(f"{points[name][server][place][key]:,.{decimals}f}")
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    parts.extend(f"- {name}: {value}" for name, value in machine.items())
    return "\n".join(parts) + "\n"


def read(path: Path) -> Any:
    """Return what ``run`` has written."""
    return msgspec.json.decode(path.read_bytes())
