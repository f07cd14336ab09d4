"""How often a user may connect: tabs and devices all at once, but nobody all the time.

Pure: it is told the time. Of each user it keeps one number, the moment from which all their comings would be used up
evenly (the generic cell rate algorithm, ITU-T I.371), and forgets it once that is past.
"""

from typing import Final

_SLACK: Final = 1_000
"""Moments that are over are kept until there are so many more than at the last look, and twice as many."""


class Comings:
    """Counts connects.

    Args:
        rate_per_s: so many connects of one user a second, over time.
        burst: so many at once.
    """

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._each_s = 1 / rate_per_s
        self._ahead_s = (burst + 0.5) / rate_per_s  # half a one, so that no rounding decides
        self._used_until_s: dict[str, float] = {}
        self._most = _SLACK

    def may_come(self, user: str, now_s: float) -> bool:
        """Whether a user may connect once more, which then counts."""
        used_until_s = self._used_until_s.get(user, 0.0)
        used_until_s = (used_until_s if used_until_s > now_s else now_s) + self._each_s
        if used_until_s - now_s > self._ahead_s:
            return False
        self._used_until_s[user] = used_until_s
        if len(self._used_until_s) > self._most:
            self._used_until_s = {user: at_s for user, at_s in self._used_until_s.items() if at_s > now_s}
            self._most = 2 * len(self._used_until_s) + _SLACK
        return True
