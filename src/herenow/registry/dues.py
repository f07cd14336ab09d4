"""What falls due of whom: lingers and idleness by the steady clock, claims by the wall clock."""

from herenow.registry.commands import Now
from herenow.registry.deadlines import Deadlines


class Dues:
    """Of each user at most one deadline on either clock.

    Attributes:
        steady: when lingers and idleness end.
        wall: when claims do.
    """

    __slots__ = ("steady", "wall")

    def __init__(self) -> None:
        self.steady = Deadlines()
        self.wall = Deadlines()

    def pop(self, now: Now, limit: int) -> list[str]:
        """Return up to ``limit`` users of whom something is due. They are given once."""
        users = self.steady.pop_due(now.steady_ms, limit)
        return users + self.wall.pop_due(now.unix_ms, limit - len(users)) if self.wall.heap else users

    def wait_ms(self, now: Now) -> int | None:
        """Return in how many milliseconds something falls due, if the clocks run evenly; ``None``: nothing will."""
        due_ms = self.steady.next_due()
        wait_ms = None if due_ms is None else max(0, due_ms - now.steady_ms)
        if self.wall.heap and (due_ms := self.wall.next_due()) is not None:
            wall_ms = max(0, due_ms - now.unix_ms)
            wait_ms = wall_ms if wait_ms is None else min(wait_ms, wall_ms)
        return wait_ms
