"""Whom a viewer may see where the application decides: asked in batches, remembered for a stated time.

A yes counts for so long, then it is asked anew; a no is asked anew each time. While the application cannot say (its
function raises, or takes too long), new questions are refused: nobody sees more than was allowed.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import structlog

from herenow.gateway.events import MAX_USERS_A_CALL, WireError

log = structlog.get_logger("herenow.gateway")

CanWatch = Callable[[str, Sequence[str]], Collection[str] | Awaitable[Collection[str]]]
"""Given a viewer and users, at most 1,000: returns those of the users whom the viewer may see."""

ANSWER_WITHIN_S = 2.0
"""How long the application may take for one answer."""


class Sight:
    """What the application has said.

    Args:
        can_watch: asks the application.
        stale_s: how long a yes counts.
    """

    def __init__(self, can_watch: CanWatch, stale_s: float) -> None:
        self._can_watch = can_watch
        self._stale_s = stale_s
        self._until_s: dict[str, dict[str, float]] = {}  # viewer, user: until when a yes counts

    async def refused(self, viewer: str, users: Iterable[str], now_s: float) -> list[str]:
        """Return those of the users whom the viewer may not see. Everybody may see themselves.

        Raises:
            WireError: ``internal``, the application cannot say.
        """
        until_s = self._until_s.get(viewer, {})
        unsure = [user for user in dict.fromkeys(users) if user != viewer and until_s.get(user, now_s) <= now_s]
        refused: list[str] = []
        for start in range(0, len(unsure), MAX_USERS_A_CALL):
            asked = unsure[start : start + MAX_USERS_A_CALL]
            allowed = await self._ask(viewer, asked)
            refused += [user for user in asked if user not in allowed]
            until_s.update({user: now_s + self._stale_s for user in asked if user in allowed})
        if until_s:
            self._until_s[viewer] = until_s
        return refused

    def forget(self, viewer: str, *, but: Collection[str] = ()) -> None:
        """Drop what was said for a viewer, but for these users."""
        kept = {user: until_s for user, until_s in self._until_s.pop(viewer, {}).items() if user in but}
        if kept:
            self._until_s[viewer] = kept

    async def _ask(self, viewer: str, users: list[str]) -> Collection[str]:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = self._can_watch(viewer, users)
                return set(await answer if inspect.isawaitable(answer) else answer)
        except Exception as error:  # the application's own
            log.exception("can_watch failed", viewer=viewer, users=len(users))
            raise WireError("internal", "the application could not say who may be watched") from error
