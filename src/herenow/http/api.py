"""The paths of the HTTP API. Each is one thin method: what it answers is decided elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Protocol

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from herenow.errors import NotStarted, Replaced
from herenow.http import errors
from herenow.http.access import Access, OfTenant
from herenow.http.errors import Refused
from herenow.http.explaining import SHOWN_CHANGES, Facts, explain
from herenow.http.following import Followers
from herenow.http.maintenance import Maintenance
from herenow.http.metrics import CONTENT_TYPE, metrics
from herenow.http.models import (
    MOST_PER_CALL,
    Alive,
    AuditHealth,
    ClaimAnswer,
    ClaimOrder,
    Cleaned,
    CleanupOrder,
    DisconnectAnswer,
    Drift,
    Explained,
    Failed,
    NodeHealth,
    OneUser,
    Online,
    Readiness,
    StaleOrder,
    Stats,
    Status,
    Users,
    UsersQuestion,
)
from herenow.model import MAX_USER_ID_LENGTH, Claim
from herenow.service import Service
from herenow.tenancy import key_of
from herenow.times import to_iso
from herenow.wire import USER_ID_PATTERN, canonical_to_wire, claim_of, stale_to_wire, user_to_wire

UserIdPath = Annotated[
    str,
    Path(alias="id", min_length=1, max_length=MAX_USER_ID_LENGTH, pattern=USER_ID_PATTERN, description="A user's id."),
]
Limit = Annotated[int, Query(ge=1, le=MOST_PER_CALL, description="Users on the page, at most.")]
Since = Annotated[int | None, Query(ge=0, lt=2**53, description="The version that you have; by default from now on.")]
LastEventId = Annotated[
    int | None,
    Header(ge=0, lt=2**53, description="What an EventSource sends when it comes back; weighs more than since."),
]
Cursor = Annotated[str | None, Query(max_length=1000, description="The cursor of the page before.")]


NOT_STARTED = "the server is starting or stopping"


class _AnyId(Convertor[str]):
    """An id in a path: it may hold slashes and, so that it is refused by name, even line breaks."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("herenow_user", _AnyId())


@dataclass(frozen=True)
class Faces:
    """What of the API an application shows.

    Attributes:
        http: the reads and claims under ``/v1``.
        admin: ``/v1/admin``, for ``admin_tokens``. The commands have a door of their own.
        health: ``/healthz``, ``/readyz`` and ``/metrics``.
        openapi: whether all of it stands in the application's OpenAPI.
    """

    http: bool = True
    admin: bool = False
    health: bool = False
    openapi: bool = False


ALL_FACES = Faces(http=True, admin=True, health=True, openapi=True)


class Heartbeats(Protocol):
    """Knows when connections last answered a heartbeat, and what carries them now."""

    def heard_ms_ago(self, connection_id: str) -> int | None:
        """How long ago a connection last answered, in milliseconds; ``None`` if it has not yet."""
        ...

    def transport_of(self, connection_id: str) -> str | None:
        """``polling`` or ``websocket``; ``None`` if the connection has gone."""
        ...


