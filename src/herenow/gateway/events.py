"""The wire contract: every payload as a checked struct, every error with its code. See ``docs/wire.md``."""

import random
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec

from herenow.model import Claimed
from herenow.wire import TEXT_PATTERN, UserId

READY: Final = "presence:ready"
DIFF: Final = "presence:diff"
ERROR: Final = "presence:error"

MAX_USERS_A_CALL: Final = 1_000
"""Users named in one event, and users in one page of a snapshot."""

MAX_STRING: Final = 1_000
"""Characters of a string from which it is called too large, where it is not allowed to be that long."""

Code = Literal[
    "unauthorized",
    "token_expired",
    "token_expiring",
    "forbidden",
    "unknown_user",
    "bad_request",
    "unknown_event",
    "too_large",
    "rate_limited",
    "too_many_connections",
    "overloaded",
    "too_many_watches",
    "slow_reader",
    "shutting_down",
    "unavailable",
    "registry_unavailable",
    "registry_back",
    "internal",
]

_TEMPORARY: Final = frozenset(
    (
        "token_expiring",
        "rate_limited",
        "too_many_connections",
        "overloaded",
        "slow_reader",
        "shutting_down",
        "unavailable",
        "registry_unavailable",
        "registry_back",
        "internal",
    )
)


class WireError(Exception):
    """What a client is told when it cannot have what it asked for.

    Args:
        code: one of the contract's.
        message: a sentence that names the thing.
        retry_after_ms: time heals it, whatever the code: the client is to try the same again after so long.
    """

    def __init__(self, code: Code, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms

    @property
    def temporary(self) -> bool:
        """Whether trying again later can help."""
        return self.retry_after_ms is not None or self.code in _TEMPORARY

    def body(self) -> dict[str, Any]:
        """The error as it goes over the wire."""
        body = {"code": self.code, "message": self.message, "temporary": self.temporary}
        return body if self.retry_after_ms is None else {**body, "retryAfterMs": self.retry_after_ms}


def soon_ms() -> int:
    """When to try again what may heal at any moment: from 1 to 5 s, and not all at the same one."""
    return random.randint(1_000, 5_000)


_TEXT: Final = TEXT_PATTERN.replace("^[", r"\A[").replace("]*$", r"]*\Z")

_PATTERN: Final = re.compile(r"matching regex '[^']*'|matching regex .*?(?= - at|$)")
_ENUM: Final = re.compile(r"Invalid enum value '.*'(?= - at|$)", re.DOTALL)

Version = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A payload from a client. Unknown fields are an error."""


class Empty(_Payload, frozen=True):
    """``presence:active``, ``presence:idle`` and ``presence:leave``."""


class UsersPayload(_Payload, frozen=True):
    """``presence:get``."""

    users: Annotated[list[UserId], msgspec.Meta(max_length=MAX_USERS_A_CALL)]


class WatchPayload(_Payload, frozen=True):
    """``presence:watch``: some users, or all of them page by page."""

    users: Annotated[list[UserId], msgspec.Meta(max_length=MAX_USERS_A_CALL)] | None = None
    all: bool = False
    since: Version | None = None
    cursor: Annotated[str, msgspec.Meta(max_length=MAX_STRING)] | None = None


class Unwatch(_Payload, frozen=True):
    """``presence:unwatch``: some users, or all."""

    users: Annotated[list[UserId], msgspec.Meta(max_length=MAX_USERS_A_CALL)] | None = None
    all: bool = False


class ClaimPayload(_Payload, frozen=True):
    """``presence:claim``; ``availability: null`` gives the claim up, a field that is left out stays as it is not."""

    availability: Claimed | msgspec.UnsetType | None = msgspec.UNSET
    text: Annotated[str, msgspec.Meta(pattern=_TEXT)] | None = None
    until: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class Refresh(_Payload, frozen=True):
    """``presence:refresh``: a newer token of the same user."""

    token: str


class Ready(msgspec.Struct, frozen=True, rename="camel"):
    """``presence:ready``, which the server sends: who the client is, and what it may rely on.

    Attributes:
        bounds: the promises, in milliseconds, as JSON.
    """

    user_id: str
    connection_id: str
    version: int
    server_time: str
    bounds: msgspec.Raw


def refused_to_wire(users: Iterable[str]) -> dict[str, Any]:
    """Say of which users an answer says nothing, as their client may not see them; nothing, if there are none."""
    refused = [{"userId": user_id, "code": "forbidden"} for user_id in users]
    return {"refused": refused} if refused else {}


def decode(kind: Any, args: tuple[Any, ...]) -> Any:
    """Check the arguments of an event: one payload, or none where all of its fields may be left out.

    Raises:
        WireError: ``bad_request``, or ``too_large``, with a sentence that names the field.
    """
    if len(args) > 1:
        raise WireError("bad_request", f"one payload is expected, not {len(args)} arguments")
    try:
        return msgspec.convert(args[0] if args else {}, kind)
    except msgspec.ValidationError as error:
        raise WireError("too_large" if _is_too_large(args) else "bad_request", _shorten(str(error))) from error


def _is_too_large(args: tuple[Any, ...]) -> bool:
    """Whether a payload that is refused holds more than any may: then less of the same can be right."""
    fields = args[0].values() if args and isinstance(args[0], dict) else ()
    for value in fields:
        if isinstance(value, list) and (len(value) > MAX_USERS_A_CALL or any(map(_is_long, value))):
            return True
    return any(map(_is_long, fields))


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and len(value) > MAX_STRING


def _shorten(sentence: str) -> str:
    """A validation error as a sentence, without a peer's own megabyte in it."""
    sentence = _PATTERN.sub("without control characters", _ENUM.sub("Invalid value", sentence))
    sentence = sentence.replace("$.", "").replace("`$`", "the payload")
    return sentence if len(sentence) <= 200 else sentence[:199] + "…"
