"""The audit: finds drift between the store and the registry, and has the registry repair it.

Each round:

1. sees that all is there that ``init`` made, and has it made anew where it is not (``upkeep.py``);
2. takes a version stamp, before it looks at anything;
3. walks the store's online users and compares every field of their rows with the registry's: who is not online there is
   a *ghost*; does the same with all others of whom the registry knows something, so that also whoever is *missing* is
   found. Of all other users the database itself gives those whose fields hold what they should not: at once where an
   index shows it, as with an `isOnline` that is no boolean or a `lastActive` that is no time of the past, else by
   walking a stretch of them, so that over some rounds it has looked at everybody;
4. looks at every suspect again, one by one, registry first and store last, and drops those whose row is still on its
   way in the writer, or was decided since the stamp. A row that is newer than anything the registry has decided is not
   the registry's: another program wrote it, and it is evidence like any other (``judgement.py``);
5. gives the registry what the round before saw too, to be answered with rows that are newer, and true at that moment.
   A single sighting may be a change that is on its way.

So another program that keeps writing the two fields meets at most one write a round, and the audit itself can never
put a user offline who connects while it works.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Protocol

import msgspec

from herenow.errors import RegistryUnavailable, StoreError
from herenow.keeper.judgement import Difference, DriftKind, Moment, judge, plan, to_repair
from herenow.keeper.undone import Undone
from herenow.keeper.upkeep import Upkeep
from herenow.logs import get_logger
from herenow.model import StoredUser
from herenow.store.base import PAGE_SIZE, Store
from herenow.store.rows import CLOCK_SLACK_MS
from herenow.tenancy import shown_key
from herenow.times import unix_ms

NAMED_AT_MOST = 20
"""Users in a line of the log."""

TRACKED_DRIFTS = 10_000
"""Drifts that one round follows up, at most; the rest have their turn once these are repaired. Bounds the memory."""

SIFTED_A_ROUND = 25_000
"""Users of all that a round has the database look at: a million take forty rounds, twenty minutes by default."""

SIFTED_AT_ONCE = 5_000
"""Of these, in one question; some 10 ms of the database's time."""

_log = get_logger(__name__)


Stamps = Callable[[str], int]
"""For a user: a version that is newer than all before it of this user, and older than all after it."""


class Underway(Protocol):
    """Knows which rows are on their way to the store."""

    def is_pending(self, user_id: str) -> bool:
        """Say whether the store still lacks a row of this user."""
        ...


class AnyTruth(Protocol):
    """What the registry says: the side that is right."""

    async def stamps(self) -> Stamps:
        """Give out a version; of each tenant one, for each has versions of its own."""
        ...

    async def rows(self, user_ids: Sequence[str]) -> Mapping[str, StoredUser]:
        """Say what the store is to say of these users. One of whom the registry knows nothing is left out."""
        ...

    async def repair(self, rows: Sequence[StoredUser]) -> None:
        """Answer these rows of the store, which are wrong, with newer ones that are true."""
        ...

    def known(self) -> AsyncIterator[Sequence[str]]:
        """Walk through the ids of all of whom the registry knows something, page by page."""
        ...


class AuditReport(msgspec.Struct, frozen=True):
    """What one round found. ``repaired`` counts the drifts that it had put right."""

    checked: int
    ghosts: int
    missing: int
    wrong: int
    repaired: int
    duration_ms: int


class AuditTotals(msgspec.Struct):
    """Counts since the start, for metrics: a drift counts in each round that sees it."""

    rounds: int = 0
    failures: int = 0
    ghosts: int = 0
    missing: int = 0
    wrong: int = 0
    repaired: int = 0


class _Stretch(msgspec.Struct):
    """How far the walk through all users has come: the store's cursor; ``None`` for the beginning."""

    after: str | None


