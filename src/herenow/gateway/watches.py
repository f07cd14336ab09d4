"""Who wants to hear of whom: an index from users to watchers. Pure; a change costs as much as it has watchers.

The interest is kept in dicts without values: one of 20 takes 0.5 KB where a set takes 2.3, and there are two for each
connection.
"""

from collections.abc import Callable, Iterable, Set
from typing import Generic, TypeVar

W = TypeVar("W")


class Watches(Generic[W]):
    """The interest of all watchers, in some users each or in all."""

    def __init__(self) -> None:
        self._of_user: dict[str, dict[W, None]] = {}
        self._users_of: dict[W, dict[str, None]] = {}
        self._of_all: set[W] = set()

    def watched_by(self, watcher: W) -> int:
        """How many users a watcher has named."""
        return len(self._users_of.get(watcher, ()))

    def named_by(self, watcher: W) -> Set[str]:
        """The users that a watcher has named. Not a copy."""
        watched = self._users_of.get(watcher)
        return watched.keys() if watched else frozenset()

    def adds(self, watcher: W, user_ids: Iterable[str]) -> int:
        """How many of these users the watcher does not watch by name yet."""
        return len(set(user_ids).difference(self._users_of.get(watcher, ())))

    def watch(self, watcher: W, user_ids: Iterable[str]) -> None:
        """Add users to a watcher's interest."""
        for user_id in user_ids:
            self._users_of.setdefault(watcher, {})[user_id] = None
            self._of_user.setdefault(user_id, {})[watcher] = None

    def unwatch(self, watcher: W, user_ids: Iterable[str]) -> None:
        """Take users from a watcher's interest; those it does not watch are no error."""
        watched = self._users_of.get(watcher, {})
        for user_id in watched.keys() & set(user_ids):
            del watched[user_id]
            self._drop(watcher, user_id)
        if not watched:
            self._users_of.pop(watcher, None)

    def keep(self, watcher: W, may_watch: Callable[[str], bool]) -> None:
        """Take those from a watcher's interest whom it may not watch any more."""
        self.unwatch(watcher, [user_id for user_id in self._users_of.get(watcher, ()) if not may_watch(user_id)])

    def watch_all(self, watcher: W) -> None:
        """Let a watcher hear of everybody."""
        self._of_all.add(watcher)

    def unwatch_all(self, watcher: W) -> None:
        """Let a watcher hear only of those it named."""
        self._of_all.discard(watcher)

    def forget(self, watcher: W) -> None:
        """Drop a watcher with all its interest."""
        self._of_all.discard(watcher)
        for user_id in self._users_of.pop(watcher, ()):
            self._drop(watcher, user_id)

    @property
    def of_all(self) -> Set[W]:
        """The watchers of everybody. Not a copy."""
        return self._of_all

    def of(self, user_id: str) -> Set[W]:
        """The watchers that named a user, those of everybody not among them. Not a copy."""
        watchers = self._of_user.get(user_id)
        return watchers.keys() if watchers else frozenset()

    def _drop(self, watcher: W, user_id: str) -> None:
        watchers = self._of_user[user_id]
        del watchers[watcher]
        if not watchers:
            del self._of_user[user_id]
