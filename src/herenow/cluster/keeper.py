"""What a server of a cluster does in the place of :class:`~herenow.keeper.keeper.Keeper`: it joins, and it may lead.

One node at a time keeps the store, in a *term*: as long as it leads. It takes the store over from the one before, at
once, since the cluster has decided so; lets the users in whom the store has and Redis does not; and writes what the log
says, from where the one before had come to.
"""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from herenow.cluster.elsewhere import Elsewhere
from herenow.cluster.membership import Membership, of_tenant
from herenow.cluster.node import ClusterNode
from herenow.cluster.tenants import ClusterTenants
from herenow.cluster.terms import Terms
from herenow.errors import RegistryUnavailable, SettingsInvalid, StoreError, StoreInUse
from herenow.keeper.audit import Audit
from herenow.keeper.keeper import Deliver, Keeper
from herenow.keeper.policy import log_capacity, policy_of
from herenow.keeper.truth import Truth
from herenow.keeper.writer import Writer
from herenow.logs import get_logger
from herenow.model import Cause
from herenow.registry.redis.members import Member, Standing
from herenow.registry.redis.registry import RedisRegistry
from herenow.registry.tenants import Tenants
from herenow.settings import DISPATCH_BUDGET_S, Settings, sqlite_path
from herenow.steady import Steady
from herenow.store.base import Store
from herenow.store.nodes import Node
from herenow.supervision import WELL_S, OnFault, Supervisor, end
from herenow.times import unix_ms, unix_us
from herenow.version import VERSION

log = get_logger("herenow.cluster")

LEAVE_S = 1.0
"""How long a stop waits for Redis to take that the users of this node linger."""

RETIRE_S = 0.5
"""And that it is no member any more. The whole must end within 5 s."""


class Peer(msgspec.Struct, frozen=True):
    """A node as another one sees it.

    Attributes:
        node: its id.
        member: what it says of itself.
        users: how many it serves.
        last_beat_ms: when it was last seen to live.
        is_alive: whether it is not taken for dead.
        is_leader: whether it keeps the store.
    """

    node: str
    member: Member
    users: int
    last_beat_ms: int
    is_alive: bool
    is_leader: bool


