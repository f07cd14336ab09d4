"""A node in a simulated world: the parts of a server that make it one of a cluster, and the clients that it serves.

What is not here is what has no part in it: sockets, HTTP, and who may see whom.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

from herenow.cluster.keeper import ClusterKeeper
from herenow.errors import RegistryUnavailable
from herenow.gateway.departures import Departure, Departures
from herenow.gateway.rollcall import RollCall
from herenow.keeper.truth import Truth
from herenow.metering import Meters
from herenow.model import Closing, UserPresence
from herenow.registry.base import Batch
from herenow.registry.tenants import Tenants
from herenow.settings import Settings
from herenow.socketio_server import Socket
from herenow.steady import Steady
from herenow.supervision import WELL_S, Supervisor, end
from simulation.loop import Process
from simulation.people import Session, User
from simulation.store import MemoryStore

TENANTS = (None, "acme")

Heard = Callable[["Node", str | None, Batch], None]


@cache
def settings_of(name: str | None, restart_grace_s: float) -> Settings:
    """The settings of a node of this name."""
    return Settings.load(
        database="mongodb://database/app",
        cluster="redis://redis:6379",
        jwt_secret="a secret of the simulation, long enough",
        node_name=name,
        restart_grace_s=restart_grace_s,
        audit_every_s=7.0,
        idle_after_s=20.0,
    )


class _Supervisor(Supervisor):
    """Keeps the parts of a node alive, and tells of each that failed.

    Args:
        note: told.
    """

    def __init__(self, note: Callable[[str, Exception], None]) -> None:
        super().__init__(lambda name: None, clock=asyncio.get_running_loop().time)
        self._note = note

    def failed(self, name: str, error: Exception, *, well_s: float = WELL_S) -> None:
        super().failed(name, error, well_s=well_s)
        self._note(name, error)


class Node:
    """One start of a node.

    Args:
        process: in which it runs.
        store: its way to the database.
        settings: all nodes have the same.
        heard: told each batch.
        failed: told what nobody foresaw.

    Attributes:
        is_ready: it serves.
        is_leaving: it stops, and lets nobody in any more.
        sessions: its clients, by connection.
        views: what a client knows that watches everybody, by tenant.
        missed: how often the log was cut before it was read.
    """

    def __init__(
        self,
        process: Process,
        store: MemoryStore,
        settings: Settings,
        heard: Heard,
        failed: Callable[[str], None],
    ) -> None:
        self.process = process
        self.is_ready = self.is_leaving = False
        self.sessions: dict[str, Session] = {}
        self.views: dict[str | None, dict[str, UserPresence]] = {tenant: {} for tenant in TENANTS}
        self.missed = 0
        self._settings = settings
        self._heard = heard
        self._failed = failed
        self._supervisor = _Supervisor(self._note)
        self._tasks: list[asyncio.Task[None]] = []
        self.keeper = ClusterKeeper(store, settings, self._supervisor, self._miss, lambda is_away: None)
        self.tenants: Tenants
        self.departures: Departures

    @property
    def name(self) -> str:
        """What people call it."""
        return self.process.name

    @property
    def is_serving(self) -> bool:
        """Whether clients are let in, as far as anybody can see."""
        return self.is_ready and not self.is_leaving and not self.process.is_killed

    def _note(self, what: str, error: Exception) -> None:
        if not self.process.is_killed:
            self._failed(f"{self.name}: {what}: {error!r}")

    # -- coming and going ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join, and begin to serve; in its process."""
        keeper = self.keeper
        try:
            await keeper.prepare(adopt_only=False)
            await keeper.claim("")
            make = partial(keeper.make_tenants, self._deliver, self._note, cast(Steady, None))
            self.tenants = await keeper.adopt(make)
        except BaseException:
            await keeper.end(release=False)
            raise
        keeper.begin(Truth(self.tenants), _nothing)
        self.departures = Departures(self.tenants, self._note)
        roll_call = RollCall(
            self.tenants,
            keeper.node.name,
            cast(dict[str, Socket], self.sessions),
            lambda socket: self.drop(cast(Session, socket)),
            self.departures,
            _meters(),
            every_s=self._settings.audit_every_s,
        )
        keep = self._supervisor.start
        self._tasks = [
            keep("departures", self.departures.run),
            keep("roll call", roll_call.run),
            keep("tenants", self.tenants.run),
        ]
        for tenant in TENANTS:
            self.tenants.hold(tenant)
            await self.look_anew(tenant)
        self.is_ready = True

    async def stop(self) -> None:
        """Hand its users on, and end, as at a SIGTERM; in its process."""
        self.is_leaving = True
        for session in tuple(self.sessions.values()):
            session.handed_on()
        self.sessions.clear()
        await end(self._tasks)
        await self.keeper.leave(self.tenants, self._note, to_renew=False)
        left = await self.keeper.drain(2.5)
        await self.keeper.stop_auditing()
        await self.tenants.close()
        await self.keeper.end(release=not left)
        self.is_ready = False

    async def look_anew(self, tenant: str | None) -> None:
        """Take a whole snapshot, as a client does that watches everybody."""
        while True:
            with contextlib.suppress(RegistryUnavailable):
                page = await self.tenants.registry(tenant).online(1000)
                break
            await asyncio.sleep(0.5)
        view = self.views[tenant]
        newer = {user: seen for user, seen in view.items() if seen.version > page.version}
        view.clear()
        view.update({user.user_id: user for user in page.users})
        view.update(newer)

    # -- what it is told -----------------------------------------------------------------------------------------------

    def _deliver(self, batch: Batch, tenant: str | None) -> None:
        if self.process.is_killed:
            return
        self._heard(self, tenant, batch)
        for change in batch.changes:
            seen = self.views[tenant].get(change.user_id)
            if seen is None or seen.version < change.version:
                self.views[tenant][change.user_id] = change
        for gone in batch.evicted:
            session = self.sessions.get(gone.connection_id)
            if session is not None:
                self.drop(session, is_evicted=True)

    def _miss(self, tenant: str | None) -> None:
        """All clients of the tenant are to come back: nobody here knows what they should have been told."""
        if self.process.is_killed:
            return
        self.missed += 1
        for session in tuple(self.sessions.values()):
            if session.user.tenant == tenant:
                self.drop(session)
        if self.is_ready:
            self._tasks.append(asyncio.create_task(self.look_anew(tenant)))

    # -- its clients ---------------------------------------------------------------------------------------------------

    async def admit(self, session: Session) -> bool:
        """Let a client in; in its process."""
        if not self.is_serving:
            return False
        user = session.user
        self.sessions[session.connection_id] = session
        try:
            await self.tenants.registry(user.tenant).connect(
                user.name, session.connection_id, node=self.keeper.node.name, transport="websocket"
            )
        except BaseException as error:
            self.forget(session, Closing.ERROR)
            if isinstance(error, RegistryUnavailable):
                return False
            raise
        if self.sessions.get(session.connection_id) is not session:  # it has gone meanwhile
            return False
        session.opened()
        return True

    def forget(self, session: Session, closing: Closing) -> None:
        """A client has gone; in its process."""
        if self.sessions.pop(session.connection_id, None) is not None and not self.is_leaving:
            user = session.user
            self.departures.tell(Departure(user.tenant, user.name, session.connection_id, closing))

    def drop(self, session: Session, *, is_evicted: bool = False) -> None:
        """Send a client away, who may come back."""
        session.dropped(is_evicted=is_evicted)
        self.forget(session, Closing.CLOSED)

    def registry(self, user: User) -> Any:
        """Where a user of this node is."""
        return self.tenants.registry(user.tenant)


@cache
def _meters() -> Meters:
    return Meters()


async def _nothing() -> None:
    """There is nothing else to look at."""
