"""What is measured: for each suite its phases, its figures, and the targets they are held against.

One call of a suite's ``measure`` gives one sample of one freshly started server. Every suite first lets the server do
a little of the same work, so that the loading of code and a compiler's warming up do not count.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from benchmarks import database
from benchmarks.processes import LoadProcess, RunError, ServerProcess, node_peer, python_peer

FLOOR = "bare_send"
NODE = "node_socketio"

SERVERS: Mapping[str, list[str]] = {
    FLOOR: python_peer("bare_send"),
    NODE: node_peer("node_socketio"),
    "python_socketio": python_peer("python_socketio"),
    "raw_asgi": python_peer("raw_asgi"),
    "herenow_fast": python_peer("herenow_fast"),
    "herenow_asgi": python_peer("herenow_asgi"),
}
"""Each server's name and the command that starts it, in the order in which they run."""

AFTERMATH_S = 0.1
"""How long after a phase the CPU time is still the phase's: collections and closures that it left behind."""

FANOUTS = 5
FANOUTS_S = 6.0
"""Orders in one sample of the fan-out, at most, and seconds after which no further one is begun."""

WARM_UP_DELIVERIES = 20_000
WARM_UP_CONNECTS = 500
"""How much of the same work comes before the measured one. Node's cost per delivery stops falling at about 10,000."""

SEED = "node_seed"
PRESENCE = "herenow_presence"

PRESENCE_SERVERS: Mapping[str, list[str]] = {SEED: node_peer(SEED), PRESENCE: python_peer(PRESENCE)}
"""Whole presence servers, with MongoDB behind them."""

STORED_S = 20.0
"""How long the database may take to hold what was told."""

