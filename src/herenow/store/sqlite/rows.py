"""A user's row as columns, and back; and the paging cursor.

Reading is tolerant, because the row may be the application's own or have been edited by hand: what cannot be understood
reads as absent. Writing is strict: what could not be read back the same is refused.
"""

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from herenow.errors import CursorInvalid
from herenow.model import Claim, Claimed, StoredUser
from herenow.store.numbers import is_number, whole_number
from herenow.store.rows import check_row, is_availability, is_version, read_availability, read_time, read_version
from herenow.store.sqlite.schema import Affinity
from herenow.times import LATEST_MS, from_iso, to_iso

Columns = tuple[str, bool, str | None, str, str | None, int]
"""The columns of ``users``, in the order of the table."""

Raw = str | bytes | int | float | None
"""A value as SQLite gives it, whatever type the application's own column has."""


_NAMES = ("isOnline", "lastActive", "presenceAvailability", "presenceClaim", "presenceVersion")


class _StoredClaim(msgspec.Struct, omit_defaults=True, rename="camel"):
    """The claim on disk: JSON, as on the wire, so that an application can read it with ``json_extract``."""

    availability: Claimed | None = None
    text: str | None = None
    until: str | None = None


def to_columns(row: StoredUser) -> Columns:
    """Turn a row into its columns.

    Raises:
        UnstorableRow: the id, a time, the text or the version cannot be stored.
    """
    check_row(row)
    last_active = None if row.last_active_ms is None else to_iso(row.last_active_ms)
    claim = None if row.claim is None else _encode_claim(row.claim)
    return (row.user_id, row.is_online, last_active, row.availability.value, claim, row.version)


def from_columns(row: Sequence[Any]) -> StoredUser:
    """Turn the columns of one user into a row.

    They are in the order of the table, but that ``isOnline`` is given as 1, 0 or, where it is neither, ``None``.
    """
    user_id, flag, last_active, availability, claim, version = row
    is_online = flag == 1
    last_active_ms = read_time(last_active)
    decoded = None if claim is None else _decode_claim(claim)
    is_odd = (
        flag is None,
        last_active is not None and (last_active_ms is None or not isinstance(last_active, str)),
        version != 0 and not is_availability(availability, is_online=is_online),  # 0: it was never ours to write
        claim is not None and decoded is None,
        not is_version(version),
    )
    return StoredUser(
        user_id=str(user_id),
        is_online=is_online,
        availability=read_availability(availability, is_online=is_online),
        last_active_ms=last_active_ms,
        claim=decoded,
        version=read_version(version),
        odd=tuple(name for name, odd in zip(_NAMES, is_odd, strict=True) if odd) if any(is_odd) else (),
        is_flag_odd=flag is None,
    )


def canonical(user_id: str, affinity: Affinity) -> str:
    """Write an id as :func:`from_columns` gives it, however a column of this affinity may be asked for it."""
    if affinity is Affinity.TEXT or not is_number(user_id):
        return user_id
    whole = None if affinity is Affinity.REAL else whole_number(user_id)
    value = float(user_id) + 0.0 if whole is None else whole  # plus nothing, for there is a -0.0
    return str(value) if math.isfinite(value) else user_id


def to_cursor(position: Sequence[Raw]) -> str:
    """Write the place of the last row of a page, in its raw values, as text that is safe in a URL.

    MessagePack, for JSON would turn a blob into text and an infinity into nothing: another place.
    """
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(position)).rstrip(b"=").decode()


def from_cursor(cursor: str, length: int, database: str) -> list[Raw]:
    """Read what ``to_cursor`` wrote.

    Raises:
        CursorInvalid: it is not that, or has another number of values.
    """
    try:
        text = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
        position: list[Any] = msgspec.msgpack.decode(text, type=list[Any])
    except (binascii.Error, msgspec.MsgspecError, UnicodeError) as error:
        raise CursorInvalid(database, "it cannot be read") from error
    if not all(map(_is_raw, position)):
        raise CursorInvalid(database, "it cannot be read")
    if len(position) != length:
        raise CursorInvalid(database, "it belongs to another list")
    return position


def _is_raw(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value is None or isinstance(value, str | bytes | float)


def _encode_claim(claim: Claim) -> str:
    until = None if claim.until_ms is None else to_iso(claim.until_ms)
    return msgspec.json.encode(_StoredClaim(claim.availability, claim.text, until)).decode()


def _decode_claim(text: str) -> Claim | None:
    try:
        stored = msgspec.json.decode(text, type=_StoredClaim)
        # Before 1970 it has ended; a zone can carry the last day of 9999 into a year that no text has.
        until_ms = None if stored.until is None else min(max(0, from_iso(stored.until)), LATEST_MS)
    except (msgspec.MsgspecError, ValueError, OverflowError, TypeError):
        return None
    return Claim(stored.availability, stored.text, until_ms)
