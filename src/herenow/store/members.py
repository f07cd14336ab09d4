"""Whom the application's database has: asked for whoever wants in, where the setting ``unknown_users`` says so.

The rules:

1. One question at a time. Who comes while one is under way waits for the next, which is about all of them, up to a
   page: so all who come in one tick are one read, and a crowd does not become a crowd of questions.
2. An answer counts for ``REMEMBERED_S``, of the latest ``MOST_REMEMBERED`` users: who opens ten tabs is asked for once.
3. A database that is away, or takes too long, refuses nobody; then everybody is let in without a question for a while,
   so that a dead database costs one user a moment, and not each of them. The audit looks again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from itertools import islice

from herenow.errors import StoreError
from herenow.logs import get_logger
from herenow.store.base import PAGE_SIZE

REMEMBERED_S = 5.0
"""How long an answer counts: who has just signed up, and was refused a moment ago, waits no longer than this."""

MOST_REMEMBERED = 10_000
"""Answers in memory, at most: some 2 MB."""

ANSWER_WITHIN_S = 1.0
"""How long the database may take for one."""

AWAY_S = 1.0
"""After a question that failed, so long nobody is asked about."""

_log = get_logger(__name__)


class Members:
    """Asks a store whom it has, of users by their keys; the module says how.

    Args:
        missing: the store's.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        missing: Callable[[Collection[str]], Awaitable[Collection[str]]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._missing = missing
        self._clock = clock
        self._remembered: dict[str, tuple[float, bool]] = {}  # until when, and whether they are there; oldest first
        self._waiting: dict[str, asyncio.Future[bool]] = {}  # for the next question
        self._asked: dict[str, asyncio.Future[bool]] = {}  # for the answer to the one that is under way
        self._asking: asyncio.Task[None] | None = None
        self._away_until_s = 0.0

    async def has(self, key: str) -> bool:
        """Say whether a user is there, as far as can be known now; never raises."""
        now_s = self._clock()
        until_s, is_there = self._remembered.get(key, (now_s, True))
        if until_s > now_s:
            return is_there
        if self._away_until_s > now_s:
            return True
        answer = self._asked.get(key) or self._waiting.get(key)
        if answer is None:
            answer = self._waiting[key] = asyncio.get_running_loop().create_future()
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(), name="herenow members")
        return await asyncio.shield(answer)  # it may be others' too

    async def missing(self, keys: Collection[str]) -> set[str]:
        """Say who of the users is not there, asking anew.

        Raises:
            StoreError: it cannot be known now.
        """
        missing = set(await self._missing(keys))
        self._remember(dict.fromkeys(missing, False))
        return missing

    async def _ask(self) -> None:
        try:
            while self._waiting:
                first = list(islice(self._waiting, PAGE_SIZE))
                self._asked = {key: self._waiting.pop(key) for key in first}
                answers = await self._answers(first)
                for key, answer in self._asked.items():
                    answer.set_result(answers.get(key, True))
                self._asked = {}
        finally:
            self._asking = None
            for answer in (*self._asked.values(), *self._waiting.values()):  # it was cancelled, or is broken
                if not answer.done():
                    answer.set_result(True)
            self._asked, self._waiting = {}, {}

    async def _answers(self, keys: list[str]) -> dict[str, bool]:
        """Ask about users; nothing, where there is no answer."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                missing = await self._missing(keys)
        except (StoreError, TimeoutError) as error:
            self._away_until_s = self._clock() + AWAY_S
            _log.warning("users are let in unasked", reason=str(error) or "timed out", users=len(keys))
            return {}
        answers = {key: key not in missing for key in keys}
        self._remember(answers)
        return answers

    def _remember(self, answers: dict[str, bool]) -> None:
        until_s = self._clock() + REMEMBERED_S
        for key, is_there in answers.items():
            self._remembered.pop(key, None)
            self._remembered[key] = until_s, is_there
        for key in list(self._remembered)[: max(0, len(self._remembered) - MOST_REMEMBERED)]:
            del self._remembered[key]