IDLE_S = 3.0
"""How long a server is left alone before its memory is read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to do: connections, rounds of the fan-out, members of the storm, and repeats of everything."""

    connections: int = 1000
    rounds: int = 100
    members: int = 900
    repeats: int = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a suite: its key in a sample, its heading, and how many decimals it deserves."""

    key: str
    heading: str
    decimals: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """A server's figure must be at most ``limit``: times the same figure of ``base``, or as it is.

    Without ``key`` it is the suite's first figure.
    """

    server: str
    limit: float
    base: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """One table of results. The first figure is the one that ratios and targets speak of; less of it is better."""

    name: str
    title: str
    measure: Callable[[ServerProcess, LoadProcess, Plan], dict[str, float]]
    figures: tuple[Figure, ...]
    targets: tuple[Target, ...]
    servers: Mapping[str, list[str]] = field(default_factory=lambda: SERVERS)
    surroundings: Callable[[], AbstractContextManager[None]] = nullcontext
    prepare: Callable[[Plan], None] = lambda plan: None


def measure_fanout(server: ServerProcess, load: LoadProcess, plan: Plan) -> dict[str, float]:
    """One event to every connection, ``rounds`` times; of a few such orders to the same server, the median.

    Whether the load keeps up just so, or falls behind and reads several events at once, makes a third of the cost.
    """
    load.order("connect", plan.connections)
    load.order("fanout", math.ceil(WARM_UP_DELIVERIES / plan.connections))
    samples: list[dict[str, float]] = []
    ends_s = time.monotonic() + FANOUTS_S
    while not samples or (len(samples) < FANOUTS and time.monotonic() < ends_s):
        samples.append(_fan_out(server, load, plan))
    return sorted(samples, key=lambda sample: sample["cpu_us_per_delivery"])[len(samples) // 2]


def _fan_out(server: ServerProcess, load: LoadProcess, plan: Plan) -> dict[str, float]:
    time.sleep(AFTERMATH_S)
    before_s = server.gauge.cpu_s()
    reply = load.order("fanout", plan.rounds)
    time.sleep(AFTERMATH_S)
    cpu_s = server.gauge.cpu_s() - before_s
    deliveries = plan.connections * plan.rounds
    return {
        "cpu_us_per_delivery": cpu_s / deliveries * 1e6,
        "deliveries_per_s": deliveries / reply.wall_s,
        "load_busy_percent": reply.cpu_s / reply.wall_s * 100,
    }


def measure_connect(server: ServerProcess, load: LoadProcess, plan: Plan) -> dict[str, float]:
    """Open all connections, from TCP to the answer to CONNECT."""
    load.order("connect", WARM_UP_CONNECTS)
    load.order("close")
    time.sleep(AFTERMATH_S)
    before_s = server.gauge.cpu_s()
    reply = load.order("connect", plan.connections)
    time.sleep(AFTERMATH_S)
    cpu_s = server.gauge.cpu_s() - before_s
    return {
        "cpu_us_per_connect": cpu_s / plan.connections * 1e6,
        "connects_per_s": plan.connections / reply.wall_s,
        "load_busy_percent": reply.cpu_s / reply.wall_s * 100,
    }


def measure_memory(server: ServerProcess, load: LoadProcess, plan: Plan) -> dict[str, float]:
    """Growth of the server's memory from no connection to all of them, idle.

    The warm-up is a twentieth of them, closed again. Memory that it leaves behind is used again and so missing from
    the growth: a larger one would flatter.
    """
    load.order("connect", max(1, plan.connections // 20))
    load.order("close")
    time.sleep(IDLE_S)
    empty = server.gauge.memory()
    load.order("connect", plan.connections)
    time.sleep(IDLE_S)
    full = server.gauge.memory()
    return {
        "rss_kb_per_connection": (full.rss - empty.rss) / plan.connections / 1000,
        "pss_kb_per_connection": (full.pss - empty.pss) / plan.connections / 1000,
        "rss_mb_empty": empty.rss / 1e6,
        "rss_mb_full": full.rss / 1e6,
    }


def measure_storm(server: ServerProcess, load: LoadProcess, plan: Plan) -> dict[str, float]:
    """Users who join at once, each told of all others, each in the database in the end."""
    commands, before_s = database.commands(), server.gauge.cpu_s()
    reply = load.order("storm", plan.members)
    ends_s = time.monotonic() + STORED_S
    while database.online() < plan.members:
        if time.monotonic() > ends_s:
            raise RunError(f"{server.name}: {database.online()} of {plan.members} users are online in the database")
        time.sleep(0.05)
    time.sleep(AFTERMATH_S)
    return {
        "cpu_s": server.gauge.cpu_s() - before_s,
        "wall_s": reply.wall_s,
        "frames": reply.frames,
        "megabytes": reply.bytes / 1e6,
        "commands": database.commands() - commands,
        "load_busy_percent": reply.cpu_s / reply.wall_s * 100,
    }


SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "fanout",
            "Fan-out: one event of about 150 bytes to every connection",
            measure_fanout,
            (
                Figure("cpu_us_per_delivery", "CPU µs per delivery", 2),
                Figure("deliveries_per_s", "deliveries/s"),
                Figure("load_busy_percent", "load busy %"),
            ),
            (
                Target("herenow_fast", 1.4, FLOOR),
                Target("herenow_fast", 0.6, NODE),
                Target("herenow_asgi", 1.0, NODE),
            ),
        ),
        Suite(
            "connect",
            "Connect: TCP, WebSocket, Engine.IO and Socket.IO handshakes",
            measure_connect,
            (
                Figure("cpu_us_per_connect", "CPU µs per connect"),
                Figure("connects_per_s", "connects/s"),
                Figure("load_busy_percent", "load busy %"),
            ),
            (Target("herenow_fast", 0.5, NODE),),
        ),
        Suite(
            "memory",
            "Memory: growth per idle connection (KB = 1,000 bytes, without the kernel's)",
            measure_memory,
            (
                Figure("rss_kb_per_connection", "RSS KB per connection", 1),
                Figure("pss_kb_per_connection", "PSS KB per connection", 1),
                Figure("rss_mb_empty", "RSS MB, none", 1),
                Figure("rss_mb_full", "RSS MB, all", 1),
            ),
            (Target("herenow_fast", 8.0),),
        ),
        Suite(
            "storm",
            "Join storm: users connect at once, everybody watches everybody, each join goes to MongoDB",
            measure_storm,
            (
                Figure("cpu_s", "CPU s", 2),
                Figure("wall_s", "wall s", 2),
                Figure("frames", "frames"),
                Figure("megabytes", "MB", 1),
                Figure("commands", "database commands"),
                Figure("load_busy_percent", "load busy %"),
            ),
            (
                Target(PRESENCE, 1 / 8, SEED),
                Target(PRESENCE, 1 / 10, SEED, "frames"),
                Target(PRESENCE, 1 / 20, SEED, "commands"),
            ),
            servers=PRESENCE_SERVERS,
            surroundings=database.running,
            prepare=lambda plan: database.seed(plan.members),
        ),
    )
}
