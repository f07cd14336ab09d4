"""The terms of a node: as long as it leads, it keeps the store.

It takes the store over from the one before, at once, since the cluster has decided so; lets the users in whom the store
has and Redis does not; and writes what the log says, from where the one before had come to.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from herenow.cluster.feed import Feed
from herenow.cluster.membership import Membership, of_tenant
from herenow.errors import RegistryUnavailable, StoreError, StoreInUse
from herenow.keeper.keeper import Keeper
from herenow.keeper.truth import Truth
from herenow.logs import get_logger
from herenow.model import Availability, Cause, StoredUser
from herenow.registry.redis.registry import RedisRegistry
from herenow.registry.redis.tail import position_of
from herenow.registry.tenants import Tenants
from herenow.settings import Settings
from herenow.store.base import PAGE_SIZE, Store
from herenow.supervision import Supervisor, end

log = get_logger("herenow.cluster")

AGAIN_S = 1.0
"""After a term that could not begin, such as that the store is away."""

HELD_S = 0.1
"""The same, where who led before has not let go of the store yet: it does so with its next beat."""

DRAIN_S = 1.0
"""How long the end of a term waits for the store to take what is known."""


class Terms:
    """Begins and ends the terms of this node.

    Args:
        store: opened by somebody else, who closes it.
        settings: for the times.
        supervisor: keeps the tasks alive.
        memberships: this process in each shard; who leads the first keeps the store, for all of them.
        tenants: the registries.
        registry_of: that of a tenant.
        address: where this server's HTTP is, for the commands to find it.
        renews: as :meth:`Keeper.claim` has it, for the first term.

    Attributes:
        keeper: that of the term; ``None`` between two.
        is_filled: set once the users whom the store has are in the cluster, or it was found that they cannot be.
        fault: why they cannot be, as the first term found it.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        supervisor: Supervisor,
        memberships: Sequence[Membership],
        tenants: Tenants,
        registry_of: Callable[[str | None], RedisRegistry],
        address: str,
        renews: tuple[int, int] | None,
    ) -> None:
        self.keeper: Keeper | None = None
        self.is_filled = asyncio.Event()
        self.fault: StoreError | None = None
        self._store = store
        self._settings = settings
        self._supervisor = supervisor
        self._memberships = memberships
        self._leadership = memberships[0].leadership
        self._tenants = tenants
        self._registry_of = registry_of
        self._address = address
        self._renews = renews
        self._begun: tuple[Truth, Callable[[], Awaitable[None]]] | None = None
        self._is_cut = False
        self._noted: type[StoreError] | None = None
        self._audits: set[asyncio.Task[None]] = set()

    def begin(self, truth: Truth, then: Callable[[], Awaitable[None]]) -> None:
        """Write and audit from now on, in each term; as :meth:`Keeper.begin`."""
        self._begun = truth, then
        if self.keeper is not None:
            self.keeper.begin(truth, then)

    async def run(self) -> None:
        """Keep the store whenever this node leads, until cancelled."""
        while True:
            self._leadership.changed.clear()
            if all(each.is_filled for each in self._memberships):
                self.is_filled.set()
            if self._leadership.is_leader:
                await self._run_term()
            await self._wait(HELD_S if self._leadership.is_leader else self._settings.node_beat_s / 2)

    async def _wait(self, seconds: float) -> None:
        """Wait for a change of the leadership, but no longer than so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._leadership.changed.wait()
        except TimeoutError:
            return

    async def _run_term(self) -> None:
        keeper = Keeper(self._store, self._settings, self._supervisor, lambda error: self._leadership.changed.set())
        feeds: list[Feed] = []
        owns, self._is_cut = False, False
        try:
            await self.own_store(keeper)
            owns = True
            for membership in self._memberships:
                feeds.append(await self._open_feed(keeper, membership))  # noqa: PERF401 - closed if a later one fails
            for membership in self._memberships:
                await self._fill(keeper, membership)
            self.keeper, self._noted = keeper, None
            self.is_filled.set()
            if self._begun is not None:
                keeper.begin(*self._begun)
            if self._is_cut:
                self._audit_soon()
            await self._keep(keeper, feeds)
        except StoreInUse as error:
            self._note_fault(error)
        except StoreError as error:
            self._note_fault(error)
            await asyncio.sleep(AGAIN_S)
        except RegistryUnavailable:
            await asyncio.sleep(AGAIN_S)
        finally:
            if self.keeper is not None:
                await keeper.drain(DRAIN_S)  # what it holds may be in no log any more
            self.keeper = None
            await end(tuple(self._audits))
            for feed in feeds:
                await feed.close()
            await keeper.end(release=owns and keeper.lost is None, close=False)

    async def own_store(self, keeper: Keeper) -> None:
        """Own the store in the name of the cluster.

        Raises:
            StoreError: as :meth:`Keeper.claim`.
        """
        renews, self._renews = self._renews, None
        await keeper.claim(self._address, renews=renews, cluster=f"cluster {self._memberships[0].here.cluster}")

    def _note_fault(self, error: StoreError) -> None:
        """A store that cannot be used keeps a first node from starting; a later one tries again."""
        if not self.is_filled.is_set():
            self.fault = error
            self.is_filled.set()
        elif self._noted is not type(error):
            self._noted = type(error)
            log.error("this node leads, and cannot keep the store", error=str(error))

    async def _open_feed(self, keeper: Keeper, membership: Membership) -> Feed:
        shard, here = membership.shard, membership.here
        cursor = await shard.cursor()
        start = cursor or "0-0"
        first = await shard.trying(lambda: shard.redis.xrange(shard.keys.log, count=1))
        if cursor and (not first or position_of(first[0][0]) > position_of(start)):
            self._is_cut = True
        feed = Feed(
            self._settings.cluster_url,
            shard,
            here.tail,
            here.members,
            keeper.writer,
            start=start,
            missed=self._audit_soon,
            on_fault=self._supervisor.failed,
        )
        if not cursor:
            await here.members.replace(shard.keys.cursor, "", start)
        return feed

    async def _fill(self, keeper: Keeper, membership: Membership) -> bool:
        """Let in whom the store has and a shard does not; tell the store whom it was told to be offline.

        They have their grace from now on, however old the term is.

        Returns:
            Whether that was to be done.
        """
        shard = membership.shard
        filled = await shard.filled()
        if filled == "yes":
            return False
        if filled == "":
            lost_ms = None
            if self.keeper is not None:  # it has lost them meanwhile: whoever has gone must not be let in again
                await keeper.drain(DRAIN_S)
                standing = membership.here.standing
                lost_ms = None if standing is None else standing.time_us // 1000
            await keeper.adopt(
                lambda _: self._tenants,
                lambda tenant: of_tenant(self._memberships, tenant) is membership,
                lost_ms=lost_ms,
            )
        else:
            await self._say_rows(membership)
        await membership.here.members.replace(shard.keys.filled, filled, "yes")
        return True

    async def _say_rows(self, membership: Membership) -> None:
        """Have the log say of all who are online what the store is to know."""
        for name in await membership.shard.tenants():
            registry, cursor = self._registry_of(name or None), None
            while True:
                page = await registry.online(PAGE_SIZE, cursor)
                await registry.repair([_offline(user.user_id) for user in page.users], cause=Cause.RESTART)
                if (cursor := page.cursor) is None:
                    break

    async def _keep(self, keeper: Keeper, feeds: Sequence[Feed]) -> None:
        following = [self._supervisor.start("feed", feed.run) for feed in feeds]
        generations = [each.here.generation for each in self._memberships]
        try:
            while self._leadership.is_leader and keeper.lost is None:
                for number, membership in enumerate(self._memberships):
                    here = membership.here
                    if is_another := generations[number] != here.generation:
                        generations[number] = here.generation
                        await feeds[number].go_back(here.agreed)
                    is_empty = here.standing is not None and not here.standing.filled
                    has_filled = is_empty and await self._fill(keeper, membership)  # Redis has lost all
                    if is_another or has_filled:  # not before: whom it does not have yet would be taken for ghosts
                        self._audit_soon()
                await self._wait(self._settings.node_beat_s / 4)
                self._leadership.changed.clear()
        finally:
            await end(following)

    def _audit_soon(self) -> None:
        """Compare the store with the registry soon, twice: what is seen once may be under way."""
        keeper = self.keeper
        if keeper is not None and self._begun is not None:
            log.warning("what the store was told may not be all: it is compared")
            task = asyncio.create_task(self._audit_twice(keeper), name="herenow audit after a cut")
            self._audits.add(task)
            task.add_done_callback(self._audits.discard)

    async def _audit_twice(self, keeper: Keeper) -> None:
        # By the next beat it is known whether Redis has lost all; before, whoever is online would be taken for a ghost.
        await asyncio.sleep(1.5 * self._settings.node_beat_s)
        for _ in range(2):
            standings = [each.here.standing for each in self._memberships]
            if any(standing is None or standing.filled != "yes" for standing in standings):
                return  # once it is filled, again
            try:
                await keeper.audit.round()
            except (StoreError, RegistryUnavailable) as error:
                log.warning("audit failed", error=str(error))

    async def stop_auditing(self) -> None:
        """As :meth:`Keeper.stop_auditing`."""
        await end(tuple(self._audits))
        if self.keeper is not None:
            await self.keeper.stop_auditing()

    async def close_store(self, version: int) -> None:
        """Nobody serves any more: tell the store that nobody is online.

        Raises:
            StoreError: it was not told.
        """
        if self.keeper is not None:
            await self.keeper.drain(1.0)
            await self._store.reset(version=version)
            return
        keeper = Keeper(self._store, self._settings, self._supervisor, lambda error: None)
        owns = False
        try:
            await self.own_store(keeper)
            owns = True
            await self._store.reset(version=version)
        finally:
            await keeper.end(release=owns, close=False)


def _offline(user_id: str) -> StoredUser:
    """A row that is wrong for whoever is online."""
    return StoredUser(user_id, False, Availability.OFFLINE, None, None, 0)
