"""Latency: how soon watchers know, under load. See ``arrivals.py`` for the open loop that measures it."""

from benchmarks.arrivals import EARLIEST_S, STAY_S, TAIL_S
from benchmarks.servers import PRESENCE, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target

CONTACTS = 20
"""Users whom each connection watches."""


def measure(run: Run, plan: Plan) -> Sample:
    """Let users come and go before a crowd that watches them."""
    run.load.order("users", plan.watchers)
    run.load.order("expect", rate=plan.rate, seconds=plan.seconds, contacts=CONTACTS)
    before_s = run.server.gauge.cpu_s()
    reply = run.load.order("arrivals")
    cpu_s = run.server.gauge.cpu_s() - before_s
    return {
        **reply.figures,
        "changes_per_s": reply.figures["changes"] / reply.wall_s,
        "cpu_percent": cpu_s / reply.wall_s * 100,
        "load_busy_percent": reply.cpu_s / reply.wall_s * 100,
        "rss_mb": run.server.gauge.memory().rss / 1e6,
    }


SUITE = Suite(
    "latency",
    "Latency: from the moment meant for a connect, or a close, to each watcher",
    (PRESENCE,),
    with_load(measure),
    (
        Figure("connect_p99_ms", "connect p99 ms"),
        Figure("connect_p50_ms", "p50"),
        Figure("connect_max_ms", "max"),
        Figure("offline_p99_ms", "offline p99 ms"),
        Figure("offline_p50_ms", "p50"),
        Figure("offline_max_ms", "max"),
        Figure("offline_earliest_ms", "earliest after the close, ms"),
        Figure("cpu_percent", "server's CPU %"),
        Figure("load_busy_percent", "load busy %"),
        Figure("rss_mb", "RSS MB"),
    ),
    (
        Target(PRESENCE, 100, key="connect_p99_ms", what="connect → watcher, p99, ms"),
        Target(PRESENCE, 2000, key="offline_p99_ms", what="offline → watcher, p99, ms after the close"),
        Target(
            PRESENCE,
            EARLIEST_S * 1000,
            key="offline_earliest_ms",
            what="offline → watcher, the earliest, ms after the close",
            at_least=True,
            worst=True,
        ),
    ),
    lambda plan: (
        f"watching connections: {plan.watchers:,}, {CONTACTS} contacts each; changes a second: {plan.rate}, half of "
        f"them connects; measured for {plan.seconds} s, from {STAY_S:g} s on, with {TAIL_S:g} s more behind"
    ),
    repeats=2,
)
