"""Users as JSON, each encoded once for all who ask, until they change: a thousand who come back at once ask at once."""

from collections.abc import Iterable

import msgspec

from herenow.model import UserPresence
from herenow.wire import user_to_wire

MOST_KEPT = 10_000
"""Encoded users in memory, at most; then all are dropped, and those who are asked for come back."""


class EncodedUsers:
    """Keeps what was encoded beside the user that it was encoded from: only the very same object is the same user."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[UserPresence, bytes]] = {}

    def of(self, users: Iterable[UserPresence]) -> msgspec.Raw:
        """Return users as they go over the wire: a JSON array."""
        kept = self._kept
        encoded = []
        for user in users:
            known = kept.get(user.user_id)
            if known is None or known[0] is not user:
                if len(kept) >= MOST_KEPT:
                    kept.clear()
                known = kept[user.user_id] = user, msgspec.json.encode(user_to_wire(user))
            encoded.append(known[1])
        return msgspec.Raw(b"[" + b",".join(encoded) + b"]")
