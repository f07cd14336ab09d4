"""Cluster, join storm: everybody comes at once, to three nodes, and wants to know of everybody."""

from benchmarks import database
from benchmarks.servers import THREE_NODES_ON_MONGODB, THREE_SEEDS, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target
from benchmarks.suites.storm import storm

MEMBERS = 600


def _members(plan: Plan) -> int:
    return min(MEMBERS, plan.members)


def measure(run: Run, plan: Plan) -> Sample:
    """Users who join at once over all nodes."""
    assert run.redis is not None
    with run.redis.counting() as counted:
        sample = storm(run, _members(plan))
    return {
        **sample,
        "redis_commands": counted["sent"],
        "full_percent": sample["full"] / _members(plan) * 100,
    }


SUITE = Suite(
    "cluster-storm",
    "Cluster, join storm: users connect at once to three servers, all watch all, each join goes to MongoDB",
    (THREE_SEEDS, THREE_NODES_ON_MONGODB),
    with_load(measure, users=_members),
    (
        Figure("cpu_s", "CPU s of all servers", 2),
        Figure("frames", "frames"),
        Figure("redis_commands", "Redis commands"),
        Figure("full_percent", "users who know all in the end, %"),
        Figure("commands", "database commands"),
        Figure("wall_s", "wall s", 2),
    ),
    (
        Target(THREE_NODES_ON_MONGODB, 1 / 8, THREE_SEEDS, what="join storm on three nodes: CPU"),
        Target(THREE_NODES_ON_MONGODB, 1 / 10, THREE_SEEDS, "frames", what="join storm on three nodes: frames"),
        Target(
            THREE_NODES_ON_MONGODB, 2, THREE_SEEDS, "redis_commands", what="join storm on three nodes: Redis commands"
        ),
        Target(
            THREE_NODES_ON_MONGODB,
            100,
            key="full_percent",
            what="join storm on three nodes: users who know all in the end, %",
            at_least=True,
            worst=True,
        ),
    ),
    lambda plan: f"members: {_members(plan):,}",
    surroundings=lambda plan: database.running(),
    bases=(THREE_SEEDS,),
)
