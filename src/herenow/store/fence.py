"""The fence: who was silent for longer than their lease may have been replaced, and writes nothing before they know.

A process may be stopped between any two instructions, for as long as it likes, and go on as if nothing had been. So
that it was the owner a moment ago says nothing; each write is fenced twice:

- Before it is sent: the last confirmed beat must be younger than the lease, on a clock that goes on while the process
  or the machine sleeps, counted from before that beat was sent. Else the node beats first, and so learns who is owner.
- Where it is done: SQLite looks at the node's row in the transaction of the write. MongoDB does the write only before
  the end of the lease, by the clock that stamped the beat; nobody else can own the store before that
  (docs/decisions/024).
"""

from collections.abc import Callable

from herenow.errors import StoreInUse
from herenow.store.nodes import Node
from herenow.times import steady_s


class Fence:
    """What a store may write, for the node that it was claimed with; without a claim, such as in a command, all.

    Args:
        clock: seconds that only grow, also while the machine sleeps.
    """

    def __init__(self, clock: Callable[[], float] = steady_s) -> None:
        self._clock = clock
        self._node: Node | None = None
        self._ends_s = 0.0
        self._lost: StoreInUse | None = None
        self.ends_ms = 0
        """When the lease ends, by the clock of the database."""

    def now_s(self) -> float:
        """The time to remember before a beat is sent."""
        return self._clock()

    def confirm(self, node: Node, *, sent_s: float, beat_ms: int) -> None:
        """The store has a beat of the node, which was sent at a time of ours and stamped with one of the database."""
        self._node = node
        self._lost = None
        self._ends_s = sent_s + node.lease_ms / 1000
        self.ends_ms = beat_ms + node.lease_ms

    def lose(self, error: StoreInUse) -> None:
        """Another node owns the store: nothing is written any more, until it is claimed again."""
        self._lost = error

    def lift(self) -> None:
        """The claim has ended."""
        self._node = None

    def expire(self) -> None:
        """The database says that the lease has ended: beat before the next write."""
        self._ends_s = self._clock()

    def holder(self) -> Node | None:
        """The node that the writes are for; ``None``: there is no claim.

        Raises:
            StoreInUse: another one has replaced it.
        """
        if self._node is not None and self._lost is not None:
            raise self._lost
        return self._node

    @property
    def is_over(self) -> bool:
        """Whether the node must beat before it may write."""
        return self._clock() >= self._ends_s
