"""How users are shown, as far as somebody here has asked: kept true by the log, so that nobody asks Redis again.

When a thousand clients come back at once and each wants to see everybody, one of them has it read, and the others have
what was read. Kept are users who were asked for and are online, and the *head*: all those who were active last, as far
back as the last page has gone. What is read of Redis may be newer than what was heard, or older: of each user the
higher version counts.

Pure: it is told what was read, and what was heard.
"""

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile
from typing import Final

from msgspec.structs import astuple

from herenow.model import UserPresence
from herenow.registry.recency import Entry, Recency, place_of

MOST = 100_000
"""Users who are kept, some 400 bytes each. With more, all is forgotten, and read anew as it is asked for."""

BEFORE_ALL: Final[Entry] = (1 << 62, "")
"""Where the head ends that has nobody."""

BEHIND_ALL: Final[Entry] = (-1, "")
"""Where the head ends that has everybody."""


class Views:
    """How users of one tenant are shown.

    Attributes:
        end: where the head ends: whoever is online and stands before it, or there, is known.
    """

    def __init__(self) -> None:
        self.end = BEFORE_ALL
        self._users: dict[str, UserPresence] = {}
        self._order = Recency()
        self._reading = 0
        self._heard: dict[str, UserPresence] = {}  # while something is read
        self._forgotten = 0

    def forget(self) -> None:
        """Know nothing any more, nor anything of what is being read."""
        self.end = BEFORE_ALL
        self._users, self._order = {}, Recency()
        self._forgotten += 1

    # -- what is asked -------------------------------------------------------------------------------------------------

    def get(self, user_ids: Iterable[str]) -> tuple[dict[str, UserPresence], list[str]]:
        """Return those who are kept, and the ids of the others."""
        found: dict[str, UserPresence] = {}
        others: list[str] = []
        for user_id in dict.fromkeys(user_ids):
            if (view := self._users.get(user_id)) is None:
                others.append(user_id)
            else:
                found[user_id] = view
        return found, others

    def page(self, limit: int, after: Entry | None) -> list[UserPresence] | None:
        """Return who is online, most recently active first, after a place; ``None``: the head ends too early."""
        head = takewhile(self.end.__le__, self._order.newest_first(after))
        users = [self._users[user_id] for _, user_id in islice(head, limit)]
        return users if len(users) == limit or self.end == BEHIND_ALL else None

    # -- what is read --------------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """Begin to read; what this returns goes to :meth:`take` or :meth:`extend`, and :meth:`done` ends it."""
        self._reading += 1
        return self._forgotten

    def done(self) -> None:
        """End what was begun, whether anything was read or not."""
        self._reading -= 1
        if not self._reading:
            self._heard.clear()

    def take(self, begun: int, read: Iterable[UserPresence]) -> None:
        """Take in users who were read."""
        if begun == self._forgotten:
            for view in read:
                self._keep(view)

    def extend(self, begun: int, read: Sequence[UserPresence], *, is_last: bool) -> None:
        """Take in the page behind the head, which is longer by it now. Only one is read at a time."""
        if begun != self._forgotten:
            return
        if is_last:
            self.end = BEHIND_ALL
        elif read:
            self.end = place_of(read[-1])
        self.take(begun, read)
        for view in self._heard.values():
            self._see(view)

    # -- what is heard -------------------------------------------------------------------------------------------------

    def hear(self, told: Iterable[UserPresence]) -> None:
        """Take in what the log says of users."""
        for view in told:
            if self._reading:
                self._heard[view.user_id] = view
            self._see(view)

    def _see(self, view: UserPresence) -> None:
        kept = self._users.get(view.user_id)
        if kept is not None and kept.version >= view.version:
            return
        if not view.is_online:
            self._drop(kept)
        elif kept is not None or place_of(view) >= self.end:
            self._put(kept, UserPresence(*astuple(view)[:7]))

    def _keep(self, view: UserPresence) -> None:
        kept, heard = self._users.get(view.user_id), self._heard.get(view.user_id)
        if heard is not None and heard.version >= view.version:
            self._see(heard)
        elif view.is_online and (kept is None or kept.version < view.version):
            self._put(kept, view)

    def _put(self, kept: UserPresence | None, view: UserPresence) -> None:
        self._drop(kept)
        if len(self._users) >= MOST:
            self.forget()
        else:
            self._users[view.user_id] = view
            self._order.add(place_of(view))

    def _drop(self, kept: UserPresence | None) -> None:
        if kept is not None:
            del self._users[kept.user_id]
            self._order.remove(place_of(kept))
