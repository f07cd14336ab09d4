"""What an operator asks of a live server: how it stands, where the store disagrees, and to put things right.

The registry decides who is protected: whoever has a connection is left alone unless the order says otherwise, and
``stale`` also leaves alone who still lingers, for the linger ends by itself within seconds. Every write to the store
repeats its own guard there (see ``store/base.py``), so a user who comes back meanwhile stays online.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence

from herenow.http.models import (
    SHOWN_AT_MOST,
    Bounds,
    Cleaned,
    Disconnected,
    Drift,
    Ghost,
    OnlineUser,
    Server,
    Stats,
    Status,
    StoreCounts,
    WriterHealth,
)
from herenow.model import Cause, UserPresence
from herenow.presence import Presence
from herenow.registry.base import Batch
from herenow.store.audit import DriftKind
from herenow.store.base import PAGE_SIZE
from herenow.times import to_iso

DRAIN_S = 2.0
"""How long an order waits for rows that are on their way to the store."""


class Maintenance:
    """The orders and questions of an operator to one started :class:`~herenow.presence.Presence`."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    async def stats(self) -> Stats:
        """Count, in O(1)."""
        stats = await self._presence.registry.stats()
        return Stats(
            online=stats.online,
            away=stats.away,
            busy=stats.busy,
            connections=stats.connections,
            users=stats.users,
            version=stats.version,
            bounds=Bounds.of(self._presence.settings),
        )

    async def status(self) -> Status:
        """Give the whole picture.

        Raises:
            StoreError: the store cannot be read.
        """
        presence = self._presence
        now = now_ms()
        counts, nodes = await presence.store.counts(), await presence.store.nodes()
        page = await presence.registry.online(SHOWN_AT_MOST)
        stats = await self.stats()
        return Status(
            database=presence.store.name,
            time=to_iso(now),
            servers=[Server.of(node, now) for node in nodes],
            stored=StoreCounts.of(counts),
            stats=stats,
            writer=self.writer(tell_error=True),
            online_total=stats.users,
            online_first=[await self._online_user(user) for user in page.users],
            bounds=stats.bounds,
            drift=await self.drift(),
        )

    async def _online_user(self, user: UserPresence) -> OnlineUser:
        connections = await self._presence.registry.connections_of(user.user_id)
        return OnlineUser(
            user_id=user.user_id,
            availability=user.availability,
            since=to_iso(min(each.opened_ms for each in connections)) if connections else None,
            connections=len(connections),
            last_active=None if user.last_active_ms is None else to_iso(user.last_active_ms),
        )

    def writer(self, *, tell_error: bool) -> WriterHealth:
        """Say how the store follows."""
        state = self._presence.writer.state()
        return WriterHealth(
            healthy=state.healthy,
            pending=state.pending,
            lag_ms=state.lag_ms,
            written=state.written,
            failures=state.failures,
            last_error=state.last_error if tell_error else None,
        )

    # -- drift -------------------------------------------------------------------------------------------------------

    async def drift(self) -> Drift:
        """Compare the store with the registry now, and repair nothing. Holds a page of users at a time.

        Raises:
            StoreError: the store cannot be read.
        """
        checked = 0
        kinds = Counter[DriftKind]()
        examples: list[Ghost] = []
        async for looked_at, drifts in self._presence.audit.survey():
            checked += looked_at
            kinds.update(drift.kind for drift in drifts)
            first = drifts[: SHOWN_AT_MOST - len(examples)]
            examples += [Ghost(user_id=drift.user_id, kind=drift.kind.value) for drift in first]
        return Drift(
            checked=checked, ghosts=kinds[DriftKind.GHOST], missing=kinds[DriftKind.MISSING], examples=examples
        )

    async def _ghosts(self, user_ids: Sequence[str]) -> list[str]:
        """Of users who are online in the store: those who are not online here, nor on their way."""
        here = await self._online_here(user_ids)
        writer = self._presence.writer
        return [user_id for user_id in user_ids if user_id not in here and not writer.is_pending(user_id)]

    async def _online_here(self, user_ids: Sequence[str]) -> set[str]:
        users = (await self._presence.registry.get(user_ids)).users
        return {user_id for user_id, user in users.items() if user.is_online}

    # -- orders ------------------------------------------------------------------------------------------------------

    async def cleanup(self, *, disconnect: bool, dry_run: bool) -> Cleaned:
        """Take offline whoever has no connection; with ``disconnect``, everyone.

        Raises:
            StoreError: the store cannot be written; the registry has obeyed.
        """
        connected, lingering, connections = await self._count_online()
        closing = connections if disconnect else 0
        if dry_run:
            offline = lingering + (connected if disconnect else 0) + await self._count_ghosts()
            return Cleaned(
                dry_run=True, offline=offline, protected_users=0 if disconnect else connected, closed=closing
            )
        offline, closed = await self._evict_all(disconnect=disconnect)
        offline += await self._reset(before_ms=None)
        return Cleaned(dry_run=False, offline=offline, protected_users=0 if disconnect else connected, closed=closed)

    async def stale(self, *, older_than_ms: int, dry_run: bool) -> Cleaned:
        """Take offline in the store who was silent for so long and is not here.

        Raises:
            StoreError: the store cannot be read or written.
        """
        before_ms = now_ms() - older_than_ms
        silent = offline = 0
        cursor: str | None = None
        while True:
            page = await self._presence.store.stale(before_ms, after=cursor)
            user_ids = [user.user_id for user in page.users]
            silent += len(user_ids)
            offline += len(await self._ghosts(user_ids))
            if page.cursor is None:
                break
            cursor = page.cursor
        protected = silent - offline
        if not dry_run:
            offline = await self._reset(before_ms=before_ms)
        return Cleaned(dry_run=dry_run, offline=offline, protected_users=protected, closed=0)

    async def disconnect(self, user_id: str) -> Disconnected:
        """Close all connections of a user, who is offline at once."""
        return Disconnected(closed=await self._presence.disconnect(user_id))

    async def _evict_all(self, *, disconnect: bool) -> tuple[int, int]:
        """Evict; count the users who went offline by it, and the connections that were closed."""
        offline = 0

        def count(batch: Batch) -> None:
            nonlocal offline
            offline += sum(change.cause is Cause.CLEANUP and not change.is_online for change in batch.changes)

        unsubscribe = self._presence.registry.subscribe(count)
        try:
            closed = await self._presence.evict(None, disconnect=disconnect, cause=Cause.CLEANUP)
        finally:
            unsubscribe()
        return offline, len(closed)

    async def _reset(self, *, before_ms: int | None) -> int:
        """Set the ghosts offline in the store. Rows on their way go first, so that nobody is taken for one."""
        presence = self._presence
        await presence.writer.drain(DRAIN_S)

        async def spare(user_ids: Sequence[str]) -> Collection[str]:
            return await self._online_here(user_ids)

        # Above all that was written, below all that the registry decides from now on.
        return await presence.store.reset(version=presence.registry.version + 1, before_ms=before_ms, spare=spare)

    async def _count_online(self) -> tuple[int, int, int]:
        """Count the users online with a connection, those who only linger, and all connections."""
        connected = lingering = 0
        cursor: str | None = None
        while True:
            page = await self._presence.registry.online(PAGE_SIZE, cursor)
            for connections in await asyncio.gather(
                *(self._presence.registry.connections_of(user.user_id) for user in page.users)
            ):
                connected += bool(connections)
                lingering += not connections
            if page.cursor is None:
                return connected, lingering, (await self._presence.registry.stats()).connections
            cursor = page.cursor

    async def _count_ghosts(self) -> int:
        ghosts = 0
        async for user_ids in self._presence.store.online_ids():
            ghosts += len(await self._ghosts(user_ids))
        return ghosts


def now_ms() -> int:
    """The wall clock, in milliseconds."""
    return time.time_ns() // 1_000_000
