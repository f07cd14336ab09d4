"""The audit: finds drift between the store and the registry, and has the registry repair it.

Each round:

1. takes a version stamp, before it looks at anything;
2. walks the store's online users and asks the registry for each page: who is not online there is a *ghost*;
   walks the registry's online users and reads each page in the store: who is not online there is *missing*;
3. looks at every suspect again, one by one, registry first and store last, and drops those whose row is still on its
   way in the writer, or was decided since the stamp. A row that is newer than anything the registry has decided is not
   the registry's: another program wrote it, and it is evidence like any other;
4. gives the registry what the round before saw too, to be answered with rows that are newer, and true at that moment.
   A single sighting may be a change that is on its way.

So another program that keeps writing the two fields meets at most one write a round, and the audit itself can never
put a user offline who connects while it works.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Protocol

import msgspec

from herenow.errors import StoreError
from herenow.logs import get_logger
from herenow.model import Availability, StoredUser, UserPresence
from herenow.store.base import Store
from herenow.store.writer import Writer
from herenow.tenancy import shown_key

TRACKED_DRIFTS = 10_000
"""Drifts that one round follows up, at most; the rest have their turn once these are repaired. Bounds the memory."""

_log = get_logger(__name__)


Stamps = Callable[[str], int]
"""For a user: a version that is newer than all before it of this user, and older than all after it."""


class Truth(Protocol):
    """What the registry says: the side that is right."""

    async def stamps(self) -> Stamps:
        """Give out a version; of each tenant one, for each has versions of its own."""
        ...

    async def views(self, user_ids: Sequence[str]) -> Mapping[str, UserPresence]:
        """Say how these users are shown. One of whom the registry knows nothing is left out."""
        ...

    async def repair(self, rows: Sequence[StoredUser]) -> None:
        """Answer these rows of the store, which are wrong, with newer ones that are true."""
        ...

    def online(self) -> AsyncIterator[Sequence[str]]:
        """Walk through the ids of all whom the registry shows online, page by page."""
        ...


class DriftKind(StrEnum):
    """``GHOST``: online in the store only. ``MISSING``: online in the registry only."""

    GHOST = "ghost"
    MISSING = "missing"


class Drift(msgspec.Struct, frozen=True):
    """One user of whom the store and the registry disagree: how, and what the store has."""

    user_id: str
    kind: DriftKind
    stored: StoredUser | None


class AuditReport(msgspec.Struct, frozen=True):
    """What one round found. ``repaired`` counts the drifts seen for the second time."""

    checked: int
    ghosts: int
    missing: int
    repaired: int
    duration_ms: int


class AuditTotals(msgspec.Struct):
    """Counts since the start, for metrics: a drift counts in each round that sees it."""

    rounds: int = 0
    failures: int = 0
    ghosts: int = 0
    missing: int = 0
    repaired: int = 0


class Audit:
    """Compares the store with the registry, for ever or once.

    Args:
        store: the side to be checked.
        truth: the registry's side.
        writer: knows which rows are still on their way.
        every_s: seconds between two rounds.
        clock: seconds that only grow.
        sleep: waits some seconds of that clock.
    """

    def __init__(
        self,
        store: Store,
        truth: Truth,
        writer: Writer,
        *,
        every_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._truth = truth
        self._writer = writer
        self._every_s = every_s
        self._clock = clock
        self._sleep = sleep
        self._seen: dict[str, DriftKind] = {}
        self.totals = AuditTotals()
        self.last: AuditReport | None = None
        self.last_error: StoreError | None = None
        """Why the last round could not be done; ``None`` once one was done again."""

    async def run(self) -> None:
        """Do a round after each interval, until cancelled. A store that fails is left for the next round."""
        while True:
            await self._sleep(self._every_s)
            try:
                await self.round()
            except StoreError as error:
                self.totals.failures += 1
                self.last_error = error
                log = _log.warning if error.temporary else _log.error
                log("audit failed", error=str(error), temporary=error.temporary)

    async def round(self) -> AuditReport:
        """Compare once, and repair what the round before saw too.

        Raises:
            StoreError: the store could not be read; the drifts seen so far are remembered.
        """
        began_s = self._clock()
        kinds = Counter[DriftKind]()
        seen: dict[str, DriftKind] = {}
        repairs: list[Drift] = []
        checked = 0
        async for looked_at, drifts in self.survey():
            checked += looked_at
            kinds.update(drift.kind for drift in drifts)
            seen_twice = plan(drifts, self._seen)
            repairs += seen_twice
            mended = {drift.user_id for drift in seen_twice}
            # what is repaired starts anew: one who keeps undoing it meets one write in two rounds
            first_seen = {drift.user_id: drift.kind for drift in drifts if drift.user_id not in mended}
            seen.update(islice(first_seen.items(), TRACKED_DRIFTS - len(seen)))
        await self._repair(repairs)  # at the end: a row ahead of the registry takes its versions along
        self._seen = seen
        report = AuditReport(
            checked=checked,
            ghosts=kinds[DriftKind.GHOST],
            missing=kinds[DriftKind.MISSING],
            repaired=len(repairs),
            duration_ms=round((self._clock() - began_s) * 1000),
        )
        self._note(report)
        return report

    async def survey(self) -> AsyncIterator[tuple[int, list[Drift]]]:
        """Compare once and repair nothing: for each page, how many users it held, and the drifts among them.

        Raises:
            StoreError: the store could not be read.
        """
        since = await self._truth.stamps()
        async for looked_at, suspects in self._walk():
            yield looked_at, await self._confirm(suspects, since) if suspects else []

    async def _walk(self) -> AsyncIterator[tuple[int, list[str]]]:
        """Walk both sides, and give for each page how many users it held and who of them is not online on the other."""
        async for user_ids in self._store.online_ids():
            views = await self._truth.views(user_ids)
            yield len(user_ids), [user_id for user_id in user_ids if not _is_online(views.get(user_id))]
        async for connected_ids in self._truth.online():
            rows = await self._store.read(connected_ids)
            yield len(connected_ids), [user_id for user_id in connected_ids if not _is_online(rows.get(user_id))]

    async def _confirm(self, suspects: Sequence[str], since: Stamps) -> list[Drift]:
        """Look again at each suspect. What is settled in the writer now will be in the store when it is read."""
        views = await self._truth.views(suspects)
        settled = [user_id for user_id in suspects if not self._writer.is_pending(user_id)]
        stored = await self._store.read(settled)
        until = await self._truth.stamps()
        drifts: list[Drift] = []
        for user_id in settled:
            view, row = views.get(user_id), stored.get(user_id)
            during = range(since(user_id), until(user_id))
            kind = judge(view, row, during, creates_users=self._store.creates_users)
            if kind is not None:
                drifts.append(Drift(user_id, kind, row))
        return drifts

    async def _repair(self, drifts: Sequence[Drift]) -> None:
        for drift in drifts:
            _log.warning("drift repaired", user=shown_key(drift.user_id), kind=drift.kind.value)
        if drifts:
            await self._truth.repair([drift.stored or _absent(drift.user_id) for drift in drifts])

    def _note(self, report: AuditReport) -> None:
        self.last = report
        self.last_error = None
        self.totals.rounds += 1
        self.totals.ghosts += report.ghosts
        self.totals.missing += report.missing
        self.totals.repaired += report.repaired
        log = _log.info if report.ghosts or report.missing else _log.debug
        log("audited", **msgspec.structs.asdict(report))


def judge(view: UserPresence | None, row: StoredUser | None, during: range, *, creates_users: bool) -> DriftKind | None:
    """Compare how one user is shown with what the store says.

    Args:
        view: as the registry has it; ``None`` if it knows nothing of the user.
        row: as the store has it; ``None`` if it does not have the user.
        during: the versions that the registry gave out since the round began: what has one of them is no evidence.
        creates_users: whether the store would create a user whom it does not have.
    """
    if any(each is not None and each.version in during for each in (view, row)):
        return None
    if _is_online(view):
        agrees = _is_online(row) or (row is None and not creates_users)
        return None if agrees else DriftKind.MISSING
    return DriftKind.GHOST if _is_online(row) else None


def plan(drifts: Iterable[Drift], seen: Mapping[str, DriftKind]) -> list[Drift]:
    """Choose what to repair: the drifts that the round before saw in the same way."""
    return [drift for drift in drifts if seen.get(drift.user_id) == drift.kind]


def _is_online(known: UserPresence | StoredUser | None) -> bool:
    return known is not None and known.is_online


def _absent(user_id: str) -> StoredUser:
    """The row of a user whom the store does not have."""
    return StoredUser(user_id, False, Availability.OFFLINE, None, None, 0)
