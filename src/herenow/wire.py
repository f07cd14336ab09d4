"""What Socket.IO and HTTP say in the same words: a user, and a user's id. See ``docs/wire.md``."""

from typing import Annotated, Any, Final

import msgspec

from herenow.model import MAX_USER_ID_LENGTH, UserPresence
from herenow.times import to_iso

# C0 and C1 control characters, line and paragraph separators: they would break log lines and tables.
_ID: Final = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+"

USER_ID_PATTERN: Final = f"^{_ID}$"
"""For OpenAPI, where ``$`` is the end of the text. In Python's ``re`` it also matches before a last line break."""

UserId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_USER_ID_LENGTH, pattern=rf"\A{_ID}\Z")]


def user_to_wire(user: UserPresence) -> dict[str, Any]:
    """A User of the contract."""
    wire: dict[str, Any] = {
        "userId": user.user_id,
        "isOnline": user.is_online,
        "availability": user.availability,
        "lastActive": None if user.last_active_ms is None else to_iso(user.last_active_ms),
    }
    if user.status_text is not None:
        wire["statusText"] = user.status_text
    if user.status_until_ms is not None:
        wire["statusUntil"] = to_iso(user.status_until_ms)
    wire["version"] = user.version
    return wire
