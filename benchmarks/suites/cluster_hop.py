"""Cluster, the hop: how much later a watcher knows who is on another node than who connected."""

from benchmarks.orders import Do
from benchmarks.servers import TWO_NODES, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target

WATCHERS = 500
CONTACTS = 20
RATE = 100
"""Changes a second."""


def measure(run: Run, plan: Plan) -> Sample:
    """Let users come and go on the node of their watchers, and then on the other one."""
    do: Do = "users"
    run.load.order(do, min(WATCHERS, plan.watchers))
    same, other = (_run(run, plan, spread=spread) for spread in (False, True))
    return {
        "hop_p50_ms": other["connect_p50_ms"] - same["connect_p50_ms"],
        "same_p50_ms": same["connect_p50_ms"],
        "other_p50_ms": other["connect_p50_ms"],
        "same_p99_ms": same["connect_p99_ms"],
        "other_p99_ms": other["connect_p99_ms"],
    }


def _run(run: Run, plan: Plan, *, spread: bool) -> dict[str, float]:
    run.load.order("expect", rate=RATE, seconds=plan.seconds, contacts=CONTACTS, spread=spread)
    return run.load.order("arrivals").figures


SUITE = Suite(
    "cluster-hop",
    "Cluster, the hop: from the moment meant for a connect to each watcher, on the same node and on the other of two",
    (TWO_NODES,),
    with_load(measure),
    (
        Figure("hop_p50_ms", "the hop, p50 ms", 1),
        Figure("same_p50_ms", "same node p50 ms", 1),
        Figure("other_p50_ms", "other node p50 ms", 1),
        Figure("same_p99_ms", "same node p99 ms", 1),
        Figure("other_p99_ms", "other node p99 ms", 1),
    ),
    (
        Target(TWO_NODES, 5, what="connect on one node → watcher on another, p50 beside the same node, ms"),
        Target(TWO_NODES, 100, key="other_p99_ms", what="connect on one node → watcher on another, p99, ms"),
    ),
    lambda plan: (
        f"watching connections: {min(WATCHERS, plan.watchers):,}, {CONTACTS} contacts each; changes a second: {RATE}, "
        f"measured for {plan.seconds} s"
    ),
)
