"""Who is this: from the CONNECT payload of a client to the user that it speaks for."""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

import msgspec

from herenow.errors import SettingsInvalid
from herenow.gateway.auth import keys
from herenow.gateway.auth.jwks import Jwks
from herenow.gateway.auth.tokens import Verifier
from herenow.gateway.events import WireError
from herenow.settings import Settings
from herenow.socketio_server import Handshake
from herenow.socketio_server.engineio.addresses import Proxies
from herenow.supervision import OnFault, tell_loop
from herenow.tenancy import Tenant
from herenow.urls import is_safe_url
from herenow.wire import UserId


class Identity(msgspec.Struct, frozen=True):
    """Who a client speaks for, for how long, and whom it may ask about.

    Attributes:
        user_id: 1 to 128 characters, no control characters.
        expires_s: when the connection ends unless it is refreshed, in seconds since 1970; ``None``: never.
        watch: whom it may watch and get; ``"*"`` for everybody.
        tenant: whose user it is, 1 to 64 letters, digits, dots, underscores and dashes. Users of different tenants
            never hear of each other, whatever else they may; those of no tenant are apart in the same way.
    """

    user_id: UserId
    expires_s: float | None = None
    watch: Literal["*"] | frozenset[UserId] = "*"
    tenant: str | None = None

    def may_watch(self, user_id: str) -> bool:
        """Whether it may ask about a user. Everybody may ask about themselves."""
        return self.watch == "*" or user_id == self.user_id or user_id in self.watch

    def in_one_way(self, canonical: Callable[[str], str]) -> "Identity":
        """Return the same with all ids written in the one way that ``canonical`` gives."""
        user_id = canonical(self.user_id)
        if self.watch == "*":
            return self if user_id == self.user_id else msgspec.structs.replace(self, user_id=user_id)
        return msgspec.structs.replace(self, user_id=user_id, watch=frozenset(map(canonical, self.watch)))


Authenticate = Callable[[Any, Handshake], Identity | Awaitable[Identity]]
"""Given the CONNECT payload and the request: returns the identity, or raises ``WireError``."""


class _DevAuth(msgspec.Struct, frozen=True, rename="camel"):
    user_id: UserId
    tenant: Tenant | None = None


class _TokenAuth(msgspec.Struct, frozen=True):
    token: str | None = None


_NOBODY = Proxies(())


def dev(auth: Any, handshake: Handshake) -> Identity:
    """Believe the user id that the client names, if it is on this machine, and no proxy brought it from elsewhere.

    Raises:
        WireError: ``forbidden``, it is elsewhere; ``unauthorized``, there is no user id or it is not valid.
    """
    if not _NOBODY.is_here(handshake.address[0] if handshake.address else None, handshake.headers):
        raise WireError("forbidden", "a development server believes only clients on its own machine")
    try:
        named = msgspec.convert(auth, _DevAuth)
    except msgspec.ValidationError as error:
        raise WireError("unauthorized", f'connect with {{auth: {{userId: "…"}}}}: {error}') from error
    return Identity(named.user_id, tenant=named.tenant)


def by_token(verifier: Verifier) -> Authenticate:
    """Return an authenticator for ``{auth: {token}}``, or ``Authorization: Bearer`` in the handshake.

    The user is the token's ``sub``, or what ``jwt_user_claim`` names; the leeway counts for the connection's end too.
    """

    async def authenticate(auth: Any, handshake: Handshake) -> Identity:
        try:
            token = None if auth is None else msgspec.convert(auth, _TokenAuth).token
        except msgspec.ValidationError as error:
            raise WireError("unauthorized", "connect with {auth: {token}}, a text") from error
        if token is None:
            token = _bearer(handshake)
        claims = await verifier.verify(token)
        ends_s = None if claims.exp is None else claims.exp + verifier.leeway_s
        return Identity(claims.user_id, ends_s, claims.watch, claims.tenant)

    return authenticate


def _bearer(handshake: Handshake) -> str:
    """The token that a native client sends with its request; a browser's WebSocket cannot."""
    scheme, _, token = (handshake.header("authorization") or "").partition(" ")
    if scheme.lower() != "bearer":
        raise WireError("unauthorized", "connect with {auth: {token}}, or with the header Authorization: Bearer")
    return token.strip()


def from_settings(settings: Settings, on_fault: OnFault = tell_loop) -> Authenticate | None:
    """Return the authenticator that the settings ask for; ``None`` if they name none.

    Args:
        settings: as they are.
        on_fault: told of a fault in what goes on beside.

    Raises:
        SettingsInvalid: a key cannot be used.
    """
    try:
        at_hand = keys.of_settings(settings)
    except keys.KeyUnfit as error:
        raise SettingsInvalid(str(error)) from error
    if at_hand or settings.jwt_jwks_url is not None:
        url = settings.jwt_jwks_url
        allowed = partial(is_safe_url, http=settings.jwt_jwks_allow_http)
        jwks = None if url is None else Jwks(url, allowed, on_fault)
        return by_token(
            Verifier(
                at_hand,
                jwks,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                leeway_s=settings.jwt_leeway_s,
                user_claim=settings.jwt_user_claim,
            )
        )
    return dev if settings.dev else None


async def identify(authenticate: Authenticate, auth: Any, handshake: Handshake) -> Identity:
    """Run an authenticator, sync or async."""
    result = authenticate(auth, handshake)
    return await result if inspect.isawaitable(result) else result
