"""A user's row as fields of the application's document, and back; and the paging cursor.

The three fields::

    isOnline: true
    lastActive: ISODate("2025-02-19T21:20:00.250Z")
    presence: { availability: "busy", version: Long, claim: { availability, text, until } }

The first two are for the application to read; the third is herenow's own, and is always written whole. Their names are
settings. Reading is tolerant: what cannot be understood reads as absent.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import bson
import msgspec
from bson import DatetimeMS, Int64
from bson.errors import BSONError

from herenow.errors import CursorInvalid
from herenow.model import Claim, Claimed, StoredUser
from herenow.store.mongo.connection import CODEC, Document
from herenow.store.mongo.ids import from_raw
from herenow.store.rows import is_availability, is_version, read_availability, read_time, read_version
from herenow.tenancy import is_tenant, key_of
from herenow.times import LATEST_MS

NEVER = DatetimeMS(0)
"""What ``init`` fills a missing ``lastActive`` with: a date, so that no program that expects one fails."""


class Fields(msgspec.Struct, frozen=True):
    """The names of the three fields, the paths into the third, and the application's own of a user's tenant."""

    is_online: str = "isOnline"
    last_active: str = "lastActive"
    presence: str = "presence"
    tenant: str | None = None

    @property
    def version(self) -> str:
        return f"{self.presence}.version"

    @property
    def availability(self) -> str:
        return f"{self.presence}.availability"

    @property
    def claim(self) -> str:
        return f"{self.presence}.claim"

    @property
    def projection(self) -> dict[str, int]:
        """All that herenow reads of a document."""
        return {self.is_online: 1, self.last_active: 1, self.presence: 1, **self.identity}

    @property
    def identity(self) -> dict[str, int]:
        """What of a document says whose it is."""
        return {"_id": 1} if self.tenant is None else {"_id": 1, self.tenant: 1}


def to_document(row: StoredUser, fields: Fields) -> Document:
    """Turn a row that ``check_row`` accepts into the fields that hold it."""
    presence: Document = {"availability": row.availability.value, "version": Int64(row.version)}
    if row.claim is not None:
        presence["claim"] = _to_claim(row.claim)
    return {
        fields.is_online: row.is_online,
        fields.last_active: to_date(row.last_active_ms),
        fields.presence: presence,
    }


def from_document(document: Mapping[str, Any], fields: Fields) -> StoredUser:
    """Turn a user's document into a row."""
    stored = document.get(fields.presence)
    presence = stored if isinstance(stored, dict) else {}
    is_online = document.get(fields.is_online) is True
    odd = _find_odd(document, fields, stored, presence)
    version = read_version(presence.get("version"))
    last_active_ms = _read_date(document.get(fields.last_active))
    return StoredUser(
        user_id=key_in(document, fields),
        is_online=is_online,
        availability=read_availability(presence.get("availability"), is_online=is_online),
        last_active_ms=None if version == 0 and last_active_ms == int(NEVER) else last_active_ms,
        claim=_read_claim(presence.get("claim")),
        version=version,
        odd=odd,
        is_flag_odd=fields.is_online in odd,
    )


def _find_odd(
    document: Mapping[str, Any], fields: Fields, stored: object, presence: Mapping[str, Any]
) -> tuple[str, ...]:
    """Name the fields that hold what neither herenow nor an application that knows of it would have written."""
    is_online, last_active = document.get(fields.is_online), document.get(fields.last_active)
    odd: list[str] = []
    if is_online is not None and not isinstance(is_online, bool):
        odd.append(fields.is_online)
    if last_active is not None and not _is_date(last_active):
        odd.append(fields.last_active)
    if stored is None:
        return tuple(odd)
    if not isinstance(stored, dict):
        odd.append(fields.presence)
        return tuple(odd)
    if not is_version(presence.get("version", 0)):
        odd.append(fields.version)
    if "availability" in presence and not is_availability(presence["availability"], is_online=is_online is True):
        odd.append(fields.availability)
    if "claim" in presence and _read_claim(presence["claim"]) is None:
        odd.append(fields.claim)
    return tuple(odd)


def to_date(time_ms: int | None) -> DatetimeMS | None:
    """Write a time as MongoDB's date."""
    return None if time_ms is None else DatetimeMS(time_ms)


def key_in(document: Mapping[str, Any], fields: Fields) -> str:
    """Say whose document it is: by its id and, where the collection has them, its tenant. No valid tenant is none."""
    tenant = None if fields.tenant is None else document.get(fields.tenant)
    return key_of(tenant if is_tenant(tenant) else None, from_raw(document["_id"]))


def to_cursor(place: Document) -> str:
    """Write a place in a list, in its raw values, as text that is safe in a URL."""
    return base64.urlsafe_b64encode(bson.encode(place, codec_options=CODEC)).rstrip(b"=").decode()


def from_cursor(cursor: str, names: Sequence[str], database: str) -> Document:
    """Read what ``to_cursor`` wrote.

    Raises:
        CursorInvalid: it is not that, or holds other values than those named.
    """
    try:
        raw = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
        place = bson.decode(raw, codec_options=CODEC)
    except (binascii.Error, BSONError, UnicodeError) as error:
        raise CursorInvalid(database, "it cannot be read") from error
    if list(place) != list(names):
        raise CursorInvalid(database, "it belongs to another list")
    return place


def _read_date(value: object) -> int | None:
    """Read a date; what only could be one, as well as it can."""
    return read_time(int(value) if isinstance(value, DatetimeMS) else value)


def _is_date(value: object) -> bool:
    return isinstance(value, DatetimeMS) and 0 <= int(value) <= LATEST_MS


def _to_claim(claim: Claim) -> Document:
    parts = {
        "availability": None if claim.availability is None else claim.availability.value,
        "text": claim.text,
        "until": to_date(claim.until_ms),
    }
    return {name: part for name, part in parts.items() if part is not None}


def _read_claim(value: object) -> Claim | None:
    if not isinstance(value, dict):
        return None
    availability, text = value.get("availability"), value.get("text")
    try:
        claimed = None if availability is None else Claimed(availability)
    except ValueError:
        return None
    return Claim(claimed, text if isinstance(text, str) else None, _read_until(value.get("until")))


def _read_until(value: object) -> int | None:
    """Read when a claim ends: before 1970, it has; after the year 9999 is as late as can be said."""
    return min(max(0, int(value)), LATEST_MS) if isinstance(value, DatetimeMS) else read_time(value)
