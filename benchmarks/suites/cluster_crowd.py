"""Cluster, a crowd: what 10,000 idle connections cost Redis, and clients who come back to see all of them."""

import time

import httpx

from benchmarks import wire
from benchmarks.orders import Do
from benchmarks.servers import NODE_OF_CLUSTER, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target
from benchmarks.suites.common import wait_until_stored

IDLE_S = 20.0
"""How long nothing is done."""

RETURNING = 10
"""One of so many comes back."""


def measure(run: Run, plan: Plan) -> Sample:
    """Let a crowd in and leave it alone; then let others come who want to know all of it."""
    do: Do = "users"
    crowd, comers = plan.points[-1], plan.points[-1] // RETURNING
    assert run.redis is not None
    run.load.order(do, crowd - comers)
    wait_until_stored(run, crowd - comers)
    before_s = run.redis.cpu_s()
    time.sleep(IDLE_S)
    idle_s = run.redis.cpu_s() - before_s
    pages = _pages(run)
    reply = run.load.order("everybody", comers, among=crowd)
    return {
        "redis_idle_percent": idle_s / IDLE_S * 100,
        "pages_read": _pages(run) - pages,
        "wall_s": reply.wall_s,
    }


def _pages(run: Run) -> float:
    """How many pages of users the node has read from Redis."""
    answer = httpx.get(
        f"http://127.0.0.1:{run.server.port}/metrics", headers={"Authorization": f"Bearer {wire.API_KEY}"}
    )
    answer.raise_for_status()
    (line,) = [line for line in answer.text.splitlines() if line.startswith("herenow_cluster_pages_total ")]
    return float(line.split()[1])


SUITE = Suite(
    "cluster-crowd",
    "Cluster, a crowd on one node: idle, and then joined by clients who each watch all",
    (NODE_OF_CLUSTER,),
    with_load(measure),
    (
        Figure("pages_read", "pages read from Redis"),
        Figure("wall_s", "s until all know all", 1),
        Figure("redis_idle_percent", "Redis busy %, idle", 2),
    ),
    (
        Target(NODE_OF_CLUSTER, 20, what="pages read from Redis when a tenth of a crowd comes, each to watch all"),
        Target(NODE_OF_CLUSTER, 1, key="redis_idle_percent", what="Redis CPU with the crowd idle, % of a core"),
    ),
    lambda plan: f"users online: {plan.points[-1]:,}, of whom come at once: {plan.points[-1] // RETURNING:,}",
    repeats=2,
)
