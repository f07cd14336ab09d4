"""The application's database in a simulated world: the contract of ``herenow.store.base``, in memory.

One :class:`Database` is there for all; each process has a :class:`MemoryStore` as its way to it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence

from msgspec.structs import replace

from herenow.errors import StoreInUse, StoreUnavailable
from herenow.model import Availability, StoredUser
from herenow.store.base import PAGE_SIZE, Applied, Counts, Gaps, InitReport, Progress, RowPage, Spare, Succeeds
from herenow.store.nodes import Node, Roll, is_same
from simulation.loop import Process

TIMEOUT_S = 2.0
"""How long an operation waits for a database that is away."""


class Database:
    """What all processes see.

    Attributes:
        rows: by user.
        owner: who keeps it; ``None``: nobody ever did.
        is_away: it answers nobody.
    """

    def __init__(self) -> None:
        self.rows: dict[str, StoredUser] = {}
        self.owner: Node | None = None
        self.is_away = False

    def online(self) -> set[str]:
        """Whom it shows online."""
        return {user_id for user_id, row in self.rows.items() if row.is_online}


class MemoryStore:
    """A ``Store``; ``herenow.store.base.Store`` says what its methods do.

    Args:
        database: which.
        process: whose way to it this is.
        dice: of how long anything takes.
    """

    name = "the database of the simulation"
    creates_users = keeps_tenants = prepared = True

    def __init__(self, database: Database, process: Process, dice: random.Random) -> None:
        self._database = database
        self._process = process
        self._dice = dice

    def canonical(self, user_id: str) -> str:
        return user_id

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def init(
        self,
        *,
        dry_run: bool = False,
        schema: bool = False,
        adopt_only: bool = False,
        values: bool = True,
        on_progress: Progress | None = None,
    ) -> InitReport:
        return InitReport(dry_run, ())

    async def objections(self) -> tuple[str, ...]:
        return ()

    async def gaps(self) -> Gaps:
        await self._reach()
        return Gaps()

    async def apply(self, rows: Sequence[StoredUser]) -> Applied:
        await self._reach()
        written = 0
        for row in rows:
            stored = self._database.rows.get(row.user_id)
            if stored is None or stored.version < row.version:
                last_ms = row.last_active_ms
                if last_ms is None and stored is not None:
                    last_ms = stored.last_active_ms
                self._database.rows[row.user_id] = replace(row, last_active_ms=last_ms)
                written += 1
        await self._answer()
        return Applied(written, len(rows) - written)

    async def read(self, user_ids: Collection[str]) -> dict[str, StoredUser]:
        await self._reach()
        rows = self._database.rows
        return {user_id: rows[user_id] for user_id in user_ids if user_id in rows}

    async def missing(self, user_ids: Collection[str]) -> set[str]:
        return set()

    async def online(self, *, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        found = await self._all(lambda row: row.is_online)
        return RowPage(tuple(sorted(found, key=lambda row: row.last_active_ms or 0, reverse=True)), None)

    async def online_ids(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[list[str]]:
        yield [row.user_id for row in (await self.online()).users]

    async def odd_ids(self, *, after_ms: int) -> AsyncIterator[list[str]]:
        yield []

    async def claimed(self, *, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        return RowPage(await self._all(lambda row: row.claim is not None), None)

    async def sift(self, *, version: int, after_ms: int, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        def is_suspicious(row: StoredUser) -> bool:
            return row.claim is not None or row.version >= version or (row.last_active_ms or 0) > after_ms

        return RowPage(await self._all(is_suspicious), None)

    async def counts(self) -> Counts:
        rows = await self._all(lambda row: True)
        shown = [row.availability for row in rows if row.is_online]
        away, busy = shown.count(Availability.AWAY), shown.count(Availability.BUSY)
        return Counts(len(rows), len(shown), away, busy)

    async def stale(
        self, before_ms: int, *, after_ms: int | None = None, after: str | None = None, limit: int = PAGE_SIZE
    ) -> RowPage:
        return RowPage(await self._all(lambda row: row.is_online and (row.last_active_ms or 0) < before_ms), None)

    async def reset(
        self,
        *,
        version: int,
        before_ms: int | None = None,
        after_ms: int | None = None,
        spare: Spare | None = None,
        on_progress: Progress | None = None,
    ) -> int:
        found = await self._all(lambda row: row.is_online and row.version < version)
        for row in found:
            gone = replace(row, is_online=False, availability=Availability.OFFLINE, version=version)
            self._database.rows[row.user_id] = gone
        return len(found)

    async def max_version(self) -> int:
        await self._reach()
        return max((row.version for row in self._database.rows.values()), default=0)

    async def claim_node(self, node: Node, *, succeeds: Succeeds | None = None) -> tuple[Node, ...]:
        await self._reach()
        owner = self._database.owner
        lives = owner is not None and owner.lease_ms > 0
        if owner is not None and lives and not is_same(owner, node) and not (succeeds is not None and succeeds(owner)):
            raise StoreInUse(self.name, host=owner.host, pid=owner.pid, beat_ms=owner.beat_ms)
        self._database.owner = node
        return (owner,) if owner is not None and lives else ()

    async def beat(self, node: Node) -> None:
        await self._reach()
        owner = self._database.owner
        if owner is not None and not is_same(owner, node):
            raise StoreInUse(self.name, host=owner.host, pid=owner.pid, beat_ms=owner.beat_ms)
        self._database.owner = node

    async def release_node(self, node: Node) -> None:
        await self._reach()
        owner = self._database.owner
        if owner is not None and is_same(owner, node):
            self._database.owner = replace(owner, lease_ms=0)

    async def roll(self) -> Roll:
        return Roll()

    async def _all(self, is_meant: Callable[[StoredUser], bool]) -> tuple[StoredUser, ...]:
        await self._reach()
        rows = self._database.rows
        return tuple(rows[user_id] for user_id in sorted(rows) if is_meant(rows[user_id]))

    async def _reach(self) -> None:
        """Be there after a moment.

        Raises:
            StoreUnavailable: it is away.
        """
        if self._database.is_away:
            await asyncio.sleep(self._dice.choice((0.001, TIMEOUT_S)))
        await asyncio.sleep(self._dice.uniform(0.0005, 0.004))
        self._see_that_it_is_there()

    async def _answer(self) -> None:
        """Come back after a moment: it was done, but whoever asked may not hear of it."""
        await asyncio.sleep(self._dice.uniform(0.0005, 0.004))
        self._see_that_it_is_there()

    def _see_that_it_is_there(self) -> None:
        if self._database.is_away or self._process.is_killed:
            raise StoreUnavailable(self.name, "it cannot be reached")
