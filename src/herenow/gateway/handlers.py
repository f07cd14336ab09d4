"""Events in: connect, disconnect, and what a client may say. What comes of it the registry decides."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import Any, TypeVar

import msgspec

from herenow.errors import TenantsNotKept
from herenow.gateway import events
from herenow.gateway.audience import Audience
from herenow.gateway.auth import Authenticate, Identity, identify
from herenow.gateway.client import Client, close
from herenow.gateway.events import WireError
from herenow.gateway.expiry import WARNING_S, Expiry, end_ms
from herenow.gateway.limits import TokenBucket
from herenow.gateway.outbox import Pace
from herenow.gateway.permission import Permission
from herenow.gateway.pulse import Pulse
from herenow.gateway.rollcall import RollCall
from herenow.gateway.strangers import Strangers, unknown_user
from herenow.gateway.throttle import Throttle
from herenow.logs import get_logger
from herenow.model import Claimed, Closing, Connection, UserPresence
from herenow.presence import Presence
from herenow.settings import Settings
from herenow.socketio_server import ConnectRefused, Reason, Reply, Server, ServerSettings, Socket
from herenow.socketio_server.addresses import customer_of
from herenow.sparing import Sparing, alike
from herenow.supervision import WELL_S
from herenow.tenancy import SEPARATOR, key_of
from herenow.times import steady_s, to_iso
from herenow.wire import canonical_to_wire, claim_of, user_to_wire

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


HIDDEN_WITHIN_S = 1.0
"""Who asks to be invisible is told so once the store has it, or after so long: after a crash before that, the next
start would show them. While the store is away, it cannot be promised."""


REFRESHED_WITHIN_S = 10.0
"""So long an end waits for a newer token that came before it: its key may have to be fetched, which takes up to 6 s."""


class Gateway:
    """Presence over Socket.IO.

    Args:
        presence: started.
        authenticate: tells who a client is.
        path: of the Socket.IO server.
    """

    def __init__(self, presence: Presence, authenticate: Authenticate, *, path: str = "/socket.io/") -> None:
        settings = presence.settings
        self.presence = presence
        self._settings = settings
        self._authenticate = authenticate
        self._canonical = presence.store.canonical
        self._bounds = msgspec.Raw(msgspec.json.encode(presence.bounds()))
        self._expiry = Expiry()
        self._meters = presence.meters
        self._pulse = Pulse(presence.meters)
        self._sparing = Sparing()
        self._throttle = Throttle(settings, self._sparing)
        self._stopping = False
        self._clients = 0  # who is in, and who is just being let in
        self._tasks: list[asyncio.Task[None]] = []
        self.server = Server(_server_settings(settings, path), clock=presence.steady)
        self.server.supervise(presence.supervisor.failed)
        self._throttle.supervise(presence.supervisor.failed)
        self.server.engine.on_refused = lambda code: self._meters.refused.labels(code).inc()
        self.server.engine.faults.on_fault = lambda reason: self._meters.faults.labels(reason).inc()
        self._namespace = self.server.namespace("/")
        self._permission = Permission(settings.can_watch_stale_s, self._namespace.sockets.get)
        self._pace = Pace(settings.flush_interval_s, settings.flush_longest_s)
        self._audiences: dict[str | None, Audience] = {None: self._make_audience(None)}
        self.server.on_stop(self._say_goodbye)
        presence.on_evicted(self._evicted)
        strangers = Strangers(presence, lambda: self._audiences, self._namespace.sockets.get)
        presence.on_audit(strangers.look)
        self._register()

    def _register(self) -> None:
        namespace = self._namespace
        namespace.on_connect(self._connect)
        namespace.on_disconnect(self._disconnect)
        namespace.on_unknown(self._unknown)
        namespace.on_slow(self._became_slow)
        namespace.on_drain(self._drained)
        self._on("presence:watch", events.Watch, self._watch)
        self._on("presence:unwatch", events.Unwatch, self._unwatch)
        self._on("presence:get", events.Users, self._get)
        self._on("presence:active", events.Empty, self._active)
        self._on("presence:idle", events.Empty, self._idle)
        self._on("presence:claim", events.ClaimPayload, self._claim)
        self._on("presence:leave", events.Empty, self._leave)
        self._on("presence:refresh", events.Refresh, self._refresh)

    def _make_audience(self, tenant: str | None) -> Audience:
        return Audience(tenant, self.presence, self._namespace, self._pace)

    def start(self) -> None:
        """Begin to send changes; in the event loop, with a started presence. Once more after each :meth:`stop`."""
        self._stopping = False
        self._audiences = {None: self._make_audience(None)}
        self._audiences[None].open()
        self.server.engine.start_again()
        every_s = self._settings.audit_every_s
        roll_call = RollCall(
            self.presence.tenants,
            self._namespace.sockets,
            lambda socket: close(socket, may_return=True),
            self._meters,
            every_s=every_s,
        )
        keep = self.presence.supervisor.start
        self._tasks = [
            keep("expiry", self._end_the_expired),
            keep("pulse", self._pulse.run),
            keep("roll call", roll_call.run, well_s=WELL_S + 2 * every_s),
        ]
        if self.presence.can_watch is not None:
            self._tasks.append(keep("sight", self._permission.run))

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

    def _evicted(self, connections: Iterable[Connection], may_return: bool) -> None:
        """The registry has dropped these connections: close them."""
        for connection in connections:
            socket = self._namespace.sockets.get(connection.connection_id)
            if socket is not None:
                try:
                    close(socket, may_return=may_return)
                except Exception as error:  # the others are to be closed all the same; this one the roll call finds
                    self._failed("eviction", error)

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
            raise _refused(error) from error
        except Exception as error:  # the application's own, in its ``authenticate``, or ours
            self._sparing.say(log.exception, "connect failed", of=alike(error), connection=socket.id[:6])
            self._meters.refused.labels("internal").inc()
            raise _refused(WireError("internal", "the server could not do it")) from error

    async def _admit(self, socket: Socket, auth: Any) -> None:
        if self._stopping:
            raise _shutting_down()
        if self._pulse.lag_s > self._settings.overload_lag_s:
            raise WireError("overloaded", "the server is busy serving those who are in: come again in a moment")
        identity = await self._identify(auth, socket)
        if self._stopping:  # meanwhile: everyone is written offline, and nobody would write this one so
            raise _shutting_down()
        user_id, tenant = identity.user_id, identity.tenant
        if SEPARATOR in user_id:  # the application's own ``authenticate``: everything else checks ids
            raise ValueError("a user id holds no control characters")
        if self.presence.refuses_unknown:
            await self._see_that_it_is_known(tenant, user_id)
        settings = self._settings
        if self._clients >= settings.max_connections:
            is_full = "the server is full"  # to a tenant no more than that: whose connections they are is not its own
            if tenant is None:
                is_full = f"the server has its {settings.max_connections} connections"
            raise WireError("too_many_connections", is_full)
        audience = self._audiences.get(tenant) or self._open_audience(tenant)
        mine = audience.connections_of.get(user_id, 0)
        if mine >= settings.max_connections_per_user:
            raise WireError("too_many_connections", f"{user_id} has {mine} connections, which is the most")
        now_s = monotonic()
        client = Client(socket, identity, audience, TokenBucket(settings.max_events_per_s, now_s), now_s)
        socket.data = client
        self._clients += 1
        audience.count_in(user_id, lambda: TokenBucket(self._throttle.user_rate, now_s))
        address = socket.handshake.address
        try:
            client.ends_s = _steady(identity.expires_s)
            self._expiry.set(socket.id, client.ends_s)
            await audience.registry.connect(
                user_id,
                socket.id,
                node=settings.node,
                transport=socket.transport,
                address=address[0] if address else None,
            )
            client.opened_s = monotonic()  # what it asks for from now on is newer than this
            server_time = to_iso(time.time_ns() // 1_000_000)
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
        try:
            if not self._stopping:  # at the end, everyone is written offline in one go
                audience.registry.disconnect(connection_id, closing)
        except Exception as error:  # the roll call tries again
            self._failed("disconnect", error)
        try:
            audience.watches.forget(client)
            audience.outbox.forget(client)
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
        if self._stopping:  # by now
            raise _shutting_down()

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

    # -- tokens that end ---------------------------------------------------------------------------------------------

    async def _end_the_expired(self) -> None:
        while not self._stopping:
            await asyncio.sleep(1)
            now_s = steady_s()
            warn, ended = self._expiry.due(now_s)
            for connection_id in ended:
                socket = self._namespace.sockets.get(connection_id)
                if socket is None or _may_be_prolonged(socket.data, now_s):  # none yet: it is just being let in
                    self._expiry.postpone(connection_id, now_s)
                    continue
                try:
                    self._end(socket)
                except Exception as error:  # at the next look again: nobody stays beyond the token
                    self._expiry.postpone(connection_id, now_s)
                    self._failed("expiry", error)
            for connection_id in warn:
                if socket := self._namespace.sockets.get(connection_id):
                    self._notify(socket, _EXPIRING)

    def _end(self, socket: Socket) -> None:
        client: Client = socket.data
        client.closing = Closing.CLOSED  # with the grace: who comes back with a new token never flickers
        self._notify(socket, _EXPIRED)
        close(socket, may_return=True)
        log.info("token expired", **client.about)

    async def _refresh(self, client: Client, payload: events.Refresh) -> dict[str, Any]:
        client.refresh = client.refresh or asyncio.Lock()
        async with client.refresh:
            return await self._prolong(client, payload)

    async def _prolong(self, client: Client, payload: events.Refresh) -> dict[str, Any]:
        identity = await self._identify({"token": payload.token}, client.socket)
        if (identity.tenant, identity.user_id) != (client.audience.tenant, client.user_id):
            raise WireError("forbidden", "the token is another user's")
        _see_that_it_is_here(client)
        client.identity = identity
        client.ends_s = _steady(identity.expires_s)
        self._expiry.set(client.socket.id, client.ends_s)
        watches = client.audience.watches
        watches.keep(client, identity.may_watch)
        if identity.watch != "*":
            watches.unwatch_all(client)
        ends_ms = end_ms(identity.expires_s)
        return {"expires": None if ends_ms is None else to_iso(ends_ms)}

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
            if self._stopping:
                raise _shutting_down()
            return {"ok": True, **await work(client)}
        except WireError as error:
            of = client.audience.tenant, client.user_id, error.code
            self._sparing.say(log.info, "event refused", of=of, code=error.code, **client.about, event_name=event)
            return self._refusal(error)
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

    def _refusals(self, users: list[str]) -> dict[str, Any]:
        """What an answer says of the users whom its client may not see."""
        if users:
            self._meters.errors.labels("forbidden").inc()
        return events.refused_to_wire(users)

    def _unknown(self, socket: Socket, event: Any, *args: Any) -> Reply | Awaitable[dict[str, Any] | Reply]:
        async def refuse(client: Client) -> dict[str, Any]:
            raise WireError("unknown_event", f"there is no event {str(event)[:80]!r}")

        return self._limited(socket.data) or self._answer(socket.data, "unknown", refuse)

    async def _watch(self, client: Client, payload: events.Watch) -> dict[str, Any]:
        if payload.all == (payload.users is not None):
            raise WireError("bad_request", "watch either users or all")
        if payload.users is not None:
            return await self._watch_users(client, payload.users, payload.since)
        if client.identity.watch != "*":
            raise WireError("forbidden", "the token lets this user watch some users only: name them")
        if client.audience.sight is not None:
            raise WireError("forbidden", "the application says user by user who may be watched: name them")
        if payload.since is not None:
            self._throttle.charge_for(client, events.MAX_USERS_A_CALL)
        _see_that_it_is_here(client)
        client.audience.watches.watch_all(client)
        if payload.since is not None:
            newer = await self._newer(client, payload.since, None)
            if newer is not None:
                return newer
        if payload.cursor is None:
            return await client.audience.first_page(client.opened_s)
        async with self._throttle.in_turn(client, events.MAX_USERS_A_CALL):
            try:
                return await client.audience.page(payload.cursor)
            except ValueError as error:
                raise WireError("bad_request", "cursor is not one that this server gave") from error

    async def _watch_users(self, client: Client, users: list[str], since: int | None) -> dict[str, Any]:
        many = len(users) if since is None else events.MAX_USERS_A_CALL
        self._throttle.charge_for(client, many)
        async with self._throttle.in_turn(client, many):
            return await self._watch_these(client, users, since)

    async def _watch_these(self, client: Client, users: list[str], since: int | None) -> dict[str, Any]:
        users, beside = self._of_asked(users)
        seen, refused = await self._permission.part(client, users, anew=True)
        beside |= self._refusals(refused)
        _see_that_it_is_here(client)
        most, watches = self._settings.max_watched_users, client.audience.watches
        if watches.watched_by(client) + watches.adds(client, seen) > most:
            raise WireError("too_many_watches", f"a connection may watch {most} users")
        # First the watch, then the snapshot: what changes in between is sent twice rather than never.
        first = not watches.watched_by(client)
        watches.watch(client, seen)
        if first:
            self._permission.look_again_later(client)
        if since is not None:
            newer = await self._newer(client, since, frozenset(seen))
            if newer is not None:
                return newer | beside
        return await self._snapshot(client, seen) | {"full": True} | beside

    def _of_asked(self, asked: list[str]) -> tuple[list[str], dict[str, Any]]:
        """The ids of users as they are, and what the answer says of those that the client wrote otherwise."""
        users = [self._canonical(user_id) for user_id in asked]
        return users, {} if users == asked else canonical_to_wire(dict(zip(asked, users, strict=True)))

    async def _newer(self, client: Client, since: int, users: frozenset[str] | None) -> dict[str, Any] | None:
        registry = client.audience.registry
        changes = await registry.changes_since(since)
        if changes is None:
            return None
        version = registry.version
        wanted = {change.user_id: change for change in changes if users is None or change.user_id in users}
        if len(wanted) > events.MAX_USERS_A_CALL:  # a snapshot comes in pages, and this does not
            return None
        found = await self._with_own_view(client, wanted)
        return {"version": version, "users": [user_to_wire(user) for user in found.values()], "full": False}

    async def _with_own_view(self, client: Client, users: Mapping[str, UserPresence]) -> dict[str, UserPresence]:
        """Whoever is invisible still sees themselves as they are."""
        found = dict(users)
        if client.user_id in found:
            own = await client.audience.registry.own_view(client.user_id)
            found[client.user_id] = own or found[client.user_id]
        return found

    async def _unwatch(self, client: Client, payload: events.Unwatch) -> dict[str, Any]:
        if payload.all == (payload.users is not None):
            raise WireError("bad_request", "unwatch either users or all")
        if payload.users is not None:
            client.audience.watches.unwatch(client, self._of_asked(payload.users)[0])
        else:
            client.audience.watches.unwatch_all(client)
        return {}

    async def _get(self, client: Client, payload: events.Users) -> dict[str, Any]:
        self._throttle.charge_for(client, len(payload.users))
        async with self._throttle.in_turn(client, len(payload.users)):
            users, beside = self._of_asked(payload.users)
            seen, refused = await self._permission.part(client, users)
            return await self._snapshot(client, seen) | beside | self._refusals(refused)

    async def _snapshot(self, client: Client, users: list[str]) -> dict[str, Any]:
        snapshot = await self.presence.snapshot(users, tenant=client.audience.tenant)
        found = await self._with_own_view(client, snapshot.users)
        return {"version": snapshot.version, "users": client.audience.encoded.of(found.values())}

    async def _active(self, client: Client, payload: events.Empty) -> dict[str, Any]:
        await client.audience.registry.active(client.socket.id)
        return {}

    async def _idle(self, client: Client, payload: events.Empty) -> dict[str, Any]:
        await client.audience.registry.idle(client.socket.id)
        return {}

    async def _claim(self, client: Client, payload: events.ClaimPayload) -> dict[str, Any]:
        availability, text = payload.availability, payload.text
        if text is not None and len(text) > max(events.MAX_STRING, self._settings.max_status_text):
            raise WireError("too_large", f"text has more than {self._settings.max_status_text} characters")
        if availability is None:
            if text is not None or payload.until is not None:
                raise WireError("bad_request", "availability null gives the claim up: it has neither text nor until")
            claim = None
        else:
            asked = None if isinstance(availability, msgspec.UnsetType) else availability
            longest, now_ms = self._settings.max_status_text, time.time_ns() // 1_000_000
            try:
                claim = claim_of(asked, text, payload.until, longest_text=longest, now_ms=now_ms)
            except ValueError as error:
                raise WireError("bad_request", str(error)) from error
        registry = client.audience.registry
        await registry.claim(client.user_id, claim)
        if claim is not None and claim.availability is Claimed.INVISIBLE:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HIDDEN_WITHIN_S):
                    await self.presence.writer.written(key_of(client.audience.tenant, client.user_id))
        own = await registry.own_view(client.user_id)
        if own is None:
            raise WireError("internal", "the connection is closing")
        return {"user": user_to_wire(own)}

    async def _leave(self, client: Client, payload: events.Empty) -> dict[str, Any]:
        client.closing = Closing.LEFT
        # The acknowledgement goes first, then the connection.
        asyncio.get_running_loop().call_soon(lambda: close(client.socket, may_return=False))
        return {}


_EXPIRING = WireError(
    "token_expiring", f"the token ends within {WARNING_S:g} s: send presence:refresh with a newer one"
)
_EXPIRED = WireError("token_expired", "the token has expired")


def _may_be_prolonged(client: Client, now_s: float) -> bool:
    """Whether a newer token came before the old one's end, and is still being looked at: its answer decides."""
    ends_s = client.ends_s
    return client.is_refreshing and ends_s is not None and now_s < ends_s + REFRESHED_WITHIN_S


