"""Puts the parts together: the registry that decides, the store that follows, and the calls that all others make.

What starts with it is the keeper's: the claim of the store (a second server is refused), the users whom a dead process
left online (they linger, and who comes back in time never flickers), the writer, the audit and the beat. When it stops,
everyone is written offline.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from herenow.errors import (
    AlreadyStarted,
    NotStarted,
    Replaced,
    SettingsInvalid,
    StoreError,
    StoreInUse,
    TenantsNotKept,
)
from herenow.hooks import Hooks, Subscriber
from herenow.keeper.audit import Audit
from herenow.keeper.keeper import Keeper
from herenow.keeper.truth import Truth
from herenow.keeper.writer import Writer
from herenow.lines import Lines
from herenow.logs import get_logger
from herenow.metering import Meters
from herenow.model import Cause, Change, Connection, StoredUser, UserPresence
from herenow.registry.base import Batch, Explanation, Registry, RegistryStats, Snapshot
from herenow.registry.state import presence_in
from herenow.registry.tenants import SWEEP_EVERY_S, Tenants
from herenow.settings import Settings
from herenow.sparing import EVERY_S, Sparing, alike
from herenow.steady import Steady
from herenow.store.base import PAGE_SIZE
from herenow.store.members import Members
from herenow.store.nodes import Node
from herenow.store.opening import open_store
from herenow.store.rows import as_offline
from herenow.supervision import WELL_S, Supervisor, end
from herenow.tenancy import is_tenant, key_of, split

if TYPE_CHECKING:
    from herenow.cluster.elsewhere import Elsewhere
    from herenow.cluster.keeper import ClusterKeeper
    from herenow.gateway.access.sight import CanWatch

    AnyKeeper = Keeper | ClusterKeeper

log = get_logger("herenow.presence")

T = TypeVar("T")

STORE_READ_TIMEOUT_S = 1.0
"""How long a read waits for the store. Then a user who is not here is given as offline, last active unknown."""

STOP_TIMEOUT_S = 2.5
"""How long a stop waits for the store to take the last rows. The whole must end within 5 s: a server waits for its
requests before, and for a database that hangs another second to let go of it."""

HOOKS_END_S = 2.0
"""How long a stop waits for ``on_change`` handlers to hear what they have not heard yet; beside the store."""


class Service:
    """Presence as all parts of a server use it; :class:`~herenow.presence.Presence` says what its arguments are.

    Raises:
        SettingsInvalid: a setting is wrong, or two do not fit together.
    """

    def __init__(
        self,
        database: str | None = None,
        *,
        authenticate: Callable[..., Any] | None = None,
        can_watch: "CanWatch | None" = None,
        **settings: Any,
    ) -> None:
        self.settings = Settings.load(database=database, **settings)
        self.authenticate = authenticate
        self.can_watch = can_watch
        self.store = open_store(self.settings)
        self.meters = Meters()
        self._members = Members(self.store.missing) if self.settings.unknown_users == "refuse" else None
        self.steady = Steady()
        """By which clients and users are waited for, by all parts of this server."""
        self.supervisor = Supervisor(lambda name: self.meters.task_failures.labels(name).inc())
        self._keeper: AnyKeeper | None = None
        self._registry: Registry | None = None  # that of no tenant; the others are made when they are asked for
        self._tenants: Tenants | None = None
        self._open: Tenants | None = None  # the same, until they are closed
        self._truth: Truth | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._after_audit: list[Callable[[], Awaitable[None]]] = []
        self._hooks = Hooks(self.meters.hook_drops.inc)
        self._sparing = Sparing()
        self.lines = Lines()
        self._missed: list[Callable[[str | None], None]] = []
        self._told_away: list[Callable[[bool], None]] = []
        self._on_lost: Callable[[StoreError], None] | None = None
        self._lost: StoreInUse | None = None
        self._starting = False

    # -- the parts ---------------------------------------------------------------------------------------------------

    @property
    def registry(self) -> Registry:
        """The registry of no tenant.

        Raises:
            NotStarted: before ``start`` and after ``stop``.
        """
        return self._started(self._registry)

    def registry_of(self, tenant: str | None) -> Registry:
        """The registry of a tenant, to be asked at once: it may be gone later, with the last of its users.

        Raises:
            NotStarted: as above.
            TenantsNotKept: the store could not keep its users apart from those of others.
            ValueError: no tenant can be called so.
        """
        if tenant is not None:
            self.check_tenant(tenant)
        return self.registry if tenant is None else self.tenants.registry(tenant)

    def check_tenant(self, tenant: str) -> None:
        """Make sure that this server can have users of a tenant; raises as above."""
        if not is_tenant(tenant):
            raise ValueError("a tenant is called by 1 to 64 letters, digits, dots, underscores and dashes")
        if not self.store.keeps_tenants:
            raise TenantsNotKept

    @property
    def tenants(self) -> Tenants:
        """The registries of all tenants; raises ``NotStarted`` as above."""
        return self._started(self._tenants)

    @property
    def truth(self) -> Truth:
        """What they say, over all tenants; raises ``NotStarted`` as above."""
        return self._started(self._truth)

    @property
    def writer(self) -> "Writer | Elsewhere":
        """The writer, or what is known of the one of another node; raises ``NotStarted`` as above."""
        return self._kept().writer

    @property
    def audit(self) -> Audit:
        """The audit; raises ``NotStarted`` as above."""
        if self._lost is not None:
            raise Replaced
        return self._kept().audit

    @property
    def objections(self) -> Sequence[str]:
        """The rules of the database that refuse what is written; raises ``NotStarted`` as above."""
        return self._kept().objections

    @property
    def node(self) -> Node:
        """This server, as its row in the store says; raises ``NotStarted`` as above."""
        return self._kept().node

    @property
    def cluster(self) -> "ClusterKeeper | None":
        """This server among the nodes of its cluster; ``None``: it is alone. Raises ``NotStarted`` as above."""
        keeper = self._kept()
        return None if isinstance(keeper, Keeper) else keeper

    def _kept(self) -> "AnyKeeper":
        if self._keeper is None:
            raise NotStarted if self._lost is None else Replaced
        return self._keeper

    def _started(self, part: T | None) -> T:
        if part is None:
            raise NotStarted if self._lost is None else Replaced
        return part

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(
        self,
        address: str = "",
        *,
        on_lost: Callable[[StoreError], None] | None = None,
        renews: tuple[int, int] | None = None,
    ) -> None:
        """Take the store over and begin to serve.

        Args:
            address: where this server's HTTP is, for the commands to find it.
            renews: of the same server, renewed in place: the stamp of its life that goes on, and when it served last.
            on_lost: called if another server takes the store over. From then on this one writes nothing and tells
                nothing: whatever is asked of it raises :class:`~herenow.errors.Replaced`. Stop it.

        Raises:
            SettingsInvalid: unknown users are to be refused, and the database creates every user.
            AlreadyStarted: it was not stopped since the last start.
            StoreInUse: another live server owns it; the sentence names it.
            StoreNotReady: it has no users, and does not create any: its name is wrong, or ``init`` was forgotten.
            StoreError: it cannot be used.
        """
        if self._starting or self._open is not None:  # also one that was replaced must be stopped first
            raise AlreadyStarted
        self._starting = True
        try:
            await self._start(address, on_lost, renews)
        finally:
            self._starting = False

    async def _start(
        self, address: str, on_lost: Callable[[StoreError], None] | None, renews: tuple[int, int] | None
    ) -> None:
        self._lost, self._on_lost = None, on_lost
        keeper = self._make_keeper()
        try:
            await keeper.prepare(adopt_only=self.refuses_unknown or not self.store.creates_users)
            if self.refuses_unknown and self.store.creates_users:
                raise SettingsInvalid(
                    f"unknown_users is refuse, and the users of {self.store.name} are herenow's own, made as they "
                    "come: name the application's database, or set unknown_users to serve"
                )
            await keeper.claim(address, renews=renews)
            make = partial(keeper.make_tenants, self._batch, self.supervisor.failed, self.steady)
            tenants = await keeper.adopt(make)
        except BaseException:
            await keeper.end(release=False)
            raise
        self._keeper = keeper
        self._tenants = self._open = tenants
        self._registry, self._truth = tenants.registry(None), Truth(tenants)
        self.steady.begin()
        keeper.begin(self._truth, self._audited)
        keep = self.supervisor.start
        self._tasks = [
            keep("lines", self._begin_minutes, well_s=WELL_S + 2 * EVERY_S),
            keep("tenants", tenants.run, well_s=WELL_S + 2 * SWEEP_EVERY_S),
        ]

    def _make_keeper(self) -> "AnyKeeper":
        if self.settings.cluster is None:
            return Keeper(self.store, self.settings, self.supervisor, self._lose)
        try:
            from herenow.cluster.keeper import ClusterKeeper  # brings Redis' client, which a server alone does not need
        except ModuleNotFoundError as error:
            raise SettingsInvalid("cluster needs a client of Redis: pip install 'herenow[redis]'") from error

        return ClusterKeeper(self.store, self.settings, self.supervisor, self._miss, self._tell_away)

    def on_missed(self, handler: Callable[[str | None], None]) -> None:
        """Call ``handler(tenant)`` when nobody here knows what happened for a while to the users of a tenant."""
        self._missed.append(handler)

    def _miss(self, tenant: str | None) -> None:
        for handler in self._missed:
            handler(tenant)

    def on_away(self, handler: Callable[[bool], None]) -> None:
        """Call ``handler(True)`` when the registry of the cluster cannot be reached, ``handler(False)`` once it can."""
        self._told_away.append(handler)

    def _tell_away(self, is_away: bool) -> None:
        for handler in self._told_away:
            handler(is_away)

    async def _begin_minutes(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self.lines.begin(log.info)

    def _lose(self, error: StoreInUse) -> None:
        """Serve nobody any more: another server owns the store, and what is known here is not true any more."""
        self._lost = error
        for task in self._tasks:
            task.cancel()
        self._registry = self._tenants = self._truth = None
        if self._open is not None and self._on_lost is not None:  # else ``start`` raises it
            self._on_lost(error)

    async def stop(self, *, to_renew: bool = False) -> None:
        """Write everyone offline, give the store up, and stop. Idempotent.

        Nothing is written if another server has taken the store over: its users are not ours.

        Args:
            to_renew: leave everyone online and the store ours, for the same server to go on at once.
        """
        if self._open is None or self._keeper is None:
            return
        tenants, keeper = self._open, self._keeper
        await keeper.leave(tenants, self.supervisor.failed, to_renew=to_renew)
        left, _ = await asyncio.gather(keeper.drain(STOP_TIMEOUT_S), self._hooks.drain(HOOKS_END_S))
        if left:
            log.error("users were not written offline: the store did not take them", users=left)
        await end(self._tasks)
        await keeper.stop_auditing()
        await tenants.close()
        self._registry = self._keeper = self._tenants = self._open = self._truth = None
        self.steady.end()
        await keeper.end(release=not left and not to_renew)
        log.info("stopped", store=self.store.name)

    # -- reading -----------------------------------------------------------------------------------------------------

    def canonical(self, user_id: str) -> str:
        """Write a user's id in the one way in which the database has it: ``7`` for ``007`` where ids are numbers.

        All methods take ids in any way; what they return, and what handlers are told, has this one. Known once it is
        started.
        """
        return self.store.canonical(user_id)

    async def get(self, user_ids: Iterable[str], *, tenant: str | None = None) -> dict[str, UserPresence]:
        """Return users as others see them, by the ids that were asked for, as they were written there.

        One who was never seen is offline, last active ``None``.
        """
        return (await self.snapshot(list(user_ids), tenant=tenant)).users

    async def snapshot(self, user_ids: Sequence[str], *, tenant: str | None = None) -> Snapshot:
        """As :meth:`get`, with the version of the registry at which it was so.

        While the registry of a cluster is away (`as_of_ms`), of those who are not known here the store has the word.
        """
        ids = [self.store.canonical(asked) for asked in user_ids]
        registry = self.registry_of(tenant)
        snapshot = await registry.get(ids)
        known, version = snapshot.users, snapshot.version
        absent = [user_id for user_id in ids if user_id not in known]
        stored = await self._read_store(absent, tenant) if absent else {}
        if registry.as_of_ms is not None:
            known = known | {user_id: presence_in(row, version) for user_id, row in stored.items() if row.is_online}
        # In the order asked for, each user once.
        users = {
            asked: known.get(user_id) or as_offline(user_id, stored.get(user_id), version)
            for asked, user_id in zip(user_ids, ids, strict=True)
        }
        return Snapshot(version, users)

    async def _read_store(self, user_ids: Sequence[str], tenant: str | None) -> dict[str, StoredUser]:
        """What is known of users who are not here: the rows on their way to the store, then the store's own."""
        keys = {user_id: key_of(tenant, user_id) for user_id in user_ids}
        # Whatever the application passes on: an id that would read as the key of another is of nobody.
        asked = [key for user_id, key in keys.items() if split(key) == (tenant, user_id)]
        rows = {key: row for key in asked if (row := self.writer.pending(key)) is not None}
        rest = [key for key in asked if key not in rows]
        if rest:
            try:
                async with asyncio.timeout(STORE_READ_TIMEOUT_S):
                    rows |= await self.store.read(rest)
            except (StoreError, TimeoutError) as error:
                reason = str(error) or "timed out"
                self._sparing.say(log.warning, "store read failed", of=alike(error), error=reason, users=len(rest))
        return {user_id: rows[key] for user_id, key in keys.items() if key in rows}

    @property
    def refuses_unknown(self) -> bool:
        """Whether whom the database does not have is not let in (``unknown_users``)."""
        return self._members is not None

    async def is_known(self, user_id: str, *, tenant: str | None = None) -> bool:
        """Say whether a user may be here: whom the database has, or, while it is away or all are served, anybody."""
        return self._members is None or await self._members.has(key_of(tenant, self.canonical(user_id)))

    async def unknown(self, user_ids: Iterable[str], *, tenant: str | None = None) -> set[str]:
        """Ask the database anew whom of some users it does not have, where those are refused.

        Raises:
            StoreError: it cannot say.
        """
        if self._members is None:
            return set()
        keys = [key_of(tenant, self.canonical(user_id)) for user_id in user_ids]
        return {split(key)[1] for key in await self._members.missing(keys)}

    async def online(self, *, tenant: str | None = None) -> AsyncIterator[UserPresence]:
        """Go through all who are online, most recently active first."""
        cursor: str | None = None
        while True:
            page = await self.registry_of(tenant).online(PAGE_SIZE, cursor)
            for user in page.users:
                yield user
            if page.cursor is None:
                return
            cursor = page.cursor

    async def stats(self, *, tenant: str | None = None) -> RegistryStats:
        """Count users by availability, and connections."""
        return await self.registry_of(tenant).stats()

    async def explain(self, user_id: str, *, tenant: str | None = None) -> Explanation | None:
        """Return all that decides how a user is shown; ``None`` for one who is not here."""
        return await self.registry_of(tenant).explain(self.canonical(user_id))

    # -- following ---------------------------------------------------------------------------------------------------

    def on_change(self, handler: Subscriber) -> Callable[[], None]:
        """Call ``handler(change)``, sync or async, for every change that others can see, oldest first.

        ``change.tenant`` says whose user it is. One that raises is logged and harms nobody. An async one hears of one
        change at a time: while it is awaited, the latest 10,000 wait for it, and what is older is dropped, counted
        and said once. At the stop it has 2 s to hear the rest. Returns a function that ends it.
        """
        return self._hooks.add(handler)

    def on_audit(self, handler: Callable[[], Awaitable[None]]) -> None:
        """Call ``handler()`` after each audit. A ``StoreError`` that it raises is a failure of the audit."""
        self._after_audit.append(handler)

    async def _audited(self) -> None:
        for handler in tuple(self._after_audit):
            await handler()

    def _batch(self, batch: Batch, tenant: str | None) -> None:
        leads = self._keeper is None or self._keeper.leads  # of all nodes, one counts and notes what happens
        of_tenant = {} if tenant is None else {"tenant": tenant}
        for change in batch.changes if leads and log.tells_info else ():
            if self.lines.change.take(key_of(tenant, change.user_id)):
                log.info(
                    "change", user=change.user_id, availability=change.availability, cause=change.cause, **of_tenant
                )
        if self._hooks:
            changes: Sequence[Change] = batch.changes
            if tenant is not None:
                changes = [msgspec.structs.replace(change, tenant=tenant) for change in changes]  # told apart
            self._hooks.tell(changes)
        for change in batch.changes if leads else ():
            self.meters.changes_by[change.cause].inc()

    # -- acting ------------------------------------------------------------------------------------------------------

    async def disconnect(self, user_id: str, *, tenant: str | None = None) -> int:
        """Close all connections of a user, who is offline at once; their clients do not come back by themselves.

        Returns:
            How many there were.
        """
        return len(await self.evict([user_id], disconnect=True, cause=Cause.LEFT, tenant=tenant))

    async def evict(
        self,
        user_ids: Iterable[str] | None,
        *,
        disconnect: bool,
        cause: Cause = Cause.CLEANUP,
        tenant: str | None = None,
    ) -> Sequence[Connection]:
        """Take users (``None``: all of the tenant) offline at once; without ``disconnect`` only those not connected.

        Returns:
            The connections that were closed.
        """
        meant = None if user_ids is None else [self.canonical(user_id) for user_id in user_ids]
        return await self.registry_of(tenant).evict(meant, disconnect=disconnect, cause=cause)