class Api:
    """The HTTP API of one :class:`~herenow.service.Service`.

    Args:
        presence: what it speaks for; it need not be started yet.
        access: who may ask.
        heartbeats: for ``explain``.
    """

    def __init__(self, presence: Service, access: Access, heartbeats: Heartbeats) -> None:
        self._presence = presence
        self._access = access
        self._heartbeats = heartbeats
        self._maintenance = Maintenance(presence)
        self.followers = Followers(presence)
        self.heard_on: Callable[[Any], None] | None = None
        """Told through which end of the server's a long request has come, as an ASGI scope says it."""

    def add_to(self, router: APIRouter, faces: Faces, prefix: str = "") -> list[errors.Route]:
        """Add the routes behind all that a router has, and return them.

        Args:
            router: what it demands of all its routes, such as ``dependencies``, it demands of ours.
            faces: what of the API.
            prefix: of every path, as in ``/presence``.
        """
        before = len(router.routes)
        add = partial(_add, router, prefix, include_in_schema=faces.openapi)
        if faces.health:
            self._add_health(add)
        if faces.http:
            self._add_presence(add)
        if faces.admin:
            self._add_maintenance(add)
        routes = [route for route in router.routes[before:] if isinstance(route, errors.Route)]
        for route in routes:
            route.answers_head = route.path.removeprefix(prefix) in ("/healthz", "/readyz")
            same = (each for each in routes if each.path == route.path)
            route.allowed = frozenset(method for each in same for method in each.methods or ())
        return routes

    def _add_health(self, add: Callable[..., None]) -> None:
        add("GET", "/healthz", self.alive, Alive, "health", "Whether the process answers", refusals=())
        add("GET", "/readyz", self.ready, Readiness, "health", "Whether it should get traffic", refusals=())
        whole = self._access.overseer
        add("GET", "/metrics", self.metrics, CONTENT_TYPE, "health", "For Prometheus", guard=whole)

    def _add_presence(self, add: Callable[..., None]) -> None:
        read: dict[str, Any] = {"tag": "presence", "guard": self._access.reader}
        add("GET", "/v1/stats", self.stats, Stats, summary="How many are online", **read)
        add("GET", "/v1/online", self.online, Online, summary="Who is online, by page", **read)
        add("POST", "/v1/users:batchGet", self.users, Users, summary="Some users", **read)
        stream = "text/event-stream"
        add("GET", "/v1/changes", self.changes, stream, summary="All changes, as they come", **read)
        claim: dict[str, Any] = {"tag": "presence", "guard": self._access.maintainer}
        path = "/v1/users/{id:herenow_user}/claim"
        add("PUT", path, self.claim, ClaimAnswer, summary="A claim on a user's behalf", **claim)
        add("DELETE", path, self.unclaim, ClaimAnswer, summary="Give a user's claim up", **claim)
        # After its longer sister: an id may hold slashes.
        add("GET", "/v1/users/{id:herenow_user}", self.user, OneUser, summary="One user", **read)

    def _add_maintenance(self, add: Callable[..., None]) -> None:
        admin: dict[str, Any] = {"tag": "maintenance", "guard": self._access.maintainer}
        add("GET", "/v1/admin/status", self.status, Status, summary="The whole picture", **admin)
        add("GET", "/v1/admin/drift", self.drift, Drift, summary="Where the store disagrees", **admin)
        path = "/v1/admin/users/{id:herenow_user}"
        add("GET", f"{path}/explain", self.explain, Explained, summary="Why a user is shown so", **admin)
        add("POST", f"{path}/disconnect", self.disconnect, DisconnectAnswer, summary="Close a user", **admin)
        add("POST", "/v1/admin/cleanup", self.cleanup, Cleaned, summary="Take everyone offline", **admin)
        add("POST", "/v1/admin/stale", self.stale, Cleaned, summary="Take the silent offline", **admin)

    # -- health ------------------------------------------------------------------------------------------------------

    async def alive(self) -> Alive:
        """Answer at all: a supervisor restarts a process that does not."""
        return Alive(alive=True)

    async def ready(self, request: Request, response: Response) -> Readiness:
        """Answer 200 where traffic is welcome, else 503, with the state of each part.

        Store and audit are shown to those who may see the whole server: their numbers tell how busy all tenants are.
        """
        readiness = self._readiness(in_full=self._access.may_see_all(request))
        if not readiness.ready:
            response.status_code = 503
        return readiness

    async def metrics(self) -> Response:
        """Give all metrics, in Prometheus' text format."""
        return Response(await metrics(self._presence), media_type=CONTENT_TYPE)

    def _readiness(self, *, in_full: bool) -> Readiness:
        presence = self._presence
        try:
            writer = self._maintenance.writer()
            audit, node = presence.audit, presence.node
        except Replaced as error:
            return Readiness(ready=False, reason=str(error))
        except NotStarted:
            return Readiness(ready=False, reason=NOT_STARTED)
        if self.followers.have_ended:  # the clients have been told, though the store is still ours
            return Readiness(ready=False, reason=NOT_STARTED)
        totals, failed = audit.totals, audit.last_error
        reason = None
        if not writer.healthy:
            reason = "the store does not take what it is given; presence goes on without it"
        elif failed is not None and not failed.temporary:  # SQLite may go on to write into a file that is damaged
            reason = "the store cannot be read; presence goes on without it"
        elif audit.undone.is_most:
            reason = "the store is wrong again each time that it is put right; presence goes on without it"
        elif ailing := presence.supervisor.ailing():
            reason = f"a part fails again and again, and is started again: {', '.join(ailing)}"
        known = NodeHealth(name=node.name, started=to_iso(node.started_ms))
        readiness = Readiness(ready=reason is None, reason=reason, node=known)
        if presence.cluster is not None and presence.cluster.away_since_s is not None:
            away = "Redis does not answer: who is online stays so, and nobody new is let in"
            readiness = readiness.model_copy(update={"degraded": away})
        if not in_full:
            return readiness
        audited = AuditHealth(
            rounds=totals.rounds,
            failures=totals.failures,
            ghosts=totals.ghosts,
            missing=totals.missing,
            wrong=totals.wrong,
            repaired=totals.repaired,
            troubles=list(audit.troubles),
            last_error=None if failed is None else str(failed),
        )
        return readiness.model_copy(update={"store": writer, "audit": audited})

    # -- reading -----------------------------------------------------------------------------------------------------

    async def stats(self, tenant: OfTenant) -> Stats:
        """Count who is online, in O(1)."""
        return self._maintenance.told(await self._presence.stats(tenant=tenant))

    async def online(self, tenant: OfTenant, limit: Limit = 100, cursor: Cursor = None) -> Any:
        """List who is online, most recently active first."""
        try:
            registry = self._presence.registry_of(tenant)
            page = await registry.online(limit, cursor)
        except ValueError as error:
            raise Refused("bad_request", "cursor: is not one that this server gave") from error
        answer = {"version": page.version, "users": [user_to_wire(user) for user in page.users]}
        answer |= stale_to_wire(registry.as_of_ms)
        return answer if page.cursor is None else {**answer, "cursor": page.cursor}

    async def user(self, user_id: UserIdPath, tenant: OfTenant) -> Any:
        """Show one user. One who was never seen is offline, ``lastActive`` ``null``."""
        user = (await self._presence.get([user_id], tenant=tenant))[user_id]
        return user_to_wire(user) | stale_to_wire(self._presence.registry_of(tenant).as_of_ms)

    async def users(self, question: UsersQuestion, tenant: OfTenant) -> Any:
        """Show some users, in the order asked for, each once.

        Where an id was not written as the database has it (`007` for 7), `canonical` says which `userId` it is.
        """
        snapshot = await self._presence.snapshot(question.users, tenant=tenant)
        users = {user.user_id: user for user in snapshot.users.values()}
        found = {"version": snapshot.version, "users": [user_to_wire(user) for user in users.values()]}
        found |= stale_to_wire(self._presence.registry_of(tenant).as_of_ms)
        return found | canonical_to_wire({asked: user.user_id for asked, user in snapshot.users.items()})

    async def changes(
        self, request: Request, tenant: OfTenant, since: Since = None, last_event_id: LastEventId = None
    ) -> StreamingResponse:
        """Follow all changes: events ``change`` with a Change each, its version as ``id``.

        ``event: reset`` says that the changes after ``since`` are not all known any more: take a snapshot, and go on
        with what follows.
        """
        if self.heard_on is not None:
            self.heard_on(request.scope.get("server"))
        stream = self.followers.follow(since if last_event_id is None else last_event_id, tenant=tenant)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )

    async def claim(self, user_id: UserIdPath, order: ClaimOrder, tenant: OfTenant) -> Any:
        """Let a user be shown as busy, say, by the calendar of your application. It replaces the claim before."""
        try:
            longest, now = self._presence.settings.max_status_text, self._presence.registry_of(tenant).now()
            claim = claim_of(order.availability, order.text, order.until, longest_text=longest, now_ms=now.unix_ms)
        except ValueError as error:
            raise Refused("bad_request", str(error)) from error
        return await self._put_claim(user_id, claim, tenant)

    async def unclaim(self, user_id: UserIdPath, tenant: OfTenant) -> Any:
        """Take a user's claim away; there need not be one."""
        return await self._put_claim(user_id, None, tenant)

    async def _put_claim(self, user_id: str, claim: Claim | None, tenant: str | None) -> Any:
        registry, user_id = self._presence.registry_of(tenant), self._presence.canonical(user_id)
        await registry.claim(user_id, claim)
        own = await registry.own_view(user_id)
        return {"user": user_to_wire(own or (await self._presence.get([user_id], tenant=tenant))[user_id])}

    # -- maintenance -------------------------------------------------------------------------------------------------

    async def explain(self, user_id: UserIdPath, tenant: OfTenant) -> Explained:
        """Say why a user is shown as they are."""
        presence = self._presence
        user_id = presence.canonical(user_id)
        key = key_of(tenant, user_id)
        live = await presence.explain(user_id, tenant=tenant)
        stored = await presence.store.read([key])
        changes = await presence.registry_of(tenant).changes_of(user_id, SHOWN_CHANGES)
        now = presence.registry_of(tenant).now().unix_ms  # after all that had to be waited for: ages count from it
        heard_ms = {}
        if live is not None:  # a connection may have moved from polling to WebSocket since it opened
            now_by = ((each, self._heartbeats.transport_of(each.connection_id)) for each in live.connections)
            connections = (msgspec.structs.replace(each, transport=by or each.transport) for each, by in now_by)
            live = msgspec.structs.replace(live, connections=tuple(connections))
        for connection in live.connections if live else ():
            ago_ms = self._heartbeats.heard_ms_ago(connection.connection_id)
            if ago_ms is not None:
                heard_ms[connection.connection_id] = now - ago_ms
        return explain(
            Facts(
                user_id=user_id,
                now_ms=now,
                live=live,
                heard_ms=heard_ms,
                stored=stored.get(key),
                is_pending=presence.writer.is_pending(key),
                settings=presence.settings,
                changes=changes,
                tenant=tenant,
                node=None if presence.cluster is None else presence.cluster.here.node,
            )
        )

    async def status(self, tenant: OfTenant) -> Status:
        """Give the whole picture: over all tenants, unless one is named. What is stored is always the whole."""
        return await self._maintenance.status(tenant)

    async def drift(self, tenant: OfTenant) -> Drift:
        """Compare the store with the registry now, and repair nothing. Over all tenants, unless one is named."""
        return await self._maintenance.drift(tenant)

    async def cleanup(self, order: CleanupOrder, tenant: OfTenant) -> Cleaned:
        """Take everyone offline who has no connection; with ``disconnect``, everyone.

        Over all tenants, unless one is named.
        """
        return await self._maintenance.cleanup(disconnect=order.disconnect, dry_run=order.dry_run, tenant=tenant)

    async def stale(self, order: StaleOrder, tenant: OfTenant) -> Cleaned:
        """Take offline in the store who was silent for so long and is not here.

        Over all tenants, unless one is named.
        """
        return await self._maintenance.stale(older_than_ms=order.older_than_ms, dry_run=order.dry_run, tenant=tenant)

    async def disconnect(self, user_id: UserIdPath, tenant: OfTenant) -> DisconnectAnswer:
        """Close all connections of a user, who is offline at once."""
        return DisconnectAnswer(closed=await self._presence.disconnect(user_id, tenant=tenant))


