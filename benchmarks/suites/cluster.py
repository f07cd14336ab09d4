"""Cluster: what it costs that a server is a node, beside the same server alone."""

import math
import time

from benchmarks.orders import Do
from benchmarks.servers import NODE_OF_CLUSTER, PRESENCE, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target, by_connections
from benchmarks.suites.common import cpu_s_of, wait_until_stored
from benchmarks.suites.connect import GONE_S, WARM_UP
from benchmarks.suites.fanout import WARM_UP_DELIVERIES

RATE = 1000
"""Users who connect in a second, where it is asked what that costs Redis."""


def measure(run: Run, plan: Plan) -> Sample:
    """Let users in, at once and at a rate, and tell all of them of one; what Redis does for it is its own."""
    do: Do = "users"
    run.load.order(do, WARM_UP)
    run.load.order("close")
    time.sleep(GONE_S)
    wait_until_stored(run, 0)
    empty, _ = _redis(run)

    def phase() -> None:
        run.load.order(do, plan.connections)
        wait_until_stored(run, plan.connections)

    connect_s = cpu_s_of(run, phase)
    used, _ = _redis(run)
    run.load.order("close")
    time.sleep(GONE_S)
    wait_until_stored(run, 0)
    _, before_s = _redis(run)
    run.load.order(do, plan.connections, rate=RATE)
    wait_until_stored(run, plan.connections)
    _, after_s = _redis(run)
    run.load.order("close")
    time.sleep(GONE_S)
    run.load.order(do, plan.connections, audiences=(plan.connections,))
    run.load.order("changes", math.ceil(WARM_UP_DELIVERIES / plan.connections), among=plan.connections)
    rounds = plan.rounds
    told_s = cpu_s_of(run, lambda: run.load.order("changes", rounds, among=plan.connections))
    sample = {
        "cpu_us_per_connect": connect_s / plan.connections * 1e6,
        "cpu_us_per_delivery": told_s / (plan.connections * rounds) * 1e6,
        "redis_us_per_connect": 0.0,
        "redis_bytes_per_user": 0.0,
    }
    if run.redis is None:
        return sample
    return sample | {
        "redis_us_per_connect": (after_s - before_s) / plan.connections * 1e6,
        "redis_bytes_per_user": (used - empty) / plan.connections,
    }


def _redis(run: Run) -> tuple[int, float]:
    """The bytes that Redis holds, and the CPU seconds that it has used."""
    return (0, 0.0) if run.redis is None else (run.redis.used_bytes(), run.redis.cpu_s())


SUITE = Suite(
    "cluster",
    "Cluster: a node with its Redis, beside the same server alone; users with JWT who all watch each other, on SQLite",
    (PRESENCE, NODE_OF_CLUSTER),
    with_load(measure),
    (
        Figure("cpu_us_per_connect", "node CPU µs per connect"),
        Figure("cpu_us_per_delivery", "node CPU µs per delivery", 2),
        Figure("redis_us_per_connect", f"Redis CPU µs per connect at {RATE:,}/s", 1),
        Figure("redis_bytes_per_user", "Redis bytes a user online"),
    ),
    (
        Target(NODE_OF_CLUSTER, 1.25, PRESENCE, what="node CPU per connect, beside the same on one process"),
        Target(NODE_OF_CLUSTER, 1.05, PRESENCE, key="cpu_us_per_delivery", what="CPU per delivery, beside one process"),
        Target(NODE_OF_CLUSTER, 30, key="redis_us_per_connect", what=f"Redis CPU per connect at {RATE:,}/s, µs"),
        Target(NODE_OF_CLUSTER, 600, key="redis_bytes_per_user", what="Redis memory a user online, bytes"),
    ),
    by_connections,
    bases=(PRESENCE,),
)
