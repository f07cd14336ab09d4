"""The ring of recent changes, by version: what a client that was away for a moment has missed."""

from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Mapping
from collections.abc import Set as AbstractSet

from msgspec.structs import replace

from herenow.model import Availability, Change, StoredUser


class ChangeLog:
    """The last ``capacity`` changes of this process.

    A log speaks only for the process that wrote it. What an earlier one announced in its last moments may never have
    reached the store, so a version from before ``start`` gets no answer but "take a new snapshot".
    """

    __slots__ = ("_capacity", "_covered_from", "_ring", "_written", "start", "version")

    def __init__(self, capacity: int, start: int) -> None:
        """Begin with nothing.

        Args:
            capacity: changes kept, at least 1. A change takes some 250 bytes.
            start: the version at which the process began: everything up to it is unknown here.
        """
        self._capacity = capacity
        self.start = start
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

    def last_of(self, user_ids: Container[str]) -> dict[str, Change]:
        """Return the latest change of each of these users that it still has one of, the latest first."""
        return self._last(lambda user_id: user_id in user_ids, len(self._ring))

    def last_but(self, holds: Callable[[str], bool], at_most: int) -> dict[str, Change]:
        """Return the latest change of so many users who went last, the latest first: of whom ``holds`` is false."""
        return self._last(lambda user_id: not holds(user_id), at_most)

    def _last(self, meant: Callable[[str], bool], at_most: int) -> dict[str, Change]:
        found: dict[str, Change] = {}
        ring, size = self._ring, len(self._ring)
        for index in range(self._written - 1, self._written - 1 - size, -1):
            change = ring[index % size]
            if change.user_id not in found and meant(change.user_id):
                if len(found) == at_most:
                    break
                found[change.user_id] = change
        return found

    # -- what is remembered of users who have gone ---------------------------------------------------------------------

    def rows_of(self, user_ids: Iterable[str], held: Mapping[str, StoredUser]) -> dict[str, StoredUser]:
        """Return what the store is to say of users: the rows of those who are held, and what is known of the others."""
        rows = dict(held)
        unknown = {user_id for user_id in user_ids if user_id not in rows or rows[user_id].last_active_ms is None}
        for user_id, change in (self.last_of(unknown) if unknown else {}).items():
            row = rows.get(user_id)
            rows[user_id] = _gone(change) if row is None else replace(row, last_active_ms=change.last_active_ms)
        return rows

    def recall(self, wrong: Iterable[StoredUser], gone: AbstractSet[str]) -> tuple[StoredUser, ...]:
        """Put what is remembered of users who have gone into the place of what the store says of them."""
        last = self.last_of(gone) if gone else {}
        return tuple(
            replace(row, claim=None, last_active_ms=last[row.user_id].last_active_ms) if row.user_id in last else row
            for row in wrong
        )


def row_of(change: Change) -> StoredUser:
    """The row that goes with a change; without the claim, of which a change shows only what it looks like."""
    return StoredUser(
        change.user_id, change.is_online, change.availability, change.last_active_ms, None, change.version
    )


def _gone(change: Change) -> StoredUser:
    """The row of a user of whom nothing is left but their latest change."""
    return StoredUser(change.user_id, False, Availability.OFFLINE, change.last_active_ms, None, change.version)