class ClusterKeeper:
    """One start of a server of a cluster.

    Args:
        store: not open yet.
        settings: with ``cluster``.
        supervisor: keeps the tasks alive.
        missed: called when the log of a tenant was cut before it was read.
        away: told when Redis does not answer any more, and when it does again.

    Attributes:
        node: this server, as its row in the store would say.
        lost: nobody takes a store from a cluster: ``None``.
        memberships: this process in each shard, once it is claimed.
    """

    lost: StoreInUse | None = None
    memberships: Sequence[Membership] = ()
    node: Node

    def __init__(
        self,
        store: Store,
        settings: Settings,
        supervisor: Supervisor,
        missed: Callable[[str | None], None],
        away: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._restart_grace_ms = round((settings.restart_grace_s - DISPATCH_BUDGET_S) * 1000)
        self._supervisor = supervisor
        self._missed = missed
        self._away = away
        self._first = Keeper(store, settings, supervisor, lambda error: None)  # opens the store, and nothing else
        self._address = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._own_audit: Audit | None = None
        self._renews: tuple[int, int] | None = None
        self._is_renewed = False
        self._is_away = False
        self._known: dict[int, list[str]] = {}  # the tenants of each shard

    # -- coming ------------------------------------------------------------------------------------------------------

    async def prepare(self, *, adopt_only: bool) -> None:
        """Open the store, and make what it lacks; as :meth:`Keeper.prepare`."""
        await self._first.prepare(adopt_only=adopt_only)

    async def claim(self, address: str, *, renews: tuple[int, int] | None = None) -> None:
        """Join the cluster.

        Args:
            address: where this server's HTTP is, for the others and the commands.
            renews: of the same server, renewed in place: the stamp of its life that goes on, and when it served last.

        Raises:
            SettingsInvalid: its settings do not fit to those of the others.
            RegistryUnavailable: Redis cannot be reached.
        """
        settings = self._settings
        self._address, self._renews = address, renews
        name = settings.node_name or f"node-{secrets.token_hex(3)}"
        self.node = Node.here(
            name=name,
            epoch=unix_us(),
            address=address,
            now_ms=unix_ms(),
            lease_ms=round(settings.node_lease_s * 1000),
        )
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
        self.memberships = [
            Membership(number, settings, member, self.registry_of, self._supervisor.failed)
            for number in range(settings.shards)
        ]
        self._elsewhere = Elsewhere(self.memberships)
        for membership in self.memberships:
            membership.here.on_away(self._see_who_is_away)
        joined = await asyncio.gather(*(each.here.join() for each in self.memberships), return_exceptions=True)
        for error in joined:
            if error is not None:
                raise error
        await self._see_that_all_reach_the_store()

    @property
    def here(self) -> ClusterNode:
        """This process among the nodes of the first shard, whose leader keeps the store."""
        return self.memberships[0].here

    @property
    def away_since_s(self) -> float | None:
        """Since when a shard has not answered, by the steady clock; ``None``: all do."""
        since = [each.here.away_since_s for each in self.memberships]
        return min((each for each in since if each is not None), default=None)

    def _see_who_is_away(self, is_away: bool) -> None:
        if (is_away := self.away_since_s is not None) != self._is_away:
            self._is_away = is_away
            self._away(is_away)

    async def _see_that_all_reach_the_store(self) -> None:
        """A file is on one machine: whichever node leads must be able to write it."""
        path = sqlite_path(self._settings.database)
        if path is None:
            return
        for other in (await self.here.members.all()).values():
            if other.host != self.node.host:
                await self._retire()
                raise SettingsInvalid(
                    f"the database is the file {path} on this machine, and the node {other.name} is on {other.host}: "
                    "nodes on several machines need a MongoDB"
                )

    async def adopt(self, make: Callable[[int], Tenants]) -> Tenants:
        """Make the registries, and wait until the users whom the store has are in the cluster.

        Raises:
            StoreError: they cannot be read.
        """
        tenants = self._tenants = make(self._now_us())
        self._terms = Terms(
            self._store,
            self._settings,
            self._supervisor,
            self.memberships,
            tenants,
            self.registry_of,
            self._address,
            self._renews,
        )
        for membership in self.memberships:
            self._tasks += membership.run(self._supervisor, partial(self._told, membership))
            membership.here.on_return(self._say_again)
        self._tasks.append(self._supervisor.start("term", self._terms.run))
        for membership in self.memberships:
            await membership.here.beat()
        await self._terms.is_filled.wait()
        if self._terms.fault is not None:
            raise self._terms.fault
        log.info("joined", node=self.here.node, nodes=len(self.here.standing.beats) if self.here.standing else 1)
        return tenants

    def make_tenants(self, deliver: Deliver, on_fault: OnFault, _: Steady, last_version: int) -> ClusterTenants:
        """Make the registries of all tenants; as :meth:`Keeper.make_tenants`."""

        def make(tenant: str | None, last_version: int) -> RedisRegistry:
            membership = of_tenant(self.memberships, tenant)
            registry = RedisRegistry(
                membership.shard,
                membership.tail,
                **policy_of(self._settings),
                return_grace_ms=self._restart_grace_ms,
                tenant=tenant,
                last_version=last_version,
                log_capacity=log_capacity(tenant),
                clock=membership.clock,
                on_fault=on_fault,
                place=membership.here,
                missed=partial(self._missed, tenant),
            )
            registry.subscribe(lambda batch: deliver(batch, tenant))
            return registry

        return ClusterTenants(make, last_version=last_version, now_us=self._now_us)

    def _now_us(self) -> int:
        return self.memberships[0].clock.now().unix_us

    def registry_of(self, tenant: str | None) -> RedisRegistry:
        """The registry of a tenant."""
        registry = self._tenants.registry(tenant)
        assert isinstance(registry, RedisRegistry)
        return registry

    def begin(self, truth: Truth, then: Callable[[], Awaitable[None]]) -> None:
        """Begin to write and to audit, whenever this node leads."""
        every_s = self._settings.audit_every_s
        self._own_audit = Audit(self._store, truth, self._elsewhere, every_s=every_s)
        self._terms.begin(truth, then)
        self._tasks.append(self._supervisor.start("look", partial(self._look, then), well_s=WELL_S + 2 * every_s))

    async def stop_auditing(self) -> None:
        """As :meth:`Keeper.stop_auditing`."""
        await self._terms.stop_auditing()

    async def _look(self, then: Callable[[], Awaitable[None]]) -> None:
        """Do on every node what there is to look at after an audit: it is about this node's own connections."""
        while True:
            await asyncio.sleep(self._settings.audit_every_s)
            if self._terms.keeper is None:
                with contextlib.suppress(StoreError, RegistryUnavailable):  # at the next look
                    await then()

    async def _told(self, membership: Membership, standing: Standing) -> None:
        if standing.beats.get(membership.here.node, 0) % 5 == 1 and isinstance(self._tenants, ClusterTenants):
            with contextlib.suppress(RegistryUnavailable):
                self._known[membership.number] = await membership.shard.tenants()
            known = sorted(name for names in self._known.values() for name in names if name)
            self._tenants.known = (None, *known)
        self._say_again()  # which may have failed: and nothing else would be asked of a registry whose users are quiet

    def _say_again(self) -> None:
        for tenant in Tenants.names(self._tenants):
            registry = Tenants.find(self._tenants, tenant)  # without asking for it: it may be swept
            if isinstance(registry, RedisRegistry) and registry.is_behind:
                registry.say_again().add_done_callback(self._note)

    def _note(self, said: "asyncio.Future[None]") -> None:
        error = None if said.cancelled() else said.exception()
        if isinstance(error, Exception) and not isinstance(error, RegistryUnavailable):
            self._supervisor.failed("saying again", error)  # with the next thing that is asked of it, it is done

    async def peers(self) -> list[Peer]:
        """Tell of all nodes, by name.

        Raises:
            RegistryUnavailable: Redis cannot be reached.
        """
        standing, members = self.here.standing, await self.here.members.all()
        served = Counter[str]()  # by process: in each shard a node has another id
        for membership in self.memberships:
            of_shard, shard = await membership.here.members.all(), membership.shard
            for node, users in (await shard.served_by(list(of_shard), await shard.tenants())).items():
                served[of_shard[node].process] += users
        now_ms = self.memberships[0].clock.now().unix_ms
        return [
            Peer(
                node=node,
                member=member,
                users=served[member.process],
                last_beat_ms=now_ms - round(self.here.watch.still_s(node) * 1000),
                is_alive=node not in self.here.dead,
                is_leader=standing is not None and standing.leader == node,
            )
            for node, member in sorted(members.items(), key=lambda each: each[1].name)
        ]

    # -- the store -----------------------------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether it is this process that keeps the store."""
        return self.memberships[0].leadership.is_leader

    @property
    def writer(self) -> Writer | Elsewhere:
        """The writer, where this node leads; else what is known of the one elsewhere."""
        return self._elsewhere if self._terms.keeper is None else self._terms.keeper.writer

    @property
    def audit(self) -> Audit:
        """The audit that is run, or one that can be."""
        found = getattr(self._terms.keeper, "audit", None) or self._own_audit
        assert found is not None
        return found

    @property
    def objections(self) -> Sequence[str]:
        """The rules of the database that refuse what is written, where this node writes."""
        return () if self._terms.keeper is None else self._terms.keeper.objections

    # -- leaving -------------------------------------------------------------------------------------------------------

    @property
    def has_others(self) -> bool:
        """Whether other nodes can take the users of this one."""
        standing = self.here.standing
        return self.away_since_s is None and standing is not None and len(standing.beats) > 1

    def hand_on(self, tenant: str | None, user_ids: Sequence[str]) -> asyncio.Future[None]:
        """Let the connections of some users end, before all that is asked of the registry from now on.

        They linger, and come back to another node.
        """
        return self.registry_of(tenant).hand_on(user_ids, grace_ms=self._restart_grace_ms)

    async def leave(self, tenants: Tenants, on_fault: OnFault, *, to_renew: bool) -> None:
        """Hand the users of this node on: they linger, and who comes back to another node in time was never gone.

        With ``to_renew`` this server goes on at once, as a node or alone: the store is not to say that all are offline.
        """
        self._is_renewed = to_renew
        try:
            async with asyncio.timeout(LEAVE_S):
                for tenant in Tenants.names(tenants):
                    now_ms = of_tenant(self.memberships, tenant).clock.now().unix_ms
                    try:
                        await tenants.registry(tenant).node_lost(
                            self.here.name, last_beat_ms=now_ms, grace_ms=self._restart_grace_ms, cause=Cause.RESTART
                        )
                    except RegistryUnavailable:
                        raise
                    except Exception as error:  # the others are handed on all the same
                        on_fault("leave", error)
        except (RegistryUnavailable, TimeoutError) as error:
            log.error("Redis did not take that this node leaves: the others give it up", error=str(error))

    async def drain(self, within_s: float) -> int:
        """See that the store has all that this node was to write; the last one tells it that nobody is online.

        Returns:
            Of how many users it does not know.
        """
        left = await self._retire()
        keeper = self._terms.keeper
        if left != 0 or self._is_renewed:
            return 0 if keeper is None else await keeper.drain(within_s)
        try:
            async with asyncio.timeout(within_s):
                await self._terms.close_store(await self._stamp())
                log.info("nobody serves any more: the store was told that nobody is online")
                return 0
        except (StoreError, RegistryUnavailable, TimeoutError) as error:
            log.error("the store was not told that nobody is online: the next start tells it", error=str(error))
            return 1

    async def _stamp(self) -> int:
        """Give out a version above all that any shard has given."""
        stamps = (each.shard.stamp("", now_us=each.clock.now().unix_us, seen=0) for each in self.memberships)
        return max(await asyncio.gather(*stamps))

    async def _retire(self) -> int:
        """Be no member any more; returns how many are left, or -1: that is not known."""
        left = await asyncio.gather(*map(_retire, self.memberships))
        return -1 if -1 in left else left[0]

    async def end(self, *, release: bool) -> None:
        """Stop, and let go of the store and of Redis. Idempotent."""
        await end(self._tasks)
        for membership in self.memberships:
            if membership.here.registrations and not membership.here.has_left:  # a start that failed
                await _retire(membership)
            await membership.close()
        await self._store.close()


async def _retire(membership: Membership) -> int:
    try:
        async with asyncio.timeout(RETIRE_S):
            await membership.leadership.resign()
            return await membership.here.retire()
    except (RegistryUnavailable, TimeoutError):
        return -1