class Audit:
    """Compares the store with the registry, for ever or once.

    Args:
        store: the side to be checked.
        truth: the registry's side.
        writer: knows which rows are still on their way.
        every_s: seconds between two rounds.
        clock: seconds that only grow.
        sleep: waits some seconds of that clock.
        then: what else there is to look at, after each round.
        now_ms: the wall clock.
    """

    def __init__(
        self,
        store: Store,
        truth: AnyTruth,
        writer: Underway,
        *,
        every_s: float = 30.0,
        then: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._store = store
        self._truth = truth
        self._writer = writer
        self._every_s = every_s
        self._then = then
        self._clock = clock
        self._sleep = sleep
        self._now_ms = now_ms
        self._sifted_to: str | None = None
        self.upkeep = Upkeep(store)
        self.mended_at_start: int | None = None
        """How many users had odd values at the start; ``None`` until all were looked at."""
        self._seen: dict[str, DriftKind] = {}
        self.undone = Undone()
        self.totals = AuditTotals()
        self.last: AuditReport | None = None
        self.last_error: StoreError | None = None
        """Why the last round could not be done; ``None`` once one was done again."""

    async def run(self) -> None:
        """Look at the schema and for odd values at once, and do a round after each interval, until cancelled.

        A store that fails is left for the next round.
        """
        await self._attempt(self.upkeep.look)
        await self._attempt(self.mend_all)
        while True:
            await self._sleep(self._every_s)
            await self._attempt(self.round)

    async def _attempt(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except RegistryUnavailable as error:  # there is nothing to compare with, until the next round
            _log.debug("not audited", error=str(error))
        except StoreError as error:
            self.totals.failures += 1
            self.last_error = error
            log = _log.warning if error.temporary else _log.error
            log("audit failed", error=str(error), temporary=error.temporary)

    async def mend_all(self) -> int:
        """Go through all users, and have the odd values put right that are there; returns of how many.

        Raises:
            StoreError: the store could not be read.
        """
        since = await self._truth.stamps()
        mended = 0
        cursor: str | None = None
        while True:
            suspects, cursor = await self._sift(since, cursor)
            drifts = await self._confirm(suspects, since)
            mended += await self._repair([drift for drift in drifts if drift.stored is not None and drift.stored.odd])
            if cursor is None:
                self.mended_at_start = mended if self.mended_at_start is None else self.mended_at_start
                return mended

    async def round(self) -> AuditReport:
        """Compare once, and repair what the round before saw too.

        Raises:
            StoreError: the store could not be read; the drifts seen so far are remembered.
        """
        began_s = self._clock()
        is_new = await self.upkeep.look()
        kinds = Counter[DriftKind]()
        seen: dict[str, DriftKind] = {}
        repairs: list[Difference] = []
        checked = 0
        wrong: set[str] = set()
        async for looked_at, drifts in self._survey(self._seen, stretch := _Stretch(self._sifted_to)):
            checked += looked_at
            kinds.update(drift.kind for drift in drifts)
            # where all users are new, nothing that is missing is only late
            chosen = drifts if is_new else plan(drifts, self._seen)
            repairs += chosen
            mended = {drift.user_id for drift in chosen}
            wrong.update(islice((drift.user_id for drift in drifts), TRACKED_DRIFTS - len(wrong)))
            # what is repaired starts anew: one who keeps undoing it meets one write in two rounds
            first_seen = {drift.user_id: drift.kind for drift in drifts if drift.user_id not in mended}
            seen.update(islice(first_seen.items(), TRACKED_DRIFTS - len(seen)))
        await self._repair(repairs)  # at the end: a row ahead of the registry takes its versions along
        self._seen = seen
        self._note_undone(wrong, repairs, checked)
        self._sifted_to = stretch.after
        report = AuditReport(
            checked=checked,
            ghosts=kinds[DriftKind.GHOST],
            missing=kinds[DriftKind.MISSING],
            wrong=kinds[DriftKind.WRONG],
            repaired=len(repairs),
            duration_ms=round((self._clock() - began_s) * 1000),
        )
        self._note(report)
        if self._then is not None:
            await self._then()
        return report

    async def survey(self) -> AsyncIterator[tuple[int, list[Difference]]]:
        """Compare once and repair nothing: for each page, how many users were compared, and the drifts among them.

        Of those of whom the registry knows nothing, and who are not online, only the next stretch is looked at.

        Raises:
            StoreError: the store could not be read.
        """
        async for page in self._survey((), _Stretch(self._sifted_to)):
            yield page

    async def _survey(self, again: Iterable[str], stretch: "_Stretch") -> AsyncIterator[tuple[int, list[Difference]]]:
        since = await self._truth.stamps()
        told: set[str] = set()
        async for looked_at, suspects in self._walk(since, again, stretch):
            new = [user_id for user_id in suspects if user_id not in told]
            drifts = await self._confirm(new, since) if new else []
            told.update(drift.user_id for drift in drifts[: 2 * TRACKED_DRIFTS - len(told)])
            yield looked_at, drifts

    async def _walk(
        self, since: Stamps, again: Iterable[str], stretch: "_Stretch"
    ) -> AsyncIterator[tuple[int, list[str]]]:
        """Walk both sides, and give for each page how many users were compared and of whom something may be wrong."""
        compared: set[str] = set()
        cursor: str | None = None
        while True:
            page = await self._store.online(after=cursor)
            stored = {row.user_id: row for row in page.users}
            true = await self._truth.rows(list(stored))
            drifts = await self._judge(list(stored), true, stored, since)
            compared |= stored.keys()
            yield len(stored), [drift.user_id for drift in drifts]
            cursor = page.cursor
            if cursor is None:
                break
        async for odd_ids in self._store.odd_ids(after_ms=self._now_ms() + CLOCK_SLACK_MS):
            yield len(odd_ids), odd_ids
        async for known_ids in self._truth.known():
            others = [user_id for user_id in known_ids if user_id not in compared]
            drifts = await self._compare(others, since)
            yield len(others), [drift.user_id for drift in drifts]
        yield 0, list(again)
        for _ in range(0, SIFTED_A_ROUND, SIFTED_AT_ONCE):
            suspects, stretch.after = await self._sift(since, stretch.after)
            yield 0, suspects
            if stretch.after is None:
                return

    async def _sift(self, since: Stamps, after: str | None) -> tuple[list[str], str | None]:
        """Have the database look at a stretch of all users; returns who is suspicious, and where the next begins."""
        page = await self._store.sift(
            version=since("") + 1, after_ms=self._now_ms() + CLOCK_SLACK_MS, after=after, limit=SIFTED_AT_ONCE
        )
        return [user.user_id for user in page.users], page.cursor

    async def _confirm(self, suspects: Sequence[str], since: Stamps) -> list[Difference]:
        """Look again at each suspect. What is settled in the writer now will be in the store when it is read."""
        found: list[Difference] = []
        for start in range(0, len(suspects), PAGE_SIZE):
            found += await self._compare(suspects[start : start + PAGE_SIZE], since)
        return found

    async def _compare(self, user_ids: Sequence[str], since: Stamps) -> list[Difference]:
        true = await self._truth.rows(user_ids)
        settled = [user_id for user_id in user_ids if not self._writer.is_pending(user_id)]
        return await self._judge(settled, true, await self._store.read(settled), since)

    async def _judge(
        self,
        user_ids: Sequence[str],
        true: Mapping[str, StoredUser],
        stored: Mapping[str, StoredUser],
        since: Stamps,
    ) -> list[Difference]:
        until = await self._truth.stamps()
        now_ms, creates_users = self._now_ms(), self._store.creates_users
        drifts: list[Difference] = []
        for user_id in user_ids:
            moment = Moment(range(since(user_id), until(user_id)), now_ms)
            drift = judge(true.get(user_id), stored.get(user_id), moment, creates_users=creates_users)
            if drift is not None:
                drifts.append(drift)
        return drifts

    async def _repair(self, drifts: Sequence[Difference]) -> int:
        for drift in drifts:
            fields = {"fields": list(drift.fields)} if drift.fields else {}
            _log.warning("drift repaired", user=shown_key(drift.user_id), kind=drift.kind.value, **fields)
        if drifts:
            await self._truth.repair([to_repair(drift) for drift in drifts])
        return len(drifts)

    @property
    def troubles(self) -> tuple[str, ...]:
        """What is wrong with the database, beside the drift that is mended, a sentence each."""
        trouble = self.undone.trouble
        return self.upkeep.troubles if trouble is None else (*self.upkeep.troubles, trouble)

    def _note_undone(self, wrong: set[str], repairs: Sequence[Difference], checked: int) -> None:
        before = self.undone.trouble
        repaired = islice((drift.user_id for drift in repairs if drift.user_id in wrong), TRACKED_DRIFTS)
        self.undone.note(wrong, repaired, checked)
        trouble = self.undone.trouble
        if trouble is not None and before is None:  # once: more may follow
            names = [shown_key(user) for user in self.undone.users[:NAMED_AT_MOST]]
            _log.error("repairs have no effect", trouble=trouble, users=names)

    def _note(self, report: AuditReport) -> None:
        self.last = report
        self.last_error = None
        self.totals.rounds += 1
        self.totals.ghosts += report.ghosts
        self.totals.missing += report.missing
        self.totals.wrong += report.wrong
        self.totals.repaired += report.repaired
        log = _log.info if report.ghosts or report.missing or report.wrong else _log.debug
        log("audited", **msgspec.structs.asdict(report))
