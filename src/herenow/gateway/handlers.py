"""Events in: connect, disconnect, and what a client may say. What comes of it the registry decides."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

import msgspec

from herenow.errors import RegistryUnavailable, TenantsNotKept
from herenow.gateway import events
from herenow.gateway.access.comings import Comings
from herenow.gateway.access.limits import TokenBucket
from herenow.gateway.access.permission import Permission
from herenow.gateway.access.throttle import Throttle
from herenow.gateway.answers import Answers
from herenow.gateway.audience import Audience
from herenow.gateway.auth.expiry import Expiry
from herenow.gateway.auth.identity import Authenticate, Identity, identify
from herenow.gateway.behaviour import server_settings
from herenow.gateway.client import Client, close
from herenow.gateway.departures import Departure, Departures, Evictions
from herenow.gateway.events import WireError
from herenow.gateway.handing_on import hand_on
from herenow.gateway.metering.pulse import Pulse
from herenow.gateway.outbox import Pace
from herenow.gateway.rollcall import RollCall
from herenow.gateway.stays import Stays, steady_end
from herenow.gateway.strangers import Strangers, unknown_user
from herenow.logs import get_logger
from herenow.model import Closing
from herenow.promises import bounds_ms
from herenow.service import Service
from herenow.socketio_server import ConnectRefused, Reason, Reply, Server, Socket
from herenow.socketio_server.engineio.addresses import customer_of
from herenow.sparing import Sparing, alike
from herenow.supervision import WELL_S
from herenow.tenancy import SEPARATOR, key_of
from herenow.times import to_iso

log = get_logger("herenow.gateway")

P = TypeVar("P")

CLOSING = {
    Reason.CLIENT: Closing.LEFT,
    Reason.SERVER: Closing.LEFT,
    Reason.SENT_AWAY: Closing.CLOSED,
    Reason.TRANSPORT_CLOSED: Closing.CLOSED,
    Reason.PING_TIMEOUT: Closing.TIMEOUT,
    Reason.TRANSPORT_ERROR: Closing.ERROR,
    Reason.BAD_PACKET: Closing.ERROR,
}
"""How the end of a socket counts for presence: after ``LEFT`` there is no grace."""


CONNECTS_AT_ONCE = 20
"""A user may connect so often at once, though they may have fewer connections at a time: pages are reloaded."""


class Gateway:
    """Presence over Socket.IO.

    Args:
        presence: started.
        authenticate: tells who a client is.
        path: of the Socket.IO server.
    """

    def __init__(self, presence: Service, authenticate: Authenticate, *, path: str = "/socket.io/") -> None:
        settings = presence.settings
        self.presence = presence
        self._settings = settings
        self._authenticate = authenticate
        self._canonical = presence.store.canonical
        self._bounds = msgspec.Raw(msgspec.json.encode(bounds_ms(settings)))
        self._expiry = Expiry()
        self._meters = presence.meters
        self._pulse = Pulse(presence.meters)
        self._sparing = Sparing()
        self._throttle = Throttle(settings, self._sparing)
        self._comings = Comings(
            settings.max_connects_per_s_of_user, max(CONNECTS_AT_ONCE, settings.max_connections_per_user)
        )
        self._stopping = False
        self._leaving = False  # its users are handed on
        self._clients = 0  # who is in, and who is just being let in
        self._tasks: list[asyncio.Task[None]] = []
        self.server = Server(server_settings(settings, path), clock=presence.steady)
        self.server.supervise(presence.supervisor.failed)
        self._throttle.supervise(presence.supervisor.failed)
        self.server.engine.on_refused = lambda code: self._meters.refused.labels(code).inc()
        self.server.engine.faults.on_fault = lambda reason: self._meters.faults.labels(reason).inc()
        self._namespace = self.server.namespace("/")
        self._permission = Permission(settings.can_watch_stale_s, self._namespace.sockets.get)
        self._stays = Stays(self._expiry, self._namespace.sockets.get, self._identify, self._notify, self._failed)
        self._pace = Pace(settings.flush_interval_s, settings.flush_longest_s)
        self._evictions = Evictions(self._namespace.sockets.get, self._failed)
        self._departures: Departures  # once it is started
        self._node = ""
        self._audiences: dict[str | None, Audience] = {None: self._make_audience(None)}
        self.server.on_stop(self._say_goodbye)
        strangers = Strangers(presence, lambda: self._audiences, self._namespace.sockets.get, self._notify)
        presence.on_audit(strangers.look)
        presence.on_missed(self._begin_anew)
        presence.on_away(self._tell_away)
        self._register()

    def _register(self) -> None:
        namespace = self._namespace
        namespace.on_connect(self._connect)
        namespace.on_disconnect(self._disconnect)
        namespace.on_unknown(self._unknown)
        namespace.on_slow(self._became_slow)
        namespace.on_drain(self._drained)
        answers = Answers(self.presence, self._permission, self._throttle)
        self._on("presence:watch", events.WatchPayload, answers.watch)
        self._on("presence:unwatch", events.Unwatch, answers.unwatch)
        self._on("presence:get", events.UsersPayload, answers.get)
        self._on("presence:active", events.Empty, answers.active)
        self._on("presence:idle", events.Empty, answers.idle)
        self._on("presence:claim", events.ClaimPayload, answers.claim)
        self._on("presence:leave", events.Empty, self._leave)
        self._on("presence:refresh", events.Refresh, self._stays.refresh)

    def _make_audience(self, tenant: str | None) -> Audience:
        return Audience(tenant, self.presence, self._namespace, self._pace, self._evictions.close)

    def start(self) -> None:
        """Begin to send changes; in the event loop, with a started presence. Once more after each :meth:`stop`."""
        self._stopping = self._leaving = False
        self._audiences = {None: self._make_audience(None)}
        self._audiences[None].open()
        self.server.engine.start_again()
        self._departures = Departures(self.presence.tenants, self._failed)
        self._node = self.presence.node.name
        every_s = self._settings.audit_every_s
        roll_call = RollCall(
            self.presence.tenants,
            self.presence.node.name,
            self._namespace.sockets,
            lambda socket: close(socket, may_return=True),
            self._departures,
            self._meters,
            every_s=every_s,
        )
        keep = self.presence.supervisor.start
        self._tasks = [
            keep("expiry", self._stays.run),
            keep("pulse", self._pulse.run),
            keep("departures", self._departures.run),
            keep("roll call", roll_call.run, well_s=WELL_S + 2 * every_s),
        ]
        if self.presence.can_watch is not None:
            self._tasks.append(keep("sight", self._permission.run))

    async def hand_on(self, within_s: float) -> None:
        """Let nobody in any more, and hand the users on to the other nodes of the cluster, some at a time."""
        self._leaving = True
        cluster = self.presence.cluster
        if cluster is not None:
            notice = _shutting_down().body()
            sockets = tuple(self._namespace.sockets.values())
            await hand_on(
                sockets, cluster.hand_on, lambda going: self._namespace.emit(going, events.ERROR, notice), within_s
            )

    def stop(self) -> None:
        """Tell every client, let nobody in any more, and close all connections. Idempotent."""
        self.server.engine.stop()

    def _say_goodbye(self) -> None:
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        for audience in self._audiences.values():
            audience.mute()
        notice = _shutting_down().body()
        self._namespace.emit(self._namespace.sockets.values(), events.ERROR, notice)

    def _begin_anew(self, tenant: str | None) -> None:
        """Have all clients of a tenant come back: nobody here knows what they should have been told."""
        audience = self._audiences.get(tenant)
        for socket in tuple(self._namespace.sockets.values()):
            client: Client | None = socket.data
            if client is not None and client.audience is audience and audience is not None:
                client.closing = Closing.CLOSED
                close(socket, may_return=True)

    def _tell_away(self, is_away: bool) -> None:
        """Tell all clients that what they know may be old, or is not any more."""
        error = _registry_away() if is_away else _registry_back()
        self._namespace.emit(self._namespace.sockets.values(), events.ERROR, error.body())

    def heard_ms_ago(self, connection_id: str) -> int | None:
        """How long ago a connection last answered a heartbeat; ``None`` before the first, or if it is not here."""
        socket = self._namespace.sockets.get(connection_id)
        return None if socket is None else self._heard_ms_ago(socket)

    def transport_of(self, connection_id: str) -> str | None:
        """What carries a connection now; ``None`` if it is not here."""
        socket = self._namespace.sockets.get(connection_id)
        return None if socket is None else socket.transport

    def _heard_ms_ago(self, socket: Socket) -> int | None:
        if socket.last_pong_ms is None:
            return None
        return max(0, round(self.server.engine.now_ms() - socket.last_pong_ms))

    def _became_slow(self, socket: Socket) -> None:
        if socket.data is not None:  # one that has not been let in yet watches nobody
            socket.data.audience.outbox.became_slow(socket.data)

    def _drained(self, socket: Socket) -> None:
        if socket.data is not None:
            socket.data.audience.outbox.drained(socket.data)

    # -- connections -------------------------------------------------------------------------------------------------

    async def _connect(self, socket: Socket, auth: Any) -> None:
        try:
            await self._admit(socket, auth)
        except WireError as error:
            self._sparing.say(
                log.info,
                "connection refused",
                of=(_customer(socket), error.code),
                code=error.code,
                reason=error.message,
                connection=socket.id[:6],
            )
            self._meters.refused.labels(error.code).inc()
            self._throttle.rest(socket)
            raise _refused(error) from error
        except RegistryUnavailable as error:
            self._meters.refused.labels("unavailable").inc()
            self._sparing.say(
                log.warning, "connection refused", of=("unavailable",), code="unavailable", reason=str(error)
            )
            raise _refused(_unavailable()) from error
        except Exception as error:  # the application's own, in its ``authenticate``, or ours
            self._sparing.say(log.exception, "connect failed", of=alike(error), connection=socket.id[:6])
            self._meters.refused.labels("internal").inc()
            raise _refused(WireError("internal", "the server could not do it")) from error

    async def _admit(self, socket: Socket, auth: Any) -> None:
        if self._pulse.lag_s > self._settings.overload_lag_s:
            raise WireError("overloaded", "the server is busy serving those who are in: come again in a moment")
        identity = await self._identify(auth, socket)
        user_id, tenant = identity.user_id, identity.tenant
        if SEPARATOR in user_id:  # the application's own ``authenticate``: everything else checks ids
            raise ValueError("a user id holds no control characters")
        if self.presence.refuses_unknown:
            await self._see_that_it_is_known(tenant, user_id)
        if self._stopping or self._leaving:  # by now: nobody would write this one offline
            raise _shutting_down()
        settings = self._settings
        if self._clients >= settings.max_connections:
            is_full = "the server is full"  # to a tenant no more than that: whose connections they are is not its own
            if tenant is None:
                is_full = f"the server has its {settings.max_connections} connections"
            raise WireError("too_many_connections", is_full)
        audience = self._audiences.get(tenant) or self._open_audience(tenant)
        if audience.registry.as_of_ms is not None:  # to ask it is to remember who came, until it can be taken back
            raise RegistryUnavailable("it does not answer")
        mine = audience.connections_of.get(user_id, 0)
        if mine >= settings.max_connections_per_user:
            raise WireError("too_many_connections", f"{user_id} has {mine} connections, which is the most")
        now_s = monotonic()
        if not self._comings.may_come(key_of(tenant, user_id), now_s):
            often = f"{user_id} connects more often than {settings.max_connects_per_s_of_user:g} times a second"
            raise WireError("rate_limited", often)
        client = Client(socket, identity, audience, TokenBucket(settings.max_events_per_s, now_s), now_s)
        socket.data = client
        self._clients += 1
        audience.count_in(user_id, lambda: TokenBucket(self._throttle.user_rate, now_s))
        address = socket.handshake.address
        try:
            client.ends_s = steady_end(identity.expires_s)
            self._expiry.set(socket.id, client.ends_s)
            await audience.registry.connect(
                user_id,
                socket.id,
                node=self._node,
                transport=socket.transport,
                address=address[0] if address else None,
            )
            client.opened_s = monotonic()  # what it asks for from now on is newer than this
            server_time = to_iso(audience.registry.now().unix_ms)
            ready = events.Ready(user_id, socket.id, audience.registry.version, server_time, self._bounds)
            socket.emit(events.READY, msgspec.Raw(msgspec.json.encode(ready)))
        except BaseException:  # refused or cancelled half-way: nobody would hear of its end
            self._forget(client, Closing.ERROR)
            raise
        try:
            self._tell_connected(client)
        except Exception as error:  # who is in is in
            self._failed("telling", error)

    def _tell_connected(self, client: Client) -> None:
        client.audience.punctuality.came(client.user_id)
        if log.tells_info and self.presence.lines.connected.take(key_of(client.audience.tenant, client.user_id)):
            log.info("connected", **client.about, transport=client.socket.transport)
        self._meters.connects.inc()

    async def _identify(self, auth: Any, socket: Socket) -> Identity:
        return (await identify(self._authenticate, auth, socket.handshake)).in_one_way(self._canonical)

    def _disconnect(self, socket: Socket, reason: Reason) -> None:
        client: Client = socket.data
        is_last = client.audience.connections_of.get(client.user_id) == 1
        self._forget(client, client.closing or CLOSING[reason])
        try:
            self._tell_disconnected(client, reason, is_last=is_last)
        except Exception as error:  # what was told of depends on none of it
            self._failed("telling", error)

    def _forget(self, client: Client, closing: Closing) -> None:
        """Let a connection go, first of all in the registry. What fails on the way keeps none of the rest."""
        audience, connection_id = client.audience, client.socket.id
        if not self._stopping:  # at the end, everyone is written offline in one go
            self._departures.tell(Departure(audience.tenant, client.user_id, connection_id, closing))
        try:
            audience.watches.forget(client)
            audience.outbox.forget(client)
            if client.ends_s is not None:
                self._expiry.forget(connection_id)
            self._permission.forget(connection_id)
        except Exception as error:
            self._failed("disconnect", error)
        finally:
            # They hold each other: left to the garbage collector, its pauses would be felt by all clients.
            client.socket.data = None
            self._count_out(client)

    def _tell_disconnected(self, client: Client, reason: Reason, *, is_last: bool) -> None:
        heard_ms = self._heard_ms_ago(client.socket) if reason is Reason.PING_TIMEOUT else None
        if heard_ms is not None and is_last:
            client.audience.punctuality.fell_silent(client.user_id, heard_ms / 1000)
        duration_s = monotonic() - client.opened_s
        if log.tells_info and self.presence.lines.disconnected.take(key_of(client.audience.tenant, client.user_id)):
            log.info("disconnected", **client.about, reason=reason.value, seconds=round(duration_s, 3))
        self._meters.disconnects.labels(reason.value).inc()

    def _notify(self, socket: Socket, error: WireError) -> None:
        """Tell a client why its connection ends; it ends all the same."""
        try:
            socket.emit(events.ERROR, error.body())
        except Exception as fault:
            self._failed("telling", fault)

    def _failed(self, what: str, error: Exception) -> None:
        self.presence.supervisor.failed(what, error)

    async def _see_that_it_is_known(self, tenant: str | None, user_id: str) -> None:
        self._check_tenant(tenant)
        if not await self.presence.is_known(user_id, tenant=tenant):
            raise unknown_user()

    def _check_tenant(self, tenant: str | None) -> None:
        if tenant is not None:
            try:
                self.presence.check_tenant(tenant)
            except TenantsNotKept as error:
                self._sparing.say(
                    log.error, "a user of a tenant is refused", of=tenant, tenant=tenant, reason=str(error)
                )
                raise WireError("forbidden", "this server cannot keep the users of tenants apart") from error

    def _open_audience(self, tenant: str | None) -> Audience:
        """Let the first client of a tenant in."""
        self._check_tenant(tenant)
        audience = self._make_audience(tenant)
        audience.open()
        self._audiences[tenant] = audience
        return audience

    def _count_out(self, client: Client) -> None:
        """Count a connection out; the last one of a tenant closes its audience."""
        self._clients -= 1
        audience = client.audience
        audience.count_out(client.user_id)
        if audience.tenant is not None and not audience.connections_of:
            audience.close()
            del self._audiences[audience.tenant]

    # -- events ------------------------------------------------------------------------------------------------------

    def _on(self, event: str, kind: type[P], handler: Callable[[Client, P], Awaitable[dict[str, Any]]]) -> None:
        def handle(socket: Socket, *args: Any) -> Reply | Awaitable[dict[str, Any] | Reply]:
            # The client is taken now: when its turn comes, the socket may have gone, and have let go of it.
            return self._limited(socket.data) or self._answer(
                socket.data, event, lambda client: handler(client, events.decode(kind, args))
            )

        self._namespace.on(event)(handle)

    async def _answer(
        self, client: Client, event: str, work: Callable[[Client], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any] | Reply:
        client.running += 1
        try:
            await self._throttle.wait(client)
            return {"ok": True, **await work(client)}
        except WireError as error:
            of = client.audience.tenant, client.user_id, error.code
            self._sparing.say(log.info, "event refused", of=of, code=error.code, **client.about, event_name=event)
            return self._refusal(error)
        except RegistryUnavailable:
            return self._refusal(_unavailable())
        except Exception as error:  # whatever it is, the client gets an answer, and no more of it than that
            if self._stopping:  # and what it needed has stopped before it
                return self._refusal(_shutting_down())
            self._sparing.say(log.exception, "event failed", of=alike(error), **client.about, event_name=event)
            return self._refusal(WireError("internal", "the server could not do it"))
        finally:
            client.running -= 1

    def _limited(self, client: Client) -> Reply | None:
        """Refuse an event that is one too many at once: there may be thousands."""
        error = self._throttle.admit(client)
        return None if error is None else self._refusal(error)

    def _refusal(self, error: WireError) -> Reply:
        self._meters.errors.labels(error.code).inc()
        return Reply({"ok": False, "error": error.body()}, otherwise=(events.ERROR, error.body()))

    def _unknown(self, socket: Socket, event: Any, *args: Any) -> Reply | Awaitable[dict[str, Any] | Reply]:
        async def refuse(client: Client) -> dict[str, Any]:
            raise WireError("unknown_event", f"there is no event {str(event)[:80]!r}")

        return self._limited(socket.data) or self._answer(socket.data, "unknown", refuse)

    async def _leave(self, client: Client, payload: events.Empty) -> dict[str, Any]:
        client.closing = Closing.LEFT
        # The acknowledgement goes first, then the connection.
        asyncio.get_running_loop().call_soon(lambda: close(client.socket, may_return=False))
        return {}


def _shutting_down() -> WireError:
    return WireError("shutting_down", "the server is shutting down")


def _unavailable() -> WireError:
    return WireError("unavailable", "who is here cannot be known right now")


def _registry_away() -> WireError:
    return WireError("registry_unavailable", "who is here is shown as it was last known, until registry_back")


def _registry_back() -> WireError:
    return WireError("registry_back", "who is here is known again")


def _customer(socket: Socket) -> str | None:
    address = socket.handshake.address
    return None if address is None else customer_of(address[0])


def _refused(error: WireError) -> ConnectRefused:
    data: dict[str, Any] = {"code": error.code, "temporary": error.temporary}
    if error.temporary:  # not all at the same moment
        data["retryAfterMs"] = error.retry_after_ms or events.soon_ms()
    return ConnectRefused(error.message, data)
