"""Whom a viewer may see where the application decides: asked in batches, remembered for a stated time.

A yes counts for so long, then it is asked anew; a no is asked anew each time. While the application cannot say (its
function raises, or takes too long), new questions are refused: nobody sees more than was allowed.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable

from herenow.gateway.events import MAX_USERS_A_CALL, WireError
from herenow.logs import get_logger
from herenow.sparing import Sparing, alike

log = get_logger("herenow.gateway")

CanWatch = Callable[..., Collection[str] | Awaitable[Collection[str]]]
"""``can_watch(viewer, users)``, at most 1,000 users: returns those of them whom the viewer may see.

For a viewer of a tenant it is called as ``can_watch(viewer, users, tenant="acme")``. A function that cannot take that
fails, and so lets nobody of a tenant see anybody: it would say of one ``alice`` what is true of another.
"""

ANSWER_WITHIN_S = 2.0
"""How long the application may take for one answer."""


class Sight:
    """What the application has said.

    Args:
        can_watch: asks the application.
        stale_s: how long a yes counts.
        most_kept: how many are remembered for a viewer.
        canonical: gives the one way to write an id: the application may answer in another.
    """

    def __init__(
        self, can_watch: CanWatch, stale_s: float, most_kept: int, canonical: Callable[[str], str] = str
    ) -> None:
        self._can_watch = can_watch
        self._sparing = Sparing()
        self._canonical = canonical
        self._stale_s = stale_s
        self._most_kept = most_kept
        self._until_s: dict[str, dict[str, float]] = {}  # viewer, user: until when a yes counts

    async def refused(self, viewer: str, users: Iterable[str], now_s: float, *, anew: bool = False) -> list[str]:
        """Return those of the users whom the viewer may not see. Everybody may see themselves.

        Args:
            viewer: who asks.
            users: about whom.
            now_s: the time, by a steady clock.
            anew: ask about all of them, whatever is remembered. For watches, so that the time from the answer to the
                next question is ``stale_s``, not twice that.

        Raises:
            WireError: ``internal``, the application cannot say.
        """
        until_s = {} if anew else self._until_s.get(viewer, {})
        unsure = [user for user in dict.fromkeys(users) if user != viewer and until_s.get(user, now_s) <= now_s]
        refused: list[str] = []
        for start in range(0, len(unsure), MAX_USERS_A_CALL):
            asked = unsure[start : start + MAX_USERS_A_CALL]
            allowed = await self._ask(viewer, asked)
            refused += [user for user in asked if user not in allowed]
            self._remember(viewer, {user: now_s + self._stale_s for user in asked if user in allowed})
        return refused

    def forget(self, viewer: str) -> None:
        """Drop what was said for a viewer."""
        self._until_s.pop(viewer, None)

    def _remember(self, viewer: str, until_s: dict[str, float]) -> None:
        kept = self._until_s.get(viewer)
        if kept is None or len(kept) + len(until_s) > self._most_kept:  # what is lost is only asked anew
            self._until_s[viewer] = until_s
        else:
            kept.update(until_s)

    async def _ask(self, viewer: str, users: list[str]) -> Collection[str]:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = self._can_watch(viewer, users)
                named = await answer if inspect.isawaitable(answer) else answer
                return {self._canonical(each) if isinstance(each, str) else each for each in named}
        except (Exception, asyncio.CancelledError) as error:  # the application's own
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # no, ours
                raise
            self._sparing.say(log.exception, "can_watch failed", of=alike(error), viewer=viewer, users=len(users))
            raise WireError("internal", "the application could not say who may be watched") from error
