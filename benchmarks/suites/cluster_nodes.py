"""Cluster, more nodes: what a connect and a delivery cost on four nodes together, beside one.

On a machine with fewer cores than nodes, how many a second four can serve cannot be seen. What can is whether they need
more CPU for the same work: if not, so many cores serve so many times as much.
"""

import math
import time

from benchmarks.orders import Do
from benchmarks.servers import FOUR_NODES, NODE_OF_CLUSTER, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target, by_connections
from benchmarks.suites.common import cpu_s_of, wait_until_stored
from benchmarks.suites.connect import GONE_S, WARM_UP
from benchmarks.suites.fanout import WARM_UP_DELIVERIES


def measure(run: Run, plan: Plan) -> Sample:
    """Let users in, over all nodes in turn, and tell all of them of one."""
    do: Do = "users"
    run.load.order(do, WARM_UP, spread=True)
    run.load.order("close")
    time.sleep(GONE_S)
    wait_until_stored(run, 0)

    def phase() -> None:
        run.load.order(do, plan.connections, spread=True)
        wait_until_stored(run, plan.connections)

    connect_s = cpu_s_of(run, phase)
    run.load.order("close")
    time.sleep(GONE_S)
    run.load.order(do, plan.connections, audiences=(plan.connections,), spread=True)
    run.load.order("changes", math.ceil(WARM_UP_DELIVERIES / plan.connections), among=plan.connections)
    told_s = cpu_s_of(run, lambda: run.load.order("changes", plan.rounds, among=plan.connections))
    return {
        "cpu_us_per_connect": connect_s / plan.connections * 1e6,
        "cpu_us_per_delivery": told_s / (plan.connections * plan.rounds) * 1e6,
    }


SUITE = Suite(
    "cluster-nodes",
    "Cluster, more nodes: CPU of all nodes together for the same work, beside one node; on SQLite",
    (NODE_OF_CLUSTER, FOUR_NODES),
    with_load(measure),
    (
        Figure("cpu_us_per_connect", "CPU µs per connect"),
        Figure("cpu_us_per_delivery", "CPU µs per delivery", 2),
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
