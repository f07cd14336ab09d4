"""Whether the other nodes live: judged by watching their beats move, by no clock but this node's steady one.

What counts is time in which this node's own beats went through: while Redis stalls, nobody's do, and nobody is dead.
"""

from collections.abc import Mapping

LONGEST_STEP_S = 2.0
"""Between two beats of this node's own, or twice their interval: a longer pause was Redis', or its own, and tells
nothing of the others."""


class Watch:
    """Watches the beats of all members.

    Args:
        lease_s: a node whose beats stand still for so long is dead.
        beat_s: between two beats.
    """

    def __init__(self, lease_s: float, beat_s: float) -> None:
        self._lease_s = lease_s
        self._longest_s = max(LONGEST_STEP_S, 2 * beat_s)
        self._looked_s: float | None = None
        self._seen: dict[str, tuple[int, float]] = {}  # of each node its beats, and for how long they stand still

    def look(self, beats: Mapping[str, int], now_s: float) -> dict[str, int]:
        """Take in the beats of all members, as this node's own beat was told them.

        Args:
            beats: by node.
            now_s: the time, by a steady clock.

        Returns:
            The dead, each with its beats.
        """
        passed_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        self._looked_s = now_s
        seen: dict[str, tuple[int, float]] = {}
        for node, number in beats.items():
            before, still_s = self._seen.get(node, (None, 0.0))
            if number != before:
                still_s = 0.0
            elif passed_s <= self._longest_s:
                still_s += passed_s
            seen[node] = number, still_s
        self._seen = seen
        return {node: number for node, (number, still_s) in seen.items() if still_s >= self._lease_s}

    def still_s(self, node: str) -> float:
        """For how long a node's beats stand still."""
        return self._seen.get(node, (0, 0.0))[1]
