"""Keeps the store: owns it, adopts whom it has, writes, audits, and says that it lives, until another one does.

In this order: :meth:`Keeper.prepare`, :meth:`~Keeper.claim`, :meth:`~Keeper.adopt`, :meth:`~Keeper.begin`; at the end
:meth:`~Keeper.drain` and :meth:`~Keeper.end`. Whatever fails on the way, :meth:`~Keeper.end` lets go of all.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from herenow.errors import StoreError, StoreInUse
from herenow.keeper.adoption import adopt, read_ahead
from herenow.keeper.audit import Audit
from herenow.keeper.policy import log_capacity, policy_of
from herenow.keeper.truth import Truth
from herenow.keeper.writer import Writer
from herenow.logs import get_logger
from herenow.registry.base import Batch, Registry
from herenow.registry.clock import LoopClock
from herenow.registry.local import LocalRegistry
from herenow.registry.tenants import Tenants
from herenow.settings import Settings
from herenow.sparing import Sparing
from herenow.steady import Steady
from herenow.store.base import Store
from herenow.store.liveness import is_served
from herenow.store.nodes import Node
from herenow.store.objections import Objections
from herenow.supervision import WELL_S, OnFault, Supervisor, end
from herenow.tenancy import keyed
from herenow.times import steady_s, unix_ms, unix_us

log = get_logger("herenow.presence")

Deliver = Callable[[Batch, str | None], None]
"""Told a batch, and of which tenant."""

WINDOW_S = 0.05
"""How long the writer gathers rows before it writes them."""

PAGES_AHEAD = 100
"""Pages of users online that are read while the database looks for its newest version, which takes it a while."""


class Keeper:
    """What only one process does at a time, for one start of a server.

    Args:
        store: not open yet.
        settings: for the times.
        supervisor: keeps the tasks alive.
        on_lost: called once if another server takes the store over. Not one more row is written from then on.

    Attributes:
        writer: takes rows from the beginning; writes them once it has begun.
        node: this server, as its row in the store says; once it is claimed.
        audit: once it has begun.
        lost: who has taken the store over.
        leads: whether it is this process that keeps the store.
    """

    node: Node
    audit: Audit
    leads = True

    def __init__(
        self, store: Store, settings: Settings, supervisor: Supervisor, on_lost: Callable[[StoreInUse], None]
    ) -> None:
        self.writer = Writer(store, window_s=WINDOW_S, clock=steady_s)  # by which a feed tells what is written
        self._objections = Objections(store, every_s=settings.audit_every_s)
        self.lost: StoreInUse | None = None
        self._store = store
        self._settings = settings
        self._supervisor = supervisor
        self._on_lost = on_lost
        self._tasks: list[asyncio.Task[None]] = []
        self._auditing: list[asyncio.Task[None]] = []
        self._sparing = Sparing()
        self._dead: Sequence[Node] = ()  # whom it follows, who left their rows behind
        self._began_s = 0.0
        self._is_of_cluster = False

    @property
    def objections(self) -> Sequence[str]:
        """The rules of the database that refuse what is written, a sentence each, with the change to make."""
        return self._objections.found

    async def prepare(self, *, adopt_only: bool) -> None:
        """Open the store, and make what it lacks.

        Args:
            adopt_only: make nothing where the users' table or collection is not there.

        Raises:
            StoreError: it cannot be used.
        """
        await self._store.open()
        if not self._store.prepared:
            values = not await is_served(self._store.roll)  # a server that lives knows better who is online
            for step in (await self._store.init(adopt_only=adopt_only, values=values)).steps:
                log.info("store prepared", step=step)

    async def claim(self, address: str, *, renews: tuple[int, int] | None = None, cluster: str | None = None) -> None:
        """Own the store from now on, and say again and again that it is so.

        Args:
            address: where this server's HTTP is, for the commands to find it.
            renews: of the same server, renewed in place: the stamp of its life that goes on, and when it served last.
            cluster: the name of all who keep the store one after the other. Whoever of them comes next takes it over at
                once: that the one before has lost it, the cluster has decided.

        Raises:
            StoreInUse: another live server owns it; the sentence names it.
            StoreError: it cannot be used.
        """
        settings = self._settings
        self.node = Node.here(
            name=settings.node if cluster is None else cluster,
            epoch=unix_us() if renews is None else renews[0],
            address=address,
            now_ms=unix_ms(),
            lease_ms=round(settings.node_lease_s * 1000),
        )
        self._is_of_cluster = cluster is not None
        epoch = None if renews is None else renews[0]

        def succeeds(other: Node) -> bool:
            return other.name == cluster or other.epoch == epoch

        self._dead = await self._store.claim_node(self.node, succeeds=None if cluster is None else succeeds)
        if renews is not None:
            self._dead = (msgspec.structs.replace(self.node, beat_ms=renews[1]),)
        self._began_s = steady_s()  # after the claim, which may have had to wait
        # From here on, and not only once all is read, which may take longer than a lease.
        self._tasks.append(self._supervisor.start("beat", self._beat, well_s=WELL_S + 2 * settings.node_beat_s))
        await self._objections.look()

    def make_tenants(self, deliver: Deliver, on_fault: OnFault, steady: Steady, last_version: int) -> Tenants:
        """Make the registries of all tenants, in this process.

        Args:
            deliver: told each batch of each tenant.
            on_fault: told of what fails, and goes on.
            steady: by which users have their grace.
            last_version: the highest version in the store.
        """

        def make(tenant: str | None, last_version: int) -> Registry:
            registry = LocalRegistry(
                **policy_of(self._settings),
                last_version=last_version,
                log_capacity=log_capacity(tenant),
                clock=LoopClock(steady),
                on_fault=on_fault,
            )

            def hear(batch: Batch) -> None:
                if self.lost is None:  # else it is not true any more, such as a grace that ends
                    self.writer.submit(keyed(tenant, batch.rows))
                    deliver(batch, tenant)

            registry.subscribe(hear)
            return registry

        return Tenants(make, last_version=last_version, now_us=unix_us)

    async def adopt(
        self,
        make: Callable[[int], Tenants],
        is_wanted: Callable[[str | None], bool] = lambda tenant: True,
        *,
        lost_ms: int | None = None,
    ) -> Tenants:
        """Make the registries, and have whomever a dead server left online linger in them.

        Args:
            make: makes them, given the highest version in the store.
            is_wanted: says of which tenants.
            lost_ms: when the registries lost all that they knew, under a keeper that had begun long before: all have
                the whole grace from now on, and were there until then. ``None``: it is the keeper that begins.

        Raises:
            StoreInUse: another server took the store over meanwhile.
            StoreError: it cannot be read.
        """
        store = self._store
        async with (
            read_ahead(store.online, pages=PAGES_AHEAD) as online,
            read_ahead(store.claimed, pages=1) as claimed,
        ):
            tenants = make(await store.max_version())
            if lost_ms is None:
                began_s, last_beat_ms = self._began_s, self._dead[0].beat_ms if self._dead else 0
            else:
                began_s, last_beat_ms = steady_s(), lost_ms
            adopted = await adopt(
                tenants,
                online,
                claimed,
                settings=self._settings,
                last_beat_ms=last_beat_ms,
                began_s=began_s,
                is_wanted=is_wanted,
            )
        if self.lost is not None:
            raise self.lost
        log.info("started", store=store.name, node=self.node.name, dead_nodes=len(self._dead), adopted=adopted)
        return tenants

    def begin(self, truth: Truth, then: Callable[[], Awaitable[None]]) -> None:
        """Begin to write and to audit.

        Args:
            truth: what the registries say.
            then: what else there is to look at, after each audit.
        """
        every_s = self._settings.audit_every_s
        self.audit = Audit(self._store, truth, self.writer, every_s=every_s, then=then, clock=steady_s)
        keep, well_s = self._supervisor.start, WELL_S + 2 * every_s
        self._tasks += [
            keep("writer", self.writer.run),
            keep("objections", self._objections.run, well_s=well_s),
        ]
        self._auditing = [keep("audit", self.audit.run, well_s=well_s)]

    async def stop_auditing(self) -> None:
        """Compare nothing any more: the registries are about to close."""
        await end(self._auditing)

    async def leave(self, tenants: Tenants, on_fault: OnFault, *, to_renew: bool) -> None:
        """Take everyone offline: nobody serves them any more; but for who goes on at once, ``to_renew``."""
        for tenant in tenants.names() if self.lost is None and not to_renew else ():
            try:
                await tenants.registry(tenant).leave(self.node.name)
            except Exception as error:  # the others are to be offline all the same
                on_fault("leave", error)

    async def drain(self, within_s: float) -> int:
        """Wait until all rows are written; return how many are not, after so many seconds.

        After a loss there is nothing to wait for: the rows are another server's to decide.
        """
        return await self.writer.drain(within_s) if self.lost is None else 0

    async def end(self, *, release: bool, close: bool = True) -> None:
        """Stop, and let go of the store. Idempotent.

        Args:
            release: nobody is online by us any more. Else our row stays: it tells the next start until when the users
                may have been here.
            close: close the store too: nobody else here reads it.
        """
        await end([*self._auditing, *self._tasks])
        if release:
            with contextlib.suppress(StoreError):  # without the row's end, the next start waits for its lease at most
                await self._store.release_node(self.node)
        if close:
            await self._store.close()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._settings.node_beat_s)
            try:
                await self._store.beat(self.node)
            except StoreInUse as error:
                self._lose(error)
                return
            except StoreError as error:
                self._sparing.say(log.warning, "beat failed", of=str(error), error=str(error))

    def _lose(self, error: StoreInUse) -> None:
        self.lost = error
        if self._is_of_cluster:
            log.info("another node keeps the store from now on")
        else:
            log.critical("another server took the store over", error=str(error))
        for task in (*self._auditing, *self._tasks):  # not one more row: what we still hold would put its users offline
            if task is not asyncio.current_task():
                task.cancel()
        self._on_lost(error)
