"""Join storm: everybody comes at once, and wants to know of everybody."""

from benchmarks import database
from benchmarks.processes import RunError
from benchmarks.servers import SEED, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target
from benchmarks.suites.common import cpu_s_of, wait_until_stored

HERENOW = "herenow_dev_on_mongodb"


def measure(run: Run, plan: Plan) -> Sample:
    """Users who join at once, each told of all others, each in the database in the end."""
    return storm(run, plan.members)


def storm(run: Run, members: int) -> Sample:
    """Let so many users join a fresh server."""
    commands, figures = database.commands(), dict[str, float]()

    def phase() -> None:
        reply = run.load.order("storm", members)
        if reply.figures["full"] != members and run.peer.nodes == 1:
            raise RunError(f"{run.name}: {reply.figures['full']:.0f} of {members} users know all others in the end")
        wait_until_stored(run, members)
        figures.update(
            wall_s=reply.wall_s,
            full=reply.figures["full"],
            frames=reply.frames,
            megabytes=reply.bytes / 1e6,
            load_busy_percent=reply.cpu_s / reply.wall_s * 100,
        )

    return {"cpu_s": cpu_s_of(run, phase), **figures, "commands": database.commands() - commands}


SUITE = Suite(
    "storm",
    "Join storm: users connect at once, everybody watches everybody, each join goes to MongoDB",
    (SEED, "node_seed_tuned", HERENOW),
    with_load(measure, users=lambda plan: plan.members),
    (
        Figure("cpu_s", "CPU s", 2),
        Figure("wall_s", "wall s", 2),
        Figure("frames", "frames"),
        Figure("megabytes", "MB", 1),
        Figure("commands", "database commands"),
        Figure("load_busy_percent", "load busy %"),
    ),
    (
        Target(HERENOW, 1 / 8, SEED, what="join storm: CPU"),
        Target(HERENOW, 1 / 10, SEED, "frames", what="join storm: frames"),
        Target(HERENOW, 1 / 20, SEED, "commands", what="join storm: MongoDB operations"),
    ),
    lambda plan: f"members: {plan.members:,}",
    surroundings=lambda plan: database.running(),
    bases=(SEED, "node_seed_tuned"),
)
