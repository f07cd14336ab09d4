"""What a server of a cluster does in the place of :class:`~herenow.keeper.keeper.Keeper`: it joins, and it may lead.

One node at a time keeps the store, in a *term*: as long as it leads. It takes the store over from the one before, at
once, since the cluster has decided so; lets the users in whom the store has and Redis does not; and writes what the log
says, from where the one before had come to.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from herenow.cluster.elsewhere import Elsewhere
from herenow.cluster.feed import Feed
from herenow.cluster.leadership import Leadership
from herenow.cluster.node import ClusterNode
from herenow.cluster.tenants import ClusterTenants
from herenow.errors import RegistryUnavailable, StoreError, StoreInUse
from herenow.keeper.audit import Audit
from herenow.keeper.keeper import Deliver, Keeper
from herenow.keeper.policy import log_capacity, policy_of
from herenow.keeper.truth import Truth
from herenow.keeper.writer import Writer
from herenow.logs import get_logger
from herenow.model import Availability, Cause, StoredUser
from herenow.registry.redis.clock import ClusterClock
from herenow.registry.redis.members import Member, Standing
from herenow.registry.redis.registry import RedisRegistry
from herenow.registry.redis.shard import Shard
from herenow.registry.redis.tail import Tail
from herenow.registry.tenants import Tenants
from herenow.settings import DISPATCH_BUDGET_S, Settings
from herenow.steady import Steady
from herenow.store.base import PAGE_SIZE, Store
from herenow.store.nodes import Node
from herenow.supervision import WELL_S, OnFault, Supervisor, end
from herenow.times import unix_ms, unix_us
from herenow.version import VERSION

log = get_logger("herenow.cluster")

TERM_AGAIN_S = 1.0
"""After a term that could not begin, such as that the store is away."""

LEAVE_S = 2.5
"""How long a stop waits for Redis to take that this node leaves, and the last one for the store."""


class ClusterKeeper:
    """One start of a server of a cluster.

    Args:
        store: not open yet.
        settings: with ``cluster``.
        supervisor: keeps the tasks alive.
        missed: called when the log of a tenant was cut before it was read.

    Attributes:
        node: this server, as its row in the store would say.
        lost: nobody takes a store from a cluster: ``None``.
        here: this process among the nodes, once it is claimed.
        leadership: its part in it.
    """

    lost: StoreInUse | None = None
    here: ClusterNode
    leadership: Leadership
    node: Node

    def __init__(
        self, store: Store, settings: Settings, supervisor: Supervisor, missed: Callable[[str | None], None]
    ) -> None:
        self._store = store
        self._settings = settings
        self._supervisor = supervisor
        self._missed = missed
        self._first = Keeper(store, settings, supervisor, lambda error: None)  # opens the store, and nothing else
        self._term: Keeper | None = None
        self._feed: Feed | None = None
        self._address = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._begun: tuple[Truth, Callable[[], Awaitable[None]]] | None = None
        self._can_begin = asyncio.Event()
        self._is_filled = asyncio.Event()
        self._fault: StoreError | None = None
        self._own_audit: Audit | None = None

    # -- coming ------------------------------------------------------------------------------------------------------

    async def prepare(self, *, adopt_only: bool) -> None:
        """Open the store, and make what it lacks; as :meth:`Keeper.prepare`."""
        await self._first.prepare(adopt_only=adopt_only)

    async def claim(self, address: str, *, renews: tuple[int, int] | None = None) -> None:
        """Join the cluster.

        Args:
            address: where this server's HTTP is, for the others and the commands.
            renews: of no account: the server before has left the cluster, and its users linger.

        Raises:
            SettingsInvalid: its settings do not fit to those of the others.
            RegistryUnavailable: Redis cannot be reached.
        """
        settings = self._settings
        url = settings.cluster_url
        self._address = address
        name = settings.node_name or f"node-{secrets.token_hex(3)}"
        self.node = Node.here(
            name=name,
            epoch=unix_us(),
            address=address,
            now_ms=unix_ms(),
            lease_ms=round(settings.node_lease_s * 1000),
        )
        self._shard = Shard(url, prefix=settings.cluster_prefix, node=name)
        self._clock = ClusterClock()
        self._tail = Tail(url, self._shard, self._supervisor.failed)
        member = Member(
            name=name,
            host=self.node.host,
            pid=self.node.pid,
            process=self.node.process,
            address=address,
            started_ms=self.node.started_ms,
            herenow=VERSION,
            settings=settings.shared_by_cluster(),
        )
        self.here = ClusterNode(
            self._shard,
            self._tail,
            self._clock,
            member,
            lease_s=settings.node_lease_s,
            beat_s=settings.node_beat_s,
            is_named=settings.node_name is not None,
        )
        await self.here.join()
        self._elsewhere = Elsewhere(self._shard, lambda: self.here.standing)

    async def adopt(self, make: Callable[[int], Tenants]) -> Tenants:
        """Make the registries, and wait until the users whom the store has are in the cluster.

        Raises:
            StoreError: they cannot be read.
        """
        tenants = self._tenants = make(self._clock.now().unix_us)
        settings = self._settings
        self.leadership = Leadership(
            self.here,
            self._shard,
            self._clock,
            self.registry_of,
            restart_grace_ms=round((settings.restart_grace_s - DISPATCH_BUDGET_S) * 1000),
        )
        self.here.on_beat(self._look_at_tenants)
        self.here.on_beat(self.leadership.told)
        self.here.on_return(self._say_again)
        keep = self._supervisor.start
        self._tasks += [
            keep("node beat", self.here.run, well_s=WELL_S + 2 * settings.node_beat_s),
            keep("leader", self.leadership.run, well_s=WELL_S + 2 * settings.node_beat_s),
            keep("term", self._run_terms),
        ]
        await self.here.beat()
        await self._is_filled.wait()
        if self._fault is not None:
            raise self._fault
        log.info("joined", node=self.here.node, nodes=len(self.here.standing.beats) if self.here.standing else 1)
        return tenants

    def make_tenants(self, deliver: Deliver, on_fault: OnFault, _: Steady, last_version: int) -> ClusterTenants:
        """Make the registries of all tenants; as :meth:`Keeper.make_tenants`."""

        def make(tenant: str | None, last_version: int) -> RedisRegistry:
            registry = RedisRegistry(
                self._shard,
                self._tail,
                **policy_of(self._settings),
                tenant=tenant,
                last_version=last_version,
                log_capacity=log_capacity(tenant),
                clock=self._clock,
                on_fault=on_fault,
                place=self.here,
                missed=partial(self._missed, tenant),
            )
            registry.subscribe(lambda batch: deliver(batch, tenant))
            return registry

        return ClusterTenants(make, last_version=last_version, now_us=lambda: self._clock.now().unix_us)

    def registry_of(self, tenant: str | None) -> RedisRegistry:
        """The registry of a tenant."""
        registry = self._tenants.registry(tenant)
        assert isinstance(registry, RedisRegistry)
        return registry

    def begin(self, truth: Truth, then: Callable[[], Awaitable[None]]) -> None:
        """Begin to audit, while this node leads; and to write, where it does already."""
        self._begun = truth, then
        self._own_audit = Audit(self._store, truth, self._elsewhere, every_s=self._settings.audit_every_s)
        if self._term is not None:
            self._term.begin(truth, then)
        self._can_begin.set()

    async def _look_at_tenants(self, standing: Standing) -> None:
        if standing.beats.get(self.here.node, 0) % 5 == 1 and isinstance(self._tenants, ClusterTenants):
            try:
                names = await self._shard.tenants()
            except RegistryUnavailable:
                return
            self._tenants.known = (None, *(name for name in names if name))

    def _say_again(self) -> None:
        for tenant in Tenants.names(self._tenants):
            said = self.registry_of(tenant).say_again()
            said.add_done_callback(self._note)

    def _note(self, said: "asyncio.Future[None]") -> None:
        if not said.cancelled() and isinstance(error := said.exception(), Exception):
            self._supervisor.failed("saying again", error)  # with the next thing that is asked of it, it is done

    # -- the store -----------------------------------------------------------------------------------------------------

    @property
    def writer(self) -> Writer | Elsewhere:
        """The writer, where this node leads; else what is known of the one elsewhere."""
        return self._elsewhere if self._term is None else self._term.writer

    @property
    def audit(self) -> Audit:
        """The audit that is run, or one that can be."""
        term = None if self._term is None else getattr(self._term, "audit", None)
        found = term or self._own_audit
        assert found is not None
        return found

    @property
    def objections(self) -> Sequence[str]:
        """The rules of the database that refuse what is written, where this node writes."""
        return () if self._term is None else self._term.objections

    async def _run_terms(self) -> None:
        while True:
            self.leadership.changed.clear()
            standing = self.here.standing
            if standing is not None and standing.filled == "yes":
                self._is_filled.set()
            if self.leadership.is_leader:
                await self._run_term()
            try:
                async with asyncio.timeout(self._settings.node_beat_s / 2):
                    await self.leadership.changed.wait()
            except TimeoutError:
                continue

    async def _run_term(self) -> None:
        keeper = Keeper(self._store, self._settings, self._supervisor, lambda error: self.leadership.changed.set())
        feed: Feed | None = None
        try:
            await keeper.claim(self._address, cluster=f"cluster {self.here.cluster}")
            feed = await self._open_feed(keeper)
            await self._fill(keeper)
            self._term, self._feed = keeper, feed
            self._is_filled.set()
            if self._begun is not None:
                keeper.begin(*self._begun)
            await self._keep(keeper, feed)
        except StoreError as error:
            self._note_fault(error)
            await asyncio.sleep(TERM_AGAIN_S)
        except RegistryUnavailable:
            await asyncio.sleep(TERM_AGAIN_S)
        finally:
            self._term = self._feed = None
            if feed is not None:
                await feed.close()
            await keeper.end(release=keeper.lost is None and hasattr(keeper, "node"), close=False)

    def _note_fault(self, error: StoreError) -> None:
        """A store that is another server's, or is none, keeps a first node from starting; a later one tries again."""
        if not self._is_filled.is_set() and not error.temporary:
            self._fault = error
            self._is_filled.set()
        else:
            log.error("this node leads, and cannot keep the store", error=str(error))

    async def _open_feed(self, keeper: Keeper) -> Feed:
        cursor = await self._shard.trying(lambda: self._shard.redis.get(self._shard.keys.cursor))
        start = cursor.decode() if cursor is not None else (await self._shard.last_entry()).decode()
        feed = Feed(
            self._settings.cluster_url,
            self._shard,
            self.here.members,
            keeper.writer,
            start=start,
            missed=self._audit_soon,
            on_fault=self._supervisor.failed,
        )
        if cursor is None:
            await self.here.members.replace(self._shard.keys.cursor, "", start)
        return feed

    async def _fill(self, keeper: Keeper) -> None:
        """Let in whom the store has and Redis does not; tell the store whom it was told to be offline."""
        found = await self._shard.trying(lambda: self._shard.redis.get(self._shard.keys.filled))
        filled = "" if found is None else found.decode()
        if filled == "yes":
            return
        if filled == "":
            await keeper.adopt(lambda _: self._tenants)
        else:
            await self._say_rows()
        await self.here.members.replace(self._shard.keys.filled, filled, "yes")

    async def _say_rows(self) -> None:
        """Have the log say of all who are online what the store is to know."""
        for name in await self._shard.tenants():
            registry, cursor = self.registry_of(name or None), None
            while True:
                page = await registry.online(PAGE_SIZE, cursor)
                await registry.repair([_offline(user.user_id) for user in page.users], cause=Cause.RESTART)
                if (cursor := page.cursor) is None:
                    break

    async def _keep(self, keeper: Keeper, feed: Feed) -> None:
        following = self._supervisor.start("feed", feed.run)
        try:
            while self.leadership.is_leader and keeper.lost is None:
                standing = self.here.standing
                if standing is not None and not standing.filled:  # Redis has lost all
                    await self._fill(keeper)
                try:
                    async with asyncio.timeout(self._settings.node_beat_s / 4):
                        await self.leadership.changed.wait()
                    self.leadership.changed.clear()
                except TimeoutError:
                    continue
        finally:
            await end([following])

    def _audit_soon(self) -> None:
        log.warning("the log was cut before the store had all of it: the audit finds what is missing")
        term = self._term
        if term is not None and self._begun is not None:
            self._tasks.append(asyncio.create_task(self._audit_twice(term), name="herenow audit after a cut"))

    async def _audit_twice(self, term: Keeper) -> None:
        for _ in range(2):
            try:
                await term.audit.round()
            except (StoreError, RegistryUnavailable) as error:
                log.warning("audit failed", error=str(error))

    # -- leaving -------------------------------------------------------------------------------------------------------

    async def leave(self, tenants: Tenants, on_fault: OnFault) -> None:
        """Hand the users of this node on: they linger, and who comes back to another node in time was never gone."""
        settings = self._settings
        now_ms = self._clock.now().unix_ms
        grace_ms = round((settings.restart_grace_s - DISPATCH_BUDGET_S) * 1000)
        try:
            async with asyncio.timeout(LEAVE_S):
                for tenant in Tenants.names(tenants):
                    await tenants.registry(tenant).node_lost(
                        self.here.name, last_beat_ms=now_ms, grace_ms=grace_ms, cause=Cause.RESTART
                    )
        except (RegistryUnavailable, TimeoutError) as error:
            log.error("Redis did not take that this node leaves: the others give it up", error=str(error))

    async def drain(self, within_s: float) -> int:
        """See that the store has all that this node was to write; the last one tells it that nobody is online.

        Returns:
            Of how many users it does not know.
        """
        left = await self._retire()
        term = self._term
        if left != 0:
            return 0 if term is None else await term.drain(within_s)
        try:
            async with asyncio.timeout(within_s):
                return await self._close_store()
        except (StoreError, TimeoutError) as error:
            log.error("the store was not told that nobody is online: the next start tells it", error=str(error))
            return 1

    async def _retire(self) -> int:
        """Be no member any more; returns how many are left, or -1: that is not known."""
        try:
            async with asyncio.timeout(LEAVE_S):
                await self.leadership.resign()
                return await self.here.retire()
        except (RegistryUnavailable, TimeoutError):
            return -1

    async def _close_store(self) -> int:
        """Nobody serves: tell the store that nobody is online. Who comes back in time is written online again."""
        version = await self._shard.stamp("", now_us=self._clock.now().unix_us, seen=0)
        term = self._term
        if term is not None:
            await term.drain(1.0)
            await self._store.reset(version=version)
            return 0
        keeper = Keeper(self._store, self._settings, self._supervisor, lambda error: None)
        try:
            await keeper.claim(self._address, cluster=f"cluster {self.here.cluster}")
            await self._store.reset(version=version)
        finally:
            await keeper.end(release=True, close=False)
        return 0

    async def end(self, *, release: bool) -> None:
        """Stop, and let go of the store and of Redis. Idempotent."""
        await end(self._tasks)
        if hasattr(self, "_shard"):
            await self._tail.close()
            await self._shard.close()
        await self._store.close()


def _offline(user_id: str) -> StoredUser:
    """A row that is wrong for whoever is online."""
    return StoredUser(user_id, False, Availability.OFFLINE, None, None, 0)
