"""Who is this: from the CONNECT payload of a client to the user that it speaks for."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
import msgspec

from herenow.gateway.events import WireError
from herenow.settings import Settings, is_loopback
from herenow.socketio_server import Handshake
from herenow.wire import UserId


class Identity(msgspec.Struct, frozen=True):
    """Who a client speaks for. ``user_id``: 1 to 128 characters, no control characters."""

    user_id: UserId


Authenticate = Callable[[Any, Handshake], Identity | Awaitable[Identity]]
"""Given the CONNECT payload and the request: returns the identity, or raises ``WireError``."""


class _DevAuth(msgspec.Struct, frozen=True, rename="camel"):
    user_id: UserId


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
        return Identity(msgspec.convert(auth, _DevAuth).user_id)
    except msgspec.ValidationError as error:
        raise WireError("unauthorized", f'connect with {{auth: {{userId: "…"}}}}: {error}') from error


def by_secret(secret: str) -> Authenticate:
    """Return an authenticator for JWTs signed with HS256: ``{auth: {token}}``, the user in ``sub``."""

    def authenticate(auth: Any, handshake: Handshake) -> Identity:
        try:
            token = msgspec.convert(auth, _TokenAuth).token
        except msgspec.ValidationError as error:
            raise WireError("unauthorized", "connect with {auth: {token}}") from error
        try:
            # The algorithm is ours to choose, never the token's (RFC 8725, section 3.1).
            claims = jwt.decode(token, secret, algorithms=["HS256"], options={"require": ["sub"], "verify_aud": False})
        except jwt.ExpiredSignatureError as error:
            raise WireError("token_expired", "the token has expired") from error
        except jwt.InvalidTokenError as error:
            raise WireError("unauthorized", "the token is not valid") from error
        try:
            return msgspec.convert({"user_id": claims["sub"]}, Identity)
        except msgspec.ValidationError as error:
            raise WireError("unauthorized", "the token's sub is not a valid user id") from error

    return authenticate


def from_settings(settings: Settings) -> Authenticate | None:
    """Return the authenticator that the settings ask for; ``None`` if they name none."""
    if settings.jwt_secret is not None:
        return by_secret(settings.jwt_secret.get_secret_value())
    return dev if settings.dev else None


async def identify(authenticate: Authenticate, auth: Any, handshake: Handshake) -> Identity:
    """Run an authenticator, sync or async."""
    result = authenticate(auth, handshake)
    return await result if inspect.isawaitable(result) else result
