"""What a suite is: its subjects, its figures, and the targets that they are held against."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from benchmarks.processes import Cores

Sample = dict[str, float]
"""The figures of one subject in one repeat, by key."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to do.

    Attributes:
        connections: of fan-out, connect and memory.
        rounds: events to everybody in one order of the fan-out.
        members: users who join in the storm.
        watchers: connections under which latency is measured.
        rate: changes a second there.
        seconds: for how long.
        users: in the database, of store and restart.
        crashed: how many of them a crash left online.
        points: numbers of connections of the curves.
        repeats: samples of each subject; ``None``: as many as the suite finds enough.
    """

    connections: int = 1000
    rounds: int = 100
    members: int = 900
    watchers: int = 5000
    rate: int = 200
    seconds: int = 10
    users: int = 1_000_000
    crashed: int = 100_000
    points: tuple[int, ...] = (1000, 2000, 5000, 10_000)
    repeats: int | None = None

    @classmethod
    def small(cls) -> "Plan":
        """Return a plan that shows in two minutes that everything works. Its figures mean nothing."""
        return cls(60, 20, 40, watchers=100, rate=40, seconds=2, users=5000, crashed=500, points=(50, 100), repeats=1)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a suite: its key in a sample, its heading, and how many decimals it deserves."""

    key: str
    heading: str
    decimals: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """A promise about one figure of one subject.

    Attributes:
        server: the subject.
        limit: at most this: times the same figure of ``base``, or as it is.
        base: the subject that it is compared with.
        key: the figure; the suite's first by default.
        what: the promise in words, for the table of all of them.
        at_least: the limit is a lower one.
        worst: the worst of all samples must keep it, not their median.
    """

    server: str
    limit: float
    base: str | None = None
    key: str | None = None
    what: str = ""
    at_least: bool = False
    worst: bool = False


@dataclass(frozen=True, slots=True)
class Suite:
    """One table of results. The first figure is the one that ratios speak of; less of it is better.

    Attributes:
        name: what it is called on the command line, and its files.
        title: its heading.
        subjects: what is measured, in order.
        sample: measures one subject once: its name, the cores to use, the plan.
        figures: what a sample holds that the table shows.
        targets: what they are held against.
        size: says how much was done, for the caption.
        repeats: samples of each subject, unless the plan says.
        surroundings: what must run meanwhile.
        bases: the subjects that others are compared to.
    """

    name: str
    title: str
    subjects: tuple[str, ...]
    sample: Callable[[str, Cores, Plan], Sample]
    figures: tuple[Figure, ...]
    targets: tuple[Target, ...]
    size: Callable[[Plan], str]
    repeats: int = 3
    surroundings: Callable[[Plan], AbstractContextManager[None]] = field(default=lambda plan: nullcontext())
    bases: tuple[str, ...] = ()

    def times(self, plan: Plan) -> int:
        """How many samples of each subject a plan takes."""
        return self.repeats if plan.repeats is None else plan.repeats


def by_connections(plan: Plan) -> str:
    """The caption of a suite whose size is its connections."""
    return f"connections: {plan.connections:,}"
