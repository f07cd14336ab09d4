"""Repairs that have no effect: whoever is put right is wrong again each time, by a trigger or another program.

Pure. A few such users are somebody's mistake, and are named; where they are most of all, the database does not follow.
"""

from collections.abc import Collection, Iterable

TIMES = 3
"""So often in a row a user was put right in vain before that is told."""


class Undone:
    """Counts, round by round."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._right: set[str] = set()  # of these, who was right in the last round
        self._is_most = False

    def note(self, wrong: Collection[str], repaired: Iterable[str], checked: int) -> None:
        """Note a round.

        Args:
            wrong: who was wrong in it.
            repaired: whom of these it puts right.
            checked: how many users it compared.
        """
        # Who is right for one round may only be on the way to the store.
        self._times = {user: times for user, times in self._times.items() if user in wrong or user not in self._right}
        self._right = {user for user in self._times if user not in wrong}
        for user in repaired:
            self._times[user] = self._times.get(user, 0) + 1
        self._is_most = 2 * len(self.users) >= max(checked, 1)

    @property
    def users(self) -> list[str]:
        """Who was put right in vain again and again."""
        return [user for user, times in self._times.items() if times >= TIMES]

    @property
    def is_most(self) -> bool:
        """Whether these are half of all who were compared, or more."""
        return bool(self.users) and self._is_most

    @property
    def trouble(self) -> str | None:
        """Say it, as a sentence."""
        users = self.users
        if not users:
            return None
        who = "1 user is" if len(users) == 1 else f"{len(users)} users are"
        return (
            f"{who} wrong in the database again each time that they are put right: a trigger or another program "
            "undoes or refuses what is written"
        )