def include(api: Api, app: Starlette, faces: Faces, prefix: str) -> None:
    """Serve the API in an application, before all its other routes: one of them may answer every path.

    Args:
        api: what is served.
        app: where; its other paths, errors and handlers stay as they are. What a FastAPI application demands of all
            its routes, such as ``dependencies``, it demands of ours.
        faces: what of the API.
        prefix: of every path.
    """
    routes = app.router.routes
    before = len(routes)
    # FastAPI's routes work only inside a FastAPI application: in another, one of our own stands behind each path.
    inner = app if isinstance(app, FastAPI) else FastAPI(openapi_url=None)
    ours = api.add_to(inner.router, faces, prefix)
    if inner is not app:
        routes += [errors.PassedOn(path, endpoint=inner) for path in dict.fromkeys(route.path for route in ours)]
    routes[:0] = [routes.pop() for _ in range(len(routes) - before)][::-1]


def answer_in_our_form(app: FastAPI) -> None:
    """Let an application that is all ours answer unknown paths and methods in our form too."""

    async def refuse(request: Request, error: Exception) -> Response:
        return errors.respond(request, error)

    app.add_exception_handler(HTTPException, refuse)


def _add(
    router: APIRouter,
    prefix: str,
    method: str,
    path: str,
    endpoint: Callable[..., Any],
    model: type[Any] | str,
    tag: str,
    summary: str,
    *,
    guard: Callable[..., Any] | None = None,
    refusals: tuple[int, ...] = (400, 401, 403, 503),
    include_in_schema: bool,
) -> None:
    router.add_api_route(
        prefix + path,
        endpoint,
        methods=[method],
        response_model=None if isinstance(model, str) else model,
        response_model_exclude_unset=True,
        tags=[tag],
        summary=summary,
        dependencies=[] if guard is None else [Depends(guard)],
        responses={
            **{status: {"model": Failed} for status in refusals},
            **({200: {"content": {model: {"schema": {"type": "string"}}}}} if isinstance(model, str) else {}),
        },
        include_in_schema=include_in_schema,
        route_class_override=errors.Route,
    )
    route = router.routes[-1]
    assert isinstance(route, errors.Route)
    route.guard = guard
