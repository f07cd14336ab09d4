"""Puts the parts together: the registry that decides, the store that follows, and the calls that all others make.

::

    presence = Presence("sqlite:///app.db")
    presence.mount(app)                                   # a FastAPI or Starlette application

    await presence.get(["alice", "bob"])
    async for user in presence.online(): ...
    presence.on_change(lambda change: print(change))

An application with tenants names one: ``presence.get(["alice"], tenant="acme")``; without, it speaks of users of no
tenant. Nothing that a tenant is told depends on another.

What starts with it: the claim of the store (a second server is refused), the users whom a dead process left online
(they linger, and who comes back in time never flickers), the writer, the audit and the beat. When it stops, everyone is
written offline.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

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
from herenow.logs import get_logger
from herenow.metering import Meters
from herenow.model import Availability, Cause, Change, Connection, StoredUser, UserPresence
from herenow.registry.base import Batch, Explanation, Registry, Snapshot, Stats
from herenow.registry.local import LocalRegistry, LoopClock
from herenow.registry.tenants import Tenants
from herenow.settings import DISPATCH_BUDGET_S, Settings
from herenow.sparing import Sparing, alike
from herenow.steady import Steady
from herenow.store.ahead import read_ahead
from herenow.store.audit import Audit
from herenow.store.base import PAGE_SIZE
from herenow.store.members import Members
from herenow.store.nodes import Node
from herenow.store.objections import Objections
from herenow.store.opening import open_store
from herenow.store.writer import Writer
from herenow.supervision import WELL_S, Supervisor, end
from herenow.tenancy import is_tenant, key_of, keyed, rows_by_tenant, split
from herenow.times import steady_s
from herenow.truth import Truth

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from herenow.gateway.sight import CanWatch

log = get_logger("herenow.presence")

STORE_READ_TIMEOUT_S = 1.0
"""How long a read waits for the store. Then a user who is not here is given as offline, last active unknown."""

STOP_TIMEOUT_S = 3.0
"""How long a stop waits for the store to take the last rows; the whole of it must end within 5 s."""

PAGES_AHEAD = 100
"""Pages of users online that are read while the database looks for its newest version, which takes it a while."""

DECIDED_PER_S = 20_000
"""Users whom a restart finds online, and who do not come back: so many a second are told and written offline."""

CLOSED_AT_ONCE = 200
"""Connections closed in one turn of the event loop, some 10 ms; it serves the others in between."""

HOOKS_END_S = 2.0
"""How long a stop waits for ``on_change`` handlers to hear what they have not heard yet; beside the store."""

SWEEP_TENANTS_S = 10.0
"""Between two looks for tenants of whom nobody is left."""

LOG_CAPACITY = 65_536
TENANT_LOG_CAPACITY = 8_192
"""Changes kept for a ``since``: of no tenant, at most 16 MB; of each tenant, at most 2 MB."""


class Presence:
    """Who is online, right now.

    Args:
        database: where the application's users are: ``sqlite:///path`` or ``mongodb://host/name``.
        authenticate: tells who a client is, in library form: ``async def authenticate(auth, handshake) -> Identity``.
            By default the settings say: ``jwt_secret``, or ``dev`` on loopback.
        can_watch: whom a viewer may see, in library form: ``async def can_watch(viewer, users) -> allowed`` is asked
            with at most 1,000 users, and a yes counts for ``can_watch_stale_s`` seconds. While it is set, nobody can
            watch all. By default everybody may see everybody, or whom their token names. For a viewer of a tenant it
            is called with ``tenant=`` too; the users are of the same one.
        settings: any of :class:`~herenow.settings.Settings`, by name.

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
        self.objections = Objections(self.store, every_s=self.settings.audit_every_s)
        self.meters = Meters()
        self._members = Members(self.store.missing) if self.settings.unknown_users == "refuse" else None
        self.steady = Steady()
        """By which clients and users are waited for, by all parts of this server."""
        self.supervisor = Supervisor(lambda name: self.meters.task_failures.labels(name).inc())
        self._node: Node | None = None
        self._registry: Registry | None = None  # that of no tenant; the others are made when they are asked for
        self._tenants: Tenants | None = None
        self._open: Tenants | None = None  # the same, until they are closed
        self._truth: Truth | None = None
        self._writer: Writer | None = None
        self._audit: Audit | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._after_audit: list[Callable[[], Awaitable[None]]] = []
        self._hooks = Hooks(self.meters.hook_drops.inc)
        self._sparing = Sparing()
        self._evicted: list[Callable[[Sequence[Connection], bool], None]] = []
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
        if self._registry is None:
            raise self._not_started()
        return self._registry

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
        if self._tenants is None:
            raise self._not_started()
        return self._tenants

    @property
    def truth(self) -> Truth:
        """What they say, over all tenants; raises ``NotStarted`` as above."""
        if self._truth is None:
            raise self._not_started()
        return self._truth

    @property
    def writer(self) -> Writer:
        """The writer; raises ``NotStarted`` as above."""
        if self._writer is None:
            raise self._not_started()
        return self._writer

    @property
    def audit(self) -> Audit:
        """The audit; raises ``NotStarted`` as above."""
        if self._audit is None:
            raise self._not_started()
        return self._audit

    @property
    def node(self) -> Node:
        """This server, as its row in the store says; raises ``NotStarted`` as above."""
        if self._node is None:
            raise self._not_started()
        return self._node

    def _not_started(self) -> NotStarted:
        return NotStarted() if self._lost is None else Replaced()

    def bounds(self) -> dict[str, int]:
        """The promises in milliseconds, computed from the live settings."""
        settings = self.settings
        return {
            "offlineWithinMs": round(settings.offline_within_s * 1000),
            "silentLossMs": round(settings.silent_loss_s * 1000),
            "restartMs": round(settings.restart_grace_s * 1000),
        }

    def promised_s(self) -> dict[str, float]:
        """The bounds of the promises whose times are measured, in seconds; see :mod:`herenow.metering`."""
        settings = self.settings
        return {
            "connect": 0.1,
            "closed": settings.offline_within_s,
            "left": 0.1,
            "silent": settings.silent_loss_s,
        }

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, address: str = "", *, on_lost: Callable[[StoreError], None] | None = None) -> None:
        """Take the store over and begin to serve.

        Args:
            address: where this server's HTTP is, for the commands to find it.
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
            await self._start(address, on_lost)
        finally:
            self._starting = False

    async def _start(self, address: str, on_lost: Callable[[StoreError], None] | None) -> None:
        settings = self.settings
        self._lost, self._on_lost = None, on_lost
        await self.store.open()
        beating: asyncio.Task[None] | None = None
        try:
            if not self.store.prepared:
                adopt_only = self._members is not None or not self.store.creates_users
                for step in (await self.store.init(adopt_only=adopt_only)).steps:
                    log.info("store prepared", step=step)
            if self._members is not None and self.store.creates_users:
                raise SettingsInvalid(
                    f"unknown_users is refuse, and the users of {self.store.name} are herenow's own, made as they "
                    "come: name the application's database, or set unknown_users to serve"
                )
            node = Node.here(
                name=settings.node,
                epoch=time.time_ns() // 1000,
                address=address,
                now_ms=time.time_ns() // 1_000_000,
                lease_ms=round(settings.node_lease_s * 1000),
            )
            dead = await self.store.claim_node(node)
            began_s = steady_s()  # after the claim, which may have had to wait
            # From here on, and not only once all is read, which may take longer than a lease.
            beating = self.supervisor.start("beat", lambda: self._beat(node), well_s=WELL_S + 2 * settings.node_beat_s)
            await self.objections.look()
            writer = Writer(self.store, window_s=0.05)
            make = partial(self._make_registry, writer)
            async with (
                read_ahead(self.store.online, pages=PAGES_AHEAD) as online,
                read_ahead(self.store.claimed, pages=1) as claimed,
            ):
                newest = await self.store.max_version()
                tenants = Tenants(make, last_version=newest, now_us=lambda: time.time_ns() // 1000)
                last_beat_ms = dead[0].beat_ms if dead else 0
                adopted = await self._adopt(tenants, online, claimed, last_beat_ms=last_beat_ms, began_s=began_s)
            if self._lost is not None:
                raise self._lost
        except BaseException:
            if beating is not None:
                await end([beating])
            await self.store.close()
            raise
        self._node, self._registry, self._writer = node, tenants.registry(None), writer
        self._tenants = self._open = tenants
        self._truth = Truth(tenants)
        self.steady.begin()
        self._audit = Audit(self.store, self._truth, writer, every_s=settings.audit_every_s, then=self._audited)
        well_after_audit_s = WELL_S + 2 * settings.audit_every_s
        keep = self.supervisor.start
        self._tasks = [
            beating,
            keep("writer", writer.run),
            keep("audit", self._audit.run, well_s=well_after_audit_s),
            keep("objections", self.objections.run, well_s=well_after_audit_s),
            keep("tenants", lambda: _sweep(tenants), well_s=WELL_S + 2 * SWEEP_TENANTS_S),
        ]
        log.info("started", store=self.store.name, node=node.name, dead_nodes=len(dead), adopted=adopted)

    def _make_registry(self, writer: Writer, tenant: str | None, last_version: int) -> Registry:
        settings = self.settings
        registry = LocalRegistry(
            grace_ms=round(settings.grace_s * 1000),
            last_version=last_version,
            idle_after_ms=None if settings.idle_after_s is None else round(settings.idle_after_s * 1000),
            last_active_granularity_ms=round(settings.last_active_granularity_s * 1000),
            log_capacity=LOG_CAPACITY if tenant is None else TENANT_LOG_CAPACITY,
            clock=LoopClock(self.steady),
            on_fault=self.supervisor.failed,
        )
        registry.subscribe(lambda batch: self._batch(batch, writer, tenant))
        return registry

    async def _adopt(
        self,
        tenants: Tenants,
        online: AsyncIterator[Sequence[StoredUser]],
        claimed: AsyncIterator[Sequence[StoredUser]],
        *,
        last_beat_ms: int,
        began_s: float,
    ) -> int:
        """Let whoever a dead process left online linger until ``restart_grace``; claims live on."""
        adopted = 0
        async for page in online:
            adopted += len(page)
            ends_s = began_s + linger_after_restart_s(self.settings, adopted)
            await _take_over(tenants, page, last_beat_ms=last_beat_ms, ends_s=ends_s)
        ends_s = began_s + linger_after_restart_s(self.settings, 0)
        async for page in claimed:
            await _take_over(tenants, page, last_beat_ms=last_beat_ms, ends_s=ends_s)
        return adopted

    async def _beat(self, node: Node) -> None:
        while True:
            await asyncio.sleep(self.settings.node_beat_s)
            try:
                await self.store.beat(node)
            except StoreInUse as error:
                self._lose(error)
                return
            except StoreError as error:
                log.warning("beat failed", error=str(error))

    def _lose(self, error: StoreInUse) -> None:
        """Serve nobody any more: another server owns the store, and what is known here is not true any more."""
        self._lost = error
        for task in self._tasks:  # not one more row: what we still hold would put its users offline
            if task is not asyncio.current_task():
                task.cancel()
        self._registry = self._tenants = self._truth = self._audit = None
        log.critical("another server took the store over", error=str(error))
        if self._open is not None and self._on_lost is not None:  # else ``start`` raises it
            self._on_lost(error)

    async def stop(self) -> None:
        """Write everyone offline, give the store up, and stop. Idempotent.

        Nothing is written if another server has taken the store over: its users are not ours.
        """
        if self._open is None or self._writer is None or self._node is None:
            return
        tenants, writer, node = self._open, self._writer, self._node
        left = 0
        hooks: asyncio.Future[None] | None = None
        if self._lost is None:
            for tenant in tenants.names():
                await self.evict(None, disconnect=True, cause=Cause.RESTART, tenant=tenant)
            hooks = asyncio.ensure_future(self._hooks.drain(HOOKS_END_S))
            left = await writer.drain(STOP_TIMEOUT_S)
        await (hooks or self._hooks.drain(HOOKS_END_S))
        if left:
            log.error("users were not written offline: the store did not take them", users=left)
        await tenants.close()
        await end(self._tasks)
        self._registry = self._writer = self._audit = self._node = self._tenants = self._open = self._truth = None
        self.steady.end()
        if not left:  # else our row stays: it tells the next start until when the users may have been here
            with contextlib.suppress(StoreError):  # without the row's end, the next start waits for its lease at most
                await self.store.release_node(node)
        await self.store.close()
        log.info("stopped", store=self.store.name)

    def mount(
        self,
        app: "Starlette",
        *,
        prefix: str = "",
        path: str = "/socket.io/",
        http: bool = True,
        admin: bool = False,
        health: bool = False,
        openapi: bool = False,
    ) -> None:
        """Serve presence in a FastAPI or Starlette application, and leave all else in it as it is.

        It starts and stops with the application's lifespan, and ends its streams and sockets as soon as the server
        around it stops to listen. For the fast WebSocket, run it with
        ``uvicorn app:app --ws herenow.socketio_server:FastWebSocket``; without, it works at ASGI's price.

        Args:
            app: where. One of its own paths that is ours too is an error, now or at its start.
            prefix: of all paths below, as in ``/presence``.
            path: where Socket.IO is. A client gives ``{ path: prefix + path }``.
            http: serve ``/v1``: who is online, changes as they come, claims, for ``api_keys`` and ``admin_tokens``.
            admin: serve ``/v1/admin``, for ``admin_tokens``. The commands need it not: they have a door of their own.
            health: serve ``/healthz``, ``/readyz`` and ``/metrics``.
            openapi: let the paths stand in the application's OpenAPI.

        Raises:
            SettingsInvalid: nothing says who a client is, or a path is the application's own.
        """
        from herenow.mounting import Faces, mount  # here, because that module needs this one

        faces = Faces(http=http, admin=admin, health=health, openapi=openapi)
        mount(self, app, prefix=prefix, path=path, faces=faces)

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
        """As :meth:`get`, with the version of the registry at which it was so."""
        ids = [self.store.canonical(asked) for asked in user_ids]
        snapshot = await self.registry_of(tenant).get(ids)
        known, version = snapshot.users, snapshot.version
        absent = [user_id for user_id in ids if user_id not in known]
        stored = await self._read_store(absent, tenant) if absent else {}
        # In the order asked for, each user once.
        users = {
            asked: known.get(user_id) or _offline(user_id, stored.get(user_id), version)
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

    async def stats(self, *, tenant: str | None = None) -> Stats:
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

    def on_evicted(self, handler: Callable[[Sequence[Connection], bool], None]) -> None:
        """Call ``handler(connections, may_return)`` for those that the registry has dropped and that must be closed.

        ``may_return`` says whether their clients are to come back by themselves.
        """
        self._evicted.append(handler)

    def on_audit(self, handler: Callable[[], Awaitable[None]]) -> None:
        """Call ``handler()`` after each audit. A ``StoreError`` that it raises is a failure of the audit."""
        self._after_audit.append(handler)

    async def _audited(self) -> None:
        for handler in tuple(self._after_audit):
            await handler()

    def _batch(self, batch: Batch, writer: Writer, tenant: str | None) -> None:
        if self._lost is not None:
            return  # such as a grace that ends: not true any more
        writer.submit(keyed(tenant, batch.rows))
        of_tenant = {} if tenant is None else {"tenant": tenant}
        for change in batch.changes:
            log.info("change", user=change.user_id, availability=change.availability, cause=change.cause, **of_tenant)
        if self._hooks:
            changes: Sequence[Change] = batch.changes
            if tenant is not None:
                changes = [msgspec.structs.replace(change, tenant=tenant) for change in changes]  # told apart
            self._hooks.tell(changes)
        for change in batch.changes:
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
        evicted = await self.registry_of(tenant).evict(meant, disconnect=disconnect, cause=cause)
        await self._close_evicted(evicted, may_return=cause is not Cause.LEFT)
        return evicted

    async def _close_evicted(self, connections: Sequence[Connection], *, may_return: bool) -> None:
        for start in range(0, len(connections), CLOSED_AT_ONCE):
            for handler in self._evicted:
                try:
                    handler(connections[start : start + CLOSED_AT_ONCE], may_return)
                except Exception as error:  # the others are to be closed all the same
                    self.supervisor.failed("eviction", error)
            await asyncio.sleep(0)


async def _sweep(tenants: Tenants) -> None:
    while True:
        await asyncio.sleep(SWEEP_TENANTS_S)
        await tenants.sweep()


async def _take_over(tenants: Tenants, rows: Sequence[StoredUser], *, last_beat_ms: int, ends_s: float) -> None:
    for tenant, theirs in rows_by_tenant(rows).items():
        grace_ms = max(1, round((ends_s - steady_s()) * 1000))
        await tenants.registry(tenant).adopt(theirs, last_beat_ms=last_beat_ms, grace_ms=grace_ms)


def linger_after_restart_s(settings: Settings, place: int) -> float:
    """Say how long after a start somebody lingers whom a dead process left online, in seconds.

    The bound runs from the start, and telling a crowd takes time: the ends are spread, so that the last is told and
    written at the bound. Whoever was active longest ago ends first, but nobody before the stock client, at its longest
    pause, has had the time to come back.

    Args:
        settings: their ``restart_grace_s`` is the bound.
        place: where in the order of last activity the user stands; 1 is the most recently active.
    """
    latest_s = settings.restart_grace_s - DISPATCH_BUDGET_S
    return max(latest_s - place / DECIDED_PER_S, settings.shortest_restart_grace_s - DISPATCH_BUDGET_S)


def _offline(user_id: str, row: StoredUser | None, version: int) -> UserPresence:
    """A user who is not in the registry: offline, whatever the store says; it only knows since when.

    A row may be ahead of ``version``, the registry's, if another program wrote it: clients, who keep what has the
    higher version, would then not believe the next change.
    """
    if row is None:
        return UserPresence(user_id, False, Availability.OFFLINE, None, None, None, 0)
    stored = min(row.version, version)
    return UserPresence(user_id, False, Availability.OFFLINE, row.last_active_ms, None, None, stored)