def _see_that_it_is_here(client: Client) -> None:
    """Refuse what would outlive a connection that has ended since it asked: nobody would take it back."""
    if not client.socket.connected:
        raise WireError("internal", "the connection is closing")


def _steady(ends_s: float | None) -> float | None:
    """Carry an end over to the steady clock: a wall clock that is set ahead later on must not throw everybody out."""
    return None if ends_s is None else steady_s() + ends_s - time.time()


def _shutting_down() -> WireError:
    return WireError("shutting_down", "the server is shutting down")


def _customer(socket: Socket) -> str | None:
    address = socket.handshake.address
    return None if address is None else customer_of(address[0])


def _refused(error: WireError) -> ConnectRefused:
    data: dict[str, Any] = {"code": error.code, "temporary": error.temporary}
    if error.temporary:  # not all at the same moment
        data["retryAfterMs"] = error.retry_after_ms or events.soon_ms()
    return ConnectRefused(error.message, data)


def _server_settings(settings: Settings, path: str) -> ServerSettings:
    return ServerSettings(
        path=path,
        origins="*" if settings.dev else settings.origins,
        ping_interval_ms=round(settings.ping_interval_s * 1000),
        ping_timeout_ms=round(settings.ping_timeout_s * 1000),
        max_payload=settings.max_payload,
        trusted_proxies=settings.trusted_proxies,
        max_sessions_per_address=settings.max_connections_per_address,
        connect_timeout_ms=round(settings.connect_timeout_s * 1000),
        greeting_ms=0,  # presence:ready goes with the CONNECT: who waits for it registers before (docs/wire.md)
        write_buffer_high=settings.write_buffer_high,
        write_buffer_low=settings.write_buffer_high // 4,
    )
