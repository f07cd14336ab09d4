"""Rows for the tests of the store."""

from herenow.model import Availability, StoredUser

NOW_MS = 1_740_000_000_000


def online(user_id: str, *, version: int = 1, last_active_ms: int | None = NOW_MS) -> StoredUser:
    return StoredUser(user_id, True, Availability.ONLINE, last_active_ms, None, version)


def offline(user_id: str, *, version: int = 1, last_active_ms: int | None = NOW_MS) -> StoredUser:
    return StoredUser(user_id, False, Availability.OFFLINE, last_active_ms, None, version)
