"""What Socket.IO and HTTP say in the same words: a user, and a user's id. See ``docs/wire.md``."""

from typing import Annotated, Any, Final

import msgspec

from herenow.model import MAX_USER_ID_LENGTH, Change, Claim, Claimed, UserPresence
from herenow.times import LATEST_MS, from_iso, to_nearest_iso

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


def claim_of(availability: Claimed | None, text: str | None, until: str | None, *, longest_text: int) -> Claim:
    """Make a claim of what was asked for; an empty text is none.

    Raises:
        ValueError: the text is too long, or ``until`` is no time; the sentence names the field.
    """
    if text is not None and len(text) > longest_text:
        raise ValueError(f"text has more than {longest_text} characters")
    return Claim(availability=availability, text=text or None, until_ms=None if until is None else _until_ms(until))


def _until_ms(until: str) -> int:
    try:
        until_ms = from_iso(until)
    except (ValueError, OverflowError) as error:
        raise ValueError("until is not an ISO 8601 time") from error
    if not 0 <= until_ms <= LATEST_MS:  # a zone can carry the last day of 9999 into a year that no text has
        raise ValueError("until is not between the years 1970 and 9999")
    return until_ms
