"""The ring of recent changes, by version: what a client that was away for a moment has missed."""

from bisect import bisect_right
from collections.abc import Container

from herenow.model import Change


class ChangeLog:
    """The last ``capacity`` changes of this process.

    A log speaks only for the process that wrote it. What an earlier one announced in its last moments may never have
    reached the store, so a version from before ``start`` gets no answer but "take a new snapshot".
    """

    __slots__ = ("_capacity", "_covered_from", "_ring", "_written", "version")

    def __init__(self, capacity: int, start: int) -> None:
        """Begin with nothing.

        Args:
            capacity: changes kept, at least 1. A change takes some 250 bytes.
            start: the version at which the process began: everything up to it is unknown here.
        """
        self._capacity = capacity
        self._covered_from = start
        self._ring: list[Change] = []
        self._written = 0
        self.version = start
        """The version of the latest change, or ``start``."""

    def __len__(self) -> int:
        return len(self._ring)

    def append(self, change: Change) -> None:
        """Add a change, whose version is newer than all before, and drop the oldest one beyond the capacity."""
        if len(self._ring) < self._capacity:
            self._ring.append(change)
        else:
            at = self._written % self._capacity
            self._covered_from = self._ring[at].version
            self._ring[at] = change
        self._written += 1
        self.version = change.version

    def since(self, version: int) -> tuple[Change, ...] | None:
        """Return the net changes after ``version``: the latest one of each user, oldest first.

        Returns:
            ``None`` when the log cannot vouch for being complete: the version is older than what it still has, or one
            that this process never reached.
        """
        if not self._covered_from <= version <= self.version:
            return None
        ring, size = self._ring, len(self._ring)
        oldest = self._written - size
        first = bisect_right(range(size), version, key=lambda index: ring[(oldest + index) % size].version)
        net: dict[str, Change] = {}
        for index in range(first, size):
            change = ring[(oldest + index) % size]
            net.pop(change.user_id, None)
            net[change.user_id] = change
        return tuple(net.values())

    def of(self, user_id: str, limit: int) -> tuple[Change, ...]:
        """Return the user's last changes that it still has, the latest first: at most ``limit``, at least 1."""
        found: list[Change] = []
        ring, size = self._ring, len(self._ring)
        for index in range(self._written - 1, self._written - 1 - size, -1):
            change = ring[index % size]
            if change.user_id == user_id:
                found.append(change)
                if len(found) == limit:
                    break
        return tuple(found)

    def last_of(self, user_ids: Container[str], at_most: int) -> dict[str, Change]:
        """Return the latest change of each of these users that it still has one of, the latest first.

        Args:
            user_ids: of whom.
            at_most: so many; the rest is left out.
        """
        found: dict[str, Change] = {}
        ring, size = self._ring, len(self._ring)
        for index in range(self._written - 1, self._written - 1 - size, -1):
            change = ring[index % size]
            if change.user_id in user_ids and change.user_id not in found:
                if len(found) == at_most:
                    break
                found[change.user_id] = change
        return found
