"""What every store asks of a row, and how it reads one that the application or a person has edited.

Reading is tolerant: what cannot be understood reads as absent. Writing is strict: what could not be read back the same
is refused.
"""

import re

from herenow.model import Availability, StoredUser, UserPresence
from herenow.times import LATEST_MS, from_iso

VERSION_LIMIT = 2**53
"""Versions are below it: the first whole number that a JavaScript number no longer tells from its neighbour."""

VERSION_UNBELIEVABLE = 2**52
"""No clock gives this version before the year 2112: what is there, or no number at all, another program wrote."""

CLOCK_SLACK_MS = 60_000
"""How far ahead of ours the clock of another program may be: a `lastActive` after that, no clock has given."""

_SHOWN_ONLINE = (Availability.ONLINE, Availability.AWAY, Availability.BUSY)
_SURROGATE = re.compile("[\ud800-\udfff]")


class UnstorableRow(ValueError):
    """A row that could not be read back as it was given. Its text says why."""


def can_be_id(user_id: str) -> bool:
    """Say whether a store can hold a user of this id.

    SQLite's JSON functions would cut it at a null character, and a lone surrogate has no UTF-8.
    """
    return user_id != "" and "\0" not in user_id and not _SURROGATE.search(user_id)


def check_row(row: StoredUser) -> None:
    """Make sure that a row can be stored.

    Raises:
        UnstorableRow: the id, a time, the text or the version cannot.
    """
    if not can_be_id(row.user_id):
        raise UnstorableRow("its id is empty, or has a null character or a lone surrogate")
    if not 0 < row.version < VERSION_LIMIT:
        raise UnstorableRow(f"its version {row.version} is not between 1 and 2^53")
    _check_time(row.last_active_ms)
    if row.claim is not None:
        _check_time(row.claim.until_ms)
        if row.claim.text is not None and _SURROGATE.search(row.claim.text):
            raise UnstorableRow("its text has lone surrogates")


def is_storable(row: StoredUser) -> bool:
    """Say whether a store can hold a row, whatever rules its database has."""
    try:
        check_row(row)
    except UnstorableRow:
        return False
    return True


def read_time(value: object) -> int | None:
    """Read a time as some program may have written it: ISO 8601 text, or milliseconds since 1970.

    Anything else is ``None``, and so is a time that no four digits of year can say, as microseconds give it.
    """
    try:
        if isinstance(value, str):
            time_ms = from_iso(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            time_ms = int(value)
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return time_ms if 0 <= time_ms <= LATEST_MS else None


def read_version(value: object) -> int:
    """Read a version; 0 where it cannot be one, so that any row of ours is newer.

    A shell in which somebody edited the row may have made a floating-point number of it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 < value < VERSION_UNBELIEVABLE else 0


def is_version(value: object) -> bool:
    """Say whether a value is a version that ``read_version`` reads as it is; 0 is none yet."""
    return not isinstance(value, bool) and value in (0, read_version(value))


def is_availability(value: object, *, is_online: bool) -> bool:
    """Say whether this is how a user is shown who is online, or is not."""
    return value in _SHOWN_ONLINE if is_online else value == Availability.OFFLINE


def read_availability(value: object, *, is_online: bool) -> Availability:
    """Read how a user is shown. ``is_online`` decides: the application may have set it alone."""
    if not is_online:
        return Availability.OFFLINE
    if value == Availability.AWAY:
        return Availability.AWAY
    return Availability.BUSY if value == Availability.BUSY else Availability.ONLINE


def _check_time(time_ms: int | None) -> None:
    if time_ms is not None and not 0 <= time_ms <= LATEST_MS:
        raise UnstorableRow(f"{time_ms} ms is not between the years 1970 and 9999")


def as_offline(user_id: str, row: StoredUser | None, version: int) -> UserPresence:
    """A user who is not in the registry: offline, whatever the store says; it only knows since when.

    A row may be ahead of ``version``, the registry's, if another program wrote it: clients, who keep what has the
    higher version, would then not believe the next change.
    """
    if row is None:
        return UserPresence(user_id, False, Availability.OFFLINE, None, None, None, 0)
    stored = min(row.version, version)
    return UserPresence(user_id, False, Availability.OFFLINE, row.last_active_ms, None, None, stored)
