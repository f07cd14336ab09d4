"""What Socket.IO and HTTP say in the same words: a user, and a user's id. See ``docs/wire.md``."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from herenow.model import MAX_USER_ID_LENGTH, Change, Claim, Claimed, UserPresence
from herenow.times import LATEST_MS, from_iso, has_zone, to_iso, to_nearest_iso

# C0 and C1 control characters, line and paragraph separators: they would break log lines and tables.
_ID: Final = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+"

USER_ID_PATTERN: Final = f"^{_ID}$"
"""For OpenAPI, where ``$`` is the end of the text. In Python's ``re`` it also matches before a last line break."""

TEXT_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
"""A status text: any characters but those that would break a line or ring a bell. For OpenAPI; see above."""

UserId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_USER_ID_LENGTH, pattern=rf"\A{_ID}\Z")]


def user_to_wire(user: UserPresence) -> dict[str, Any]:
    """A User of the contract. Times that no text has are clamped, so that one user never fails the others."""
    wire: dict[str, Any] = {
        "userId": user.user_id,
        "isOnline": user.is_online,
        "availability": user.availability,
        "lastActive": None if user.last_active_ms is None else to_nearest_iso(user.last_active_ms),
    }
    if user.status_text is not None:
        wire["statusText"] = user.status_text
    if user.status_until_ms is not None:
        wire["statusUntil"] = to_nearest_iso(user.status_until_ms)
    wire["version"] = user.version
    return wire


def change_to_wire(change: Change) -> dict[str, Any]:
    """A Change of the contract."""
    return user_to_wire(change) | {"cause": change.cause}


def encode_change(change: Change) -> bytes:
    """A Change of the contract, as JSON.

    Raises:
        ValueError: it holds what no JSON can, a lone surrogate.
    """
    return msgspec.json.encode(change_to_wire(change))


def canonical_to_wire(of_asked: Mapping[str, str]) -> dict[str, Any]:
    """Say under which ``userId`` a client finds those whose ids it wrote in another way; nothing, if there are none.

    Args:
        of_asked: by each id as it was asked for, the id as it is.
    """
    others = {asked: user_id for asked, user_id in of_asked.items() if asked != user_id}
    return {"canonical": others} if others else {}


def stale_to_wire(as_of_ms: int | None) -> dict[str, Any]:
    """Say that an answer may be old, and as of when it was true; nothing, if it is true now (``None``)."""
    return {} if as_of_ms is None else {"stale": True, "asOf": to_iso(as_of_ms)}


def claim_of(
    availability: Claimed | None, text: str | None, until: str | None, *, longest_text: int, now_ms: int
) -> Claim:
    """Make a claim of what was asked for; an empty text is none.

    Args:
        availability: what the user asks to be.
        text: their words.
        until: when that ends, ISO 8601 with a zone.
        longest_text: characters of a text, at most.
        now_ms: the time.

    Raises:
        ValueError: the text is too long; or ``until`` is no time, has no zone, has passed, or would end nothing. The
            sentence names the field.
    """
    if text is not None and len(text) > longest_text:
        raise ValueError(f"text has more than {longest_text} characters")
    if until is None:
        return Claim(availability=availability, text=text or None)
    if availability is None and not text:
        raise ValueError("until ends nothing: it goes with an availability or a text")
    until_ms = _until_ms(until)
    if until_ms <= now_ms:  # as no claim at all, it would wipe out the one before, and nobody would be told
        raise ValueError(f"until has passed: here it is {to_iso(now_ms)}")
    return Claim(availability=availability, text=text or None, until_ms=until_ms)


def _until_ms(until: str) -> int:
    try:
        until_ms = from_iso(until)
        is_moment = has_zone(until)
    except (ValueError, OverflowError) as error:
        raise ValueError("until is not an ISO 8601 time") from error
    if not is_moment:  # a browser means its own clock on the wall, and this server's may be an ocean away
        raise ValueError("until has no zone: write UTC with a Z behind it, as 2025-03-01T09:30:00Z")
    if not 0 <= until_ms <= LATEST_MS:  # a zone can carry the last day of 9999 into a year that no text has
        raise ValueError("until is not between the years 1970 and 9999")
    return until_ms
