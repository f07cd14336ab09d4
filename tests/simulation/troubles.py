"""What is wrong in a simulated world, and since when: so that it is known what may be promised at a moment."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from simulation.loop import VirtualLoop
from simulation.nodes import Node

GAP_S = 4.0
"""A node that was in reach for less than this between two troubles had no time to say again what it serves."""

BRIEF_S = 5.0
"""The consequences of a trouble that is not grave are over after so long."""


class _Reach:
    """Of one node: how many troubles keep it from Redis, and since when without a pause that would be long enough."""

    def __init__(self) -> None:
        self.troubles = 0
        self.since_s = 0.0
        self.until_s = -1000.0
        self.lasted: list[tuple[float, float]] = []  # from when to when


class Troubles:
    """All of it.

    Args:
        loop: whose time it is.

    Attributes:
        counts: how often each kind of fault was injected.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._active = 0
        self._ended: list[tuple[float, bool]] = []
        self._trimmed_s = -1000.0
        self._lost: list[float] = []
        self._reaches: dict[Node, _Reach] = {}
        self.counts = Counter[str]()

    @property
    def now_s(self) -> float:
        """The time of the world."""
        return self._loop.now_s

    @contextlib.contextmanager
    def of(self, kind: str, *out_of_reach: Node, is_grave: bool = True, counts: bool = True) -> Iterator[None]:
        """A fault lasts.

        Args:
            kind: what people call it.
            out_of_reach: the nodes that it keeps from Redis.
            is_grave: its consequences last for as long as a lease and the grace of a restart.
            counts: it is one of its own, and no part of another.
        """
        self.counts[kind] += counts
        self._active += 1
        for node in out_of_reach:
            self._begin(self._reach(node))
        try:
            yield
        finally:
            self._active -= 1
            self._ended.append((self.now_s, is_grave))
            for node in out_of_reach:
                self._end(self._reach(node))

    def loses(self) -> None:
        """Redis is going to lose something of what it knows."""
        self._lost.append(self.now_s)

    def has_lost(self, since_s: float) -> bool:
        """Whether Redis has lost something since a moment, or was about to."""
        return any(at_s >= since_s for at_s in self._lost)

    def trimmed(self) -> None:
        """The clock of Redis was trimmed."""
        self._trimmed_s = self.now_s

    def was_trimmed(self) -> bool:
        """Whether it was, lately."""
        return self.now_s - self._trimmed_s < 60

    def _reach(self, node: Node) -> _Reach:
        return self._reaches.setdefault(node, _Reach())

    def _begin(self, reach: _Reach) -> None:
        if not reach.troubles and self.now_s - reach.until_s > GAP_S:
            reach.since_s = self.now_s
        reach.troubles += 1

    def _end(self, reach: _Reach) -> None:
        reach.troubles -= 1
        reach.until_s = self.now_s
        reach.lasted.append((reach.since_s, self.now_s))

    def was_out_of_reach(self, node: Node, at_s: float, least_s: float, back_s: float) -> bool:
        """Whether a node had been out of reach for so long at a moment, or had until less than ``back_s`` before."""
        reach = self._reach(node)
        if reach.troubles and at_s - reach.since_s >= least_s:
            return True
        return any(
            min(ended_s, at_s) - began_s >= least_s and at_s - ended_s < back_s for began_s, ended_s in reach.lasted
        )

    def is_sound(self, node: Node, for_s: float) -> bool:
        """Whether nothing has kept a node from Redis for so long."""
        reach = self._reach(node)
        return not reach.troubles and self.now_s - reach.until_s > for_s

    def is_disturbed(self, for_s: float) -> bool:
        """Whether there is any trouble, or was less than so long ago."""
        return bool(self._active) or any(self.now_s - ended_s < for_s for ended_s, _ in self._ended[-5:])

    def settled_s(self, since_s: float, grave_s: float) -> float:
        """When the consequences of all troubles since a moment are over.

        Args:
            since_s: the moment; what ended before, but has consequences still, counts too.
            grave_s: how long those of a grave trouble last.
        """
        if self._active:
            return self.now_s + grave_s
        ends = ((ended_s, grave_s if is_grave else BRIEF_S) for ended_s, is_grave in self._ended)
        return max((ended_s + lasts_s for ended_s, lasts_s in ends if ended_s + lasts_s > since_s), default=0.0)
