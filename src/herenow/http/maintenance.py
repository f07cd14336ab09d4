"""What an operator asks of a live server: how it stands, where the store disagrees, and to put things right.

An operator speaks of all tenants, or of one: ``tenant=None`` means all, here and nowhere else.

The registry decides who is protected: whoever has a connection is left alone unless the order says otherwise, and
``stale`` also leaves alone who still lingers, for the linger ends by itself within seconds. Every write to the store
repeats its own guard there (see ``store/base.py``), so a user who comes back meanwhile stays online.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from herenow.http.models import (
    SHOWN_AT_MOST,
    Bounds,
    Cleaned,
    Drift,
    Ghost,
    NodeStatus,
    OnlineUser,
    ServerStatus,
    Stats,
    Status,
    StoreCounts,
    WriterHealth,
    of_tenant,
)
from herenow.keeper.judgement import DriftKind
from herenow.model import Cause, UserPresence
from herenow.registry.base import Batch, RegistryStats
from herenow.service import Service
from herenow.store.nodes import Roll, is_same
from herenow.store.rows import CLOCK_SLACK_MS
from herenow.tenancy import tenant_of
from herenow.times import to_iso

if TYPE_CHECKING:
    from herenow.cluster.keeper import Peer

DRAIN_S = 2.0
"""How long an order waits for rows that are on their way to the store."""


class Maintenance:
    """The orders and questions of an operator to one started :class:`~herenow.service.Service`."""

    def __init__(self, presence: Service) -> None:
        self._presence = presence

    def told(self, stats: RegistryStats) -> Stats:
        """Put counts into an answer."""
        return Stats(
            online=stats.online,
            away=stats.away,
            busy=stats.busy,
            connections=stats.connections,
            users=stats.users,
            version=stats.version,
            bounds=Bounds.of(self._presence.settings),
        )

    def _tenants(self, tenant: str | None) -> tuple[str | None, ...]:
        """The tenants that an order is about."""
        if tenant is not None:
            self._presence.check_tenant(tenant)
        return self._presence.tenants.names() if tenant is None else (tenant,)

    async def status(self, tenant: str | None) -> Status:
        """Give the whole picture. What is stored is always that of all tenants.

        Raises:
            StoreError: the store cannot be read.
        """
        presence = self._presence
        now = self._presence.registry.now().unix_ms
        counts, roll = await presence.store.counts(), await presence.store.roll()
        cluster = presence.cluster
        stats = await (presence.tenants.stats() if tenant is None else presence.stats(tenant=tenant))
        return Status(
            database=presence.store.name,
            time=to_iso(now),
            servers=self._servers(roll) if cluster is None else list(map(_node_status, await cluster.peers())),
            complaints=roll.complaints,
            stored=StoreCounts.of(counts),
            stats=self.told(stats),
            writer=self.writer(),
            online_total=stats.users,
            online_first=[await self._online_user(each, user) for each, user in await self._online_first(tenant)],
            bounds=Bounds.of(presence.settings),
            drift=await self.drift(tenant),
            troubles=list(presence.audit.troubles),
        )

    def _servers(self, roll: Roll) -> list[ServerStatus]:
        mine = self._presence.node
        return [
            ServerStatus.of(sighting, is_alive=sighting.is_fresh or is_same(sighting.node, mine))
            for sighting in roll.sightings
            if sighting.node.lease_ms
        ]

    async def _online_first(self, tenant: str | None) -> list[tuple[str | None, UserPresence]]:
        """Who was active last, over the tenants."""
        found: list[tuple[str | None, UserPresence]] = []
        for each in self._tenants(tenant):
            page = await self._presence.registry_of(each).online(SHOWN_AT_MOST)
            found += [(each, user) for user in page.users]
        found.sort(key=lambda one: one[1].last_active_ms or 0, reverse=True)  # stable: those of a tenant keep theirs
        return found[:SHOWN_AT_MOST]

    async def _online_user(self, tenant: str | None, user: UserPresence) -> OnlineUser:
        connections = await self._presence.registry_of(tenant).connections_of(user.user_id)
        online = OnlineUser(
            user_id=user.user_id,
            availability=user.availability,
            since=to_iso(min(each.opened_ms for each in connections)) if connections else None,
            connections=len(connections),
            last_active=None if user.last_active_ms is None else to_iso(user.last_active_ms),
        )
        return of_tenant(online, tenant)

    def writer(self) -> WriterHealth:
        """Say how the store follows."""
        state, objections = self._presence.writer.state(), self._presence.objections
        return WriterHealth(
            healthy=state.healthy and not objections,
            pending=state.pending,
            lag_ms=state.lag_ms,
            written=state.written,
            failures=state.failures,
            last_error=state.last_error or "; ".join(objections) or None,
        )

    # -- drift -------------------------------------------------------------------------------------------------------

    async def drift(self, tenant: str | None) -> Drift:
        """Compare the store with the registry now, and repair nothing. Holds a page of users at a time.

        Of one tenant only the drifts are counted: whoever is looked at, is looked at.

        Raises:
            StoreError: the store cannot be read.
        """
        self._tenants(tenant)
        checked = 0
        kinds = Counter[DriftKind]()
        examples: list[Ghost] = []
        async for looked_at, drifts in self._presence.audit.survey():
            checked += looked_at
            meant = [drift for drift in drifts if _is_of(tenant, drift.user_id)]
            kinds.update(drift.kind for drift in meant)
            first = meant[: SHOWN_AT_MOST - len(examples)]
            examples += [Ghost.of(drift.user_id, drift.kind.value) for drift in first]
        return Drift(
            checked=checked,
            ghosts=kinds[DriftKind.GHOST],
            missing=kinds[DriftKind.MISSING],
            wrong=kinds[DriftKind.WRONG],
            examples=examples,
        )

    async def _ghosts(self, keys: Sequence[str]) -> list[str]:
        """Of users who are online in the store: those who are not online here, nor on their way."""
        here = await self._online_here(keys)
        writer = self._presence.writer
        return [key for key in keys if key not in here and not writer.is_pending(key)]

    async def _online_here(self, keys: Sequence[str]) -> set[str]:
        return {key for key, user in (await self._presence.truth.views(keys)).items() if user.is_online}

    # -- orders ------------------------------------------------------------------------------------------------------

    async def cleanup(self, *, disconnect: bool, dry_run: bool, tenant: str | None) -> Cleaned:
        """Take offline whoever has no connection; with ``disconnect``, everyone.

        Raises:
            StoreError: the store cannot be written; the registry has obeyed.
        """
        connected, lingering, connections = await self._count_online(tenant)
        closing = connections if disconnect else 0
        if dry_run:
            offline = lingering + (connected if disconnect else 0) + await self._count_ghosts(tenant)
            return Cleaned(
                dry_run=True, offline=offline, protected_users=0 if disconnect else connected, closed=closing
            )
        offline = closed = 0
        for each in self._tenants(tenant):
            went, ended = await self._evict_all(each, disconnect=disconnect)
            offline, closed = offline + went, closed + ended
        offline += await self._reset(tenant, before_ms=None)
        return Cleaned(dry_run=False, offline=offline, protected_users=0 if disconnect else connected, closed=closed)

    async def stale(self, *, older_than_ms: int, dry_run: bool, tenant: str | None) -> Cleaned:
        """Take offline in the store who was silent for so long and is not here.

        Raises:
            StoreError: the store cannot be read or written.
        """
        self._tenants(tenant)
        now = self._presence.registry.now().unix_ms
        before_ms, after_ms = now - older_than_ms, now + CLOCK_SLACK_MS
        silent = offline = 0
        cursor: str | None = None
        while True:
            page = await self._presence.store.stale(before_ms, after_ms=after_ms, after=cursor)
            keys = [user.user_id for user in page.users if _is_of(tenant, user.user_id)]
            silent += len(keys)
            offline += len(await self._ghosts(keys))
            if page.cursor is None:
                break
            cursor = page.cursor
        protected = silent - offline
        if not dry_run:
            offline = await self._reset(tenant, before_ms=before_ms, after_ms=after_ms)
        return Cleaned(dry_run=dry_run, offline=offline, protected_users=protected, closed=0)

    async def _evict_all(self, tenant: str | None, *, disconnect: bool) -> tuple[int, int]:
        """Evict; count the users who went offline by it, and the connections that were closed."""
        offline = 0

        def count(batch: Batch) -> None:
            nonlocal offline
            offline += sum(change.cause is Cause.CLEANUP and not change.is_online for change in batch.changes)

        presence = self._presence
        with presence.tenants.holding(tenant) as registry:
            unsubscribe = registry.subscribe(count)
            try:
                closed = await presence.evict(None, disconnect=disconnect, cause=Cause.CLEANUP, tenant=tenant)
            finally:
                unsubscribe()
        return offline, len(closed)

    async def _reset(self, tenant: str | None, *, before_ms: int | None, after_ms: int | None = None) -> int:
        """Set the ghosts offline in the store. Rows on their way go first, so that nobody is taken for one."""
        presence = self._presence
        await presence.writer.drain(DRAIN_S)

        async def spare(keys: Sequence[str]) -> Collection[str]:
            meant = [key for key in keys if _is_of(tenant, key)]
            return await self._online_here(meant) | {key for key in keys if not _is_of(tenant, key)}

        version = await self._version_below_all_to_come()
        return await presence.store.reset(version=version, before_ms=before_ms, after_ms=after_ms, spare=spare)

    async def _version_below_all_to_come(self) -> int:
        """A version above all that was written, and below all that any tenant's registry decides from now on.

        They count apart. Of one that is ahead of the others, since the clock was set back, the latest rows are above
        it: those the audit mends.
        """
        tenants = self._presence.tenants
        there = [found for tenant in tenants.names() if (found := tenants.find(tenant)) is not None]
        version = min(await asyncio.gather(*(registry.stamp() for registry in there)))
        tenants.raise_floor(version)  # for those who come later
        return version

    async def _count_online(self, tenant: str | None) -> tuple[int, int, int]:
        """Count the users online with a connection, those who only linger, and all connections."""
        presence = self._presence
        connected = lingering = open_connections = 0
        for each in self._tenants(tenant):
            async for users in presence.truth.online_of(each):
                registry = presence.registry_of(each)
                for connections in await asyncio.gather(*(registry.connections_of(user.user_id) for user in users)):
                    connected += bool(connections)
                    lingering += not connections
            open_connections += (await presence.stats(tenant=each)).connections
        return connected, lingering, open_connections

    async def _count_ghosts(self, tenant: str | None) -> int:
        ghosts = 0
        async for keys in self._presence.store.online_ids():
            ghosts += len(await self._ghosts([key for key in keys if _is_of(tenant, key)]))
        return ghosts


def _node_status(peer: "Peer") -> ServerStatus:
    member = peer.member
    return ServerStatus(
        name=member.name,
        host=member.host,
        pid=member.pid,
        address=member.address,
        started=to_iso(member.started_ms),
        last_beat=to_iso(peer.last_beat_ms),
        is_alive=peer.is_alive,
        cluster=NodeStatus(id=peer.node, version=member.herenow, users=peer.users, is_leader=peer.is_leader),
    )


def _is_of(tenant: str | None, key: str) -> bool:
    """Whether an order about this tenant, or about all, is about a user."""
    return tenant is None or tenant_of(key) == tenant
