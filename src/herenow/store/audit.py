"""The audit: finds drift between the store and the registry, and repairs it through the writer.

Each round:

1. takes a version stamp, before it looks at anything: whatever the registry decides later is newer, and wins over
   every repair of this round, in the writer and in the store;
2. walks the store's online users and asks the registry for each page: who is not online there is a *ghost*;
   walks the registry's online users and reads each page in the store: who is not online there is *missing*;
3. looks at every suspect again, one by one, registry first and store last, and drops those whose row is still on its
   way in the writer or newer than the stamp;
4. repairs only what the round before saw too. A single sighting may be a change that is on its way.

So another program that keeps writing the two fields meets at most one write a round, and the audit itself can never
put a user offline who connects while it works.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Protocol

import msgspec
import structlog

from herenow.errors import StoreError
from herenow.model import Availability, StoredUser
from herenow.store.base import Store
from herenow.store.writer import Writer

TRACKED_DRIFTS = 10_000
"""Drifts that one round follows up, at most; the rest have their turn once these are repaired. Bounds the memory."""

_log = structlog.get_logger(__name__)


class Truth(Protocol):
    """What the registry says: the side that is right."""

    async def stamp(self) -> int:
        """Give out a version, newer than all before it and older than all after it."""
        ...

    async def online_among(self, user_ids: Sequence[str]) -> Container[str]:
        """Say which of these users are online."""
        ...

    async def rows(self, user_ids: Sequence[str]) -> Mapping[str, StoredUser]:
        """Say how these users should stand in the store, claims included.

        A user of whom the registry knows nothing is left out.
        """
        ...

    def online(self) -> AsyncIterator[Sequence[str]]:
        """Walk through the ids of all whom the registry shows online, page by page."""
        ...


class DriftKind(StrEnum):
    """``GHOST``: online in the store only. ``MISSING``: online in the registry only."""

    GHOST = "ghost"
    MISSING = "missing"


class Drift(msgspec.Struct, frozen=True):
    """One user of whom the store and the registry disagree: how, and the row that would mend it."""

    kind: DriftKind
    repair: StoredUser

    @property
    def user_id(self) -> str:
        return self.repair.user_id


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
        writer: carries the repairs.
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

    async def run(self) -> None:
        """Do a round after each interval, until cancelled. A store that fails is left for the next round."""
        while True:
            await self._sleep(self._every_s)
            try:
                await self.round()
            except StoreError as error:
                self.totals.failures += 1
                _log.warning("audit failed", error=str(error), temporary=error.temporary)

    async def round(self) -> AuditReport:
        """Compare once, and repair what the round before saw too.

        Raises:
            StoreError: the store could not be read; the drifts seen so far are remembered.
        """
        began_s = self._clock()
        stamp = await self._truth.stamp()
        kinds = Counter[DriftKind]()
        seen: dict[str, DriftKind] = {}
        checked = repaired = 0
        async for looked_at, suspects in self._walk():
            checked += looked_at
            drifts = await self._confirm(suspects, stamp)
            kinds.update(drift.kind for drift in drifts)
            repairs = plan(drifts, self._seen)
            self._repair(repairs)
            repaired += len(repairs)
            mended = {drift.user_id for drift in repairs}
            # what was just repaired starts anew: one who keeps undoing it meets one write in two rounds
            first_seen = {drift.user_id: drift.kind for drift in drifts if drift.user_id not in mended}
            seen.update(islice(first_seen.items(), TRACKED_DRIFTS - len(seen)))
        self._seen = seen
        report = AuditReport(
            checked=checked,
            ghosts=kinds[DriftKind.GHOST],
            missing=kinds[DriftKind.MISSING],
            repaired=repaired,
            duration_ms=round((self._clock() - began_s) * 1000),
        )
        self._note(report)
        return report

    async def _walk(self) -> AsyncIterator[tuple[int, list[str]]]:
        """Walk both sides, and give for each page how many users it held and who of them is not online on the other."""
        async for user_ids in self._store.online_ids():
            online = await self._truth.online_among(user_ids)
            yield len(user_ids), [user_id for user_id in user_ids if user_id not in online]
        async for connected_ids in self._truth.online():
            yield len(connected_ids), _not_online(connected_ids, await self._store.read(connected_ids))

    async def _confirm(self, suspects: Sequence[str], stamp: int) -> list[Drift]:
        """Look again at each suspect. What is settled in the writer now will be in the store when it is read."""
        if not suspects:
            return []
        said = await self._truth.rows(suspects)
        settled = [user_id for user_id in suspects if not self._writer.is_pending(user_id)]
        stored = await self._store.read(settled)
        creates = self._store.creates_users
        drifts = (judge(said.get(user_id), stored.get(user_id), stamp, creates_users=creates) for user_id in settled)
        return [drift for drift in drifts if drift is not None]

    def _repair(self, drifts: Sequence[Drift]) -> None:
        """Submit the repairs: the writer and the store let only what is newer than their own rows through."""
        for drift in drifts:
            _log.warning("drift repaired", user_id=drift.user_id, kind=drift.kind.value)
        self._writer.submit(drift.repair for drift in drifts)

    def _note(self, report: AuditReport) -> None:
        self.last = report
        self.totals.rounds += 1
        self.totals.ghosts += report.ghosts
        self.totals.missing += report.missing
        self.totals.repaired += report.repaired
        log = _log.info if report.ghosts or report.missing else _log.debug
        log("audited", **msgspec.structs.asdict(report))


def judge(said: StoredUser | None, stored: StoredUser | None, stamp: int, *, creates_users: bool) -> Drift | None:
    """Compare one user's two rows; a row as new as the round itself is no evidence.

    Args:
        said: as the registry has it; ``None`` if it knows nothing of the user.
        stored: as the store has it; ``None`` if it does not have the user.
        stamp: the version of the round, which the repair gets.
        creates_users: whether the store would create a user whom it does not have.
    """
    if any(row is not None and row.version >= stamp for row in (said, stored)):
        return None
    if said is not None and said.is_online:
        if _is_online(stored) or (stored is None and not creates_users):
            return None
        return Drift(DriftKind.MISSING, msgspec.structs.replace(said, version=stamp))
    if stored is not None and stored.is_online:
        offline = msgspec.structs.replace(
            said or stored, is_online=False, availability=Availability.OFFLINE, version=stamp
        )
        return Drift(DriftKind.GHOST, offline)
    return None


def plan(drifts: Iterable[Drift], seen: Mapping[str, DriftKind]) -> list[Drift]:
    """Choose what to repair: the drifts that the round before saw in the same way."""
    return [drift for drift in drifts if seen.get(drift.user_id) == drift.kind]


def _not_online(user_ids: Iterable[str], rows: Mapping[str, StoredUser]) -> list[str]:
    return [user_id for user_id in user_ids if not _is_online(rows.get(user_id))]


def _is_online(row: StoredUser | None) -> bool:
    return row is not None and row.is_online
