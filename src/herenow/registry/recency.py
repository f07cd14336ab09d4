"""Online users by their last activity, kept sorted, so that a page costs its own length and not the crowd's.

A list of sorted chunks: adding and removing move at most one chunk's worth of pointers, where one sorted list would
move them all, and sorting at each request would hold up the event loop.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from operator import itemgetter

from herenow.model import UserPresence

_CHUNK = 512
"""Entries in a chunk after it was split; it is split at twice as many."""

Entry = tuple[int, str]
"""``(last_active_ms, user_id)``. Users who were active in the same millisecond are ordered by their id."""

_largest = itemgetter(-1)


class Recency:
    """A sorted set of entries. Adding one twice, or removing one that is not there, is the caller's mistake."""

    __slots__ = ("_chunks", "_length")

    def __init__(self) -> None:
        self._chunks: list[list[Entry]] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, entry: Entry) -> None:
        """Put ``entry`` in its place. The most recent one, which is the common one, costs O(1)."""
        self._length += 1
        chunks = self._chunks
        if not chunks:
            chunks.append([entry])
            return
        if entry > chunks[-1][-1]:
            at = len(chunks) - 1
            chunks[at].append(entry)
        else:
            at = bisect_left(chunks, entry, key=_largest)
            insort(chunks[at], entry)
        chunk = chunks[at]
        if len(chunk) >= 2 * _CHUNK:
            chunks[at : at + 1] = [chunk[:_CHUNK], chunk[_CHUNK:]]

    def remove(self, entry: Entry) -> None:
        """Take ``entry`` out."""
        self._length -= 1
        at = bisect_left(self._chunks, entry, key=_largest)
        chunk = self._chunks[at]
        del chunk[bisect_left(chunk, entry)]
        if not chunk:
            del self._chunks[at]

    def newest_first(self, before: Entry | None = None) -> Iterator[Entry]:
        """Walk from the most recent entry, or from the first one older than ``before``, to the oldest.

        ``before`` need not be in the set: a page goes on where the last one ended, even if its last user has moved.
        The set must not be altered during the walk.
        """
        chunks = self._chunks
        at = len(chunks)
        if before is not None:
            at = bisect_left(chunks, before, key=_largest)
            if at < len(chunks):
                chunk = chunks[at]
                yield from reversed(chunk[: bisect_left(chunk, before)])
        for older in range(at - 1, -1, -1):
            yield from reversed(chunks[older])


def place_of(shown: UserPresence) -> Entry:
    """Return where a user stands among those online: by last activity, then by id."""
    return shown.last_active_ms or 0, shown.user_id


def cursor_after(shown: UserPresence) -> str:
    """Write the place of the last user of a page down, for the next page to begin after it."""
    last_active_ms, user_id = place_of(shown)
    return f"{last_active_ms}:{user_id}"


def place_in(cursor: str) -> Entry:
    """Read what :func:`cursor_after` wrote.

    Raises:
        ValueError: it is nothing of the kind.
    """
    last_active_ms, separator, user_id = cursor.partition(":")
    if not separator or not last_active_ms.isdecimal():
        raise ValueError(f"not a cursor that a page of online users gave: {cursor!r}")
    return int(last_active_ms), user_id
