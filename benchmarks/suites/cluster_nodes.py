"""Cluster, more nodes: what a connect and a delivery cost on four nodes together, beside one; and one who only hears.

On a machine with fewer cores than nodes, how many a second four can serve cannot be seen. What can is whether they need
more CPU for the same work: if not, so many cores serve so many times as much.
"""

import math
import time

from benchmarks.orders import Do
from benchmarks.servers import FOUR_NODES, NODE_OF_CLUSTER, TWO_NODES, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target, by_connections
from benchmarks.suites.common import cpu_s_of, wait_until_stored
from benchmarks.suites.connect import GONE_S, WARM_UP
from benchmarks.suites.fanout import WARM_UP_DELIVERIES

HEARING = 2
"""Of so many nodes, the first has all users, and the other only hears of them."""

RATE = 500
"""Users who connect in a second."""


def measure(run: Run, plan: Plan) -> Sample:
    """Let users in, over all nodes in turn or to the first of two, and tell all of them of one."""
    do: Do = "users"
    spread = run.peer.nodes != HEARING
    assert run.redis is not None
    run.load.order(do, WARM_UP, spread=spread)
    run.load.order("close")
    time.sleep(GONE_S)
    wait_until_stored(run, 0)

    def phase() -> None:
        run.load.order(do, plan.connections, rate=RATE, spread=spread)
        wait_until_stored(run, plan.connections)

    heard_s, redis_s, sent = run.servers[-1].gauge.cpu_s(), run.redis.cpu_s(), run.redis.sent_bytes()
    connect_s = cpu_s_of(run, phase)
    redis_s, sent = run.redis.cpu_s() - redis_s, run.redis.sent_bytes() - sent
    heard_s = run.servers[-1].gauge.cpu_s() - heard_s
    run.load.order("close")
    time.sleep(GONE_S)
    run.load.order(do, plan.connections, audiences=(plan.connections,), spread=spread)
    run.load.order("changes", math.ceil(WARM_UP_DELIVERIES / plan.connections), among=plan.connections)
    told_s = cpu_s_of(run, lambda: run.load.order("changes", plan.rounds, among=plan.connections))
    return {
        "cpu_us_per_connect": connect_s / plan.connections * 1e6,
        "cpu_us_per_delivery": told_s / (plan.connections * plan.rounds) * 1e6,
        "redis_us_per_connect": redis_s / plan.connections * 1e6,
        "redis_bytes_per_connect": sent / plan.connections,
        "cpu_us_per_heard": 0.0 if spread else heard_s / plan.connections * 1e6,
    }


SUITE = Suite(
    "cluster-nodes",
    "Cluster, more nodes: CPU of all together for the same work, beside one (of two, one has all users); on SQLite",
    (NODE_OF_CLUSTER, TWO_NODES, FOUR_NODES),
    with_load(measure),
    (
        Figure("cpu_us_per_connect", "CPU µs per connect"),
        Figure("cpu_us_per_delivery", "CPU µs per delivery", 2),
        Figure("redis_us_per_connect", "Redis CPU µs per connect", 1),
        Figure("redis_bytes_per_connect", "bytes that Redis sends per connect"),
        Figure("cpu_us_per_heard", "of it where it is only heard, CPU µs", 1),
    ),
    (
        Target(FOUR_NODES, 1.25, NODE_OF_CLUSTER, what="CPU per connect on four nodes, beside one"),
        Target(
            FOUR_NODES,
            1.25,
            NODE_OF_CLUSTER,
            key="cpu_us_per_delivery",
            what="CPU per delivery on four nodes, beside one",
        ),
    ),
    by_connections,
    bases=(NODE_OF_CLUSTER,),
)
