"""What falls due when: one time per key, on whatever clock the caller counts in.

Pure: the caller passes the time in. A heap with lazy deletion: moving or cancelling a deadline leaves its old entry
behind, to be skipped when it surfaces. No generation number is needed for that: an entry counts only while it agrees
with the one time that is kept for its key, and an entry that agrees is due, whoever put it there.
"""

import heapq
import sys

_SLACK = 64
"""Dead entries that are always tolerated, so that a nearly empty heap is not rebuilt again and again."""


class Deadlines:
    """At most one deadline per key. The memory is bounded by the live keys, however often they are set again."""

    __slots__ = ("_due", "heap")

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self.heap: list[tuple[int, str]] = []
        """All that was ever set and has not been looked at since; empty where nothing is due, ever."""

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: str, due_ms: int | None) -> None:
        """Give ``key`` this deadline, in place of any other; ``None``: none. One that is past is due at once."""
        if due_ms == self._due.get(key):
            return
        if due_ms is None:
            del self._due[key]  # it has one: else it would be the same
            return
        self._due[key] = due_ms
        heapq.heappush(self.heap, (due_ms, key))
        if len(self.heap) > 2 * len(self._due) + _SLACK:
            self._compact()

    def cancel(self, key: str) -> None:
        """Forget the deadline of ``key``, if it has one."""
        self._due.pop(key, None)

    def due_of(self, key: str) -> int | None:
        """Return when ``key`` falls due, or ``None``."""
        return self._due.get(key)

    def next_due(self) -> int | None:
        """Return the earliest deadline, or ``None`` when there is none."""
        heap = self.heap
        while heap and self._due.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now_ms: int, limit: int = sys.maxsize) -> list[str]:
        """Remove and return up to ``limit`` keys that are due at ``now_ms``: earliest first, then by key."""
        heap = self.heap
        keys: list[str] = []
        while heap and heap[0][0] <= now_ms and len(keys) < limit:
            due_ms, key = heapq.heappop(heap)
            if self._due.get(key) == due_ms:
                del self._due[key]
                keys.append(key)
        return keys

    def _compact(self) -> None:
        # Linear, but only after as many sets as there are entries: a set stays O(log n) on average.
        self.heap = [(due_ms, key) for key, due_ms in self._due.items()]
        heapq.heapify(self.heap)
