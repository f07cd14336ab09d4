"""Who is this: from the CONNECT payload of a client to the user that it speaks for."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from herenow.errors import SettingsInvalid
from herenow.gateway import keys
from herenow.gateway.events import WireError
from herenow.gateway.jwks import Jwks
from herenow.gateway.tokens import Verifier
from herenow.settings import Settings, is_loopback
from herenow.socketio_server import Handshake
from herenow.supervision import OnFault, tell_loop
from herenow.tenancy import Tenant
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


Authenticate = Callable[[Any, Handshake], Identity | Awaitable[Identity]]
"""Given the CONNECT payload and the request: returns the identity, or raises ``WireError``."""


class _DevAuth(msgspec.Struct, frozen=True, rename="camel"):
    user_id: UserId
    tenant: Tenant | None = None


class _TokenAuth(msgspec.Struct, frozen=True):
    token: str


def dev(auth: Any, handshake: Handshake) -> Identity:
    """Believe the user id that the client names, if it is on this machine.

    Raises:
        WireError: ``forbidden``, it is elsewhere; ``unauthorized``, there is no user id or it is not valid.
    """
    if handshake.address is not None and not is_loopback(handshake.address[0]):
        raise WireError("forbidden", "a development server believes only clients on its own machine")
    try:
        named = msgspec.convert(auth, _DevAuth)
    except msgspec.ValidationError as error:
        raise WireError("unauthorized", f'connect with {{auth: {{userId: "…"}}}}: {error}') from error
    return Identity(named.user_id, tenant=named.tenant)


def by_token(verifier: Verifier) -> Authenticate:
    """Return an authenticator for ``{auth: {token}}``: the user is the token's ``sub``."""

    async def authenticate(auth: Any, handshake: Handshake) -> Identity:
        try:
            token = msgspec.convert(auth, _TokenAuth).token
        except msgspec.ValidationError as error:
            raise WireError("unauthorized", "connect with {auth: {token}}") from error
        claims = await verifier.verify(token)
        return Identity(claims.sub, claims.exp, claims.watch, claims.tenant)

    return authenticate


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
        jwks = None if settings.jwt_jwks_url is None else Jwks(settings.jwt_jwks_url, on_fault)
        return by_token(
            Verifier(
                at_hand,
                jwks,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                leeway_s=settings.jwt_leeway_s,
            )
        )
    return dev if settings.dev else None


async def identify(authenticate: Authenticate, auth: Any, handshake: Handshake) -> Identity:
    """Run an authenticator, sync or async."""
    result = authenticate(auth, handshake)
    return await result if inspect.isawaitable(result) else result
