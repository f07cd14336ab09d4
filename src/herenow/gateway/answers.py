"""What a client may ask and say once it is in, and what it is answered. Who is online the registry decides."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec

from herenow.errors import RegistryUnavailable
from herenow.gateway import events
from herenow.gateway.access.permission import Permission
from herenow.gateway.access.throttle import Throttle
from herenow.gateway.client import Client
from herenow.gateway.events import WireError
from herenow.model import Claimed, UserPresence
from herenow.service import Service
from herenow.tenancy import key_of
from herenow.wire import canonical_to_wire, claim_of, stale_to_wire, user_to_wire

HIDDEN_WITHIN_S = 1.0
"""Who asks to be invisible is told so once the store has it, or after so long: after a crash before that, the next
start would show them. While the store is away, it cannot be promised."""


class Answers:
    """Answers the events of clients: each method is one event, and returns the acknowledgement without its ``ok``.

    Each raises :class:`~herenow.gateway.events.WireError` where the event is refused.

    Args:
        presence: whom it asks.
        permission: whom a client may see.
        throttle: how much it may ask at once.
    """

    def __init__(self, presence: Service, permission: Permission, throttle: Throttle) -> None:
        self._presence = presence
        self._settings = presence.settings
        self._canonical = presence.store.canonical
        self._meters = presence.meters
        self._permission = permission
        self._throttle = throttle

    async def watch(self, client: Client, payload: events.WatchPayload) -> dict[str, Any]:
        """Watch users, or all, and answer with how they are, or with what is newer than the client knows."""
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
        see_that_it_is_here(client)
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
        see_that_it_is_here(client)
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
        answer = {"version": version, "users": [user_to_wire(user) for user in found.values()], "full": False}
        return answer | stale_to_wire(registry.as_of_ms)

    async def _with_own_view(self, client: Client, users: Mapping[str, UserPresence]) -> dict[str, UserPresence]:
        """Whoever is invisible still sees themselves as they are."""
        found = dict(users)
        if client.user_id in found:
            with contextlib.suppress(RegistryUnavailable):  # as others see them, then
                own = await client.audience.registry.own_view(client.user_id)
                found[client.user_id] = own or found[client.user_id]
        return found

    async def unwatch(self, client: Client, payload: events.Unwatch) -> dict[str, Any]:
        """Watch users, or all, no more."""
        if payload.all == (payload.users is not None):
            raise WireError("bad_request", "unwatch either users or all")
        if payload.users is not None:
            client.audience.watches.unwatch(client, self._of_asked(payload.users)[0])
        else:
            client.audience.watches.unwatch_all(client)
        return {}

    async def get(self, client: Client, payload: events.UsersPayload) -> dict[str, Any]:
        """Answer with how users are, and watch nobody."""
        self._throttle.charge_for(client, len(payload.users))
        async with self._throttle.in_turn(client, len(payload.users)):
            users, beside = self._of_asked(payload.users)
            seen, refused = await self._permission.part(client, users)
            return await self._snapshot(client, seen) | beside | self._refusals(refused)

    async def _snapshot(self, client: Client, users: list[str]) -> dict[str, Any]:
        snapshot = await self._presence.snapshot(users, tenant=client.audience.tenant)
        found = await self._with_own_view(client, snapshot.users)
        users_of = client.audience.encoded.of(found.values())
        return {"version": snapshot.version, "users": users_of} | stale_to_wire(client.audience.registry.as_of_ms)

    async def active(self, client: Client, payload: events.Empty) -> dict[str, Any]:
        """The device was used."""
        await client.audience.registry.active(client.user_id, client.socket.id)
        return {}

    async def idle(self, client: Client, payload: events.Empty) -> dict[str, Any]:
        """The device has not been used for a while."""
        await client.audience.registry.idle(client.user_id, client.socket.id)
        return {}

    async def claim(self, client: Client, payload: events.ClaimPayload) -> dict[str, Any]:
        """Ask to be shown otherwise, or no more; answer with how the user sees themselves."""
        availability, text = payload.availability, payload.text
        if text is not None and len(text) > max(events.MAX_STRING, self._settings.max_status_text):
            raise WireError("too_large", f"text has more than {self._settings.max_status_text} characters")
        if availability is None:
            if text is not None or payload.until is not None:
                raise WireError("bad_request", "availability null gives the claim up: it has neither text nor until")
            claim = None
        else:
            asked = None if isinstance(availability, msgspec.UnsetType) else availability
            longest, now_ms = self._settings.max_status_text, client.audience.registry.now().unix_ms
            try:
                claim = claim_of(asked, text, payload.until, longest_text=longest, now_ms=now_ms)
            except ValueError as error:
                raise WireError("bad_request", str(error)) from error
        registry = client.audience.registry
        await registry.claim(client.user_id, claim)
        if claim is not None and claim.availability is Claimed.INVISIBLE:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HIDDEN_WITHIN_S):
                    await self._presence.writer.written(key_of(client.audience.tenant, client.user_id))
        own = await registry.own_view(client.user_id)
        if own is None:
            raise WireError("internal", "the connection is closing")
        return {"user": user_to_wire(own)}

    def _refusals(self, users: list[str]) -> dict[str, Any]:
        """What an answer says of the users whom its client may not see."""
        if users:
            self._meters.errors.labels("forbidden").inc()
        return events.refused_to_wire(users)


def see_that_it_is_here(client: Client) -> None:
    """Refuse what would outlive a connection that has ended since it asked: nobody would take it back."""
    if not client.socket.connected:
        raise WireError("internal", "the connection is closing")
