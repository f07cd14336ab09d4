"""The ids of users, as the application's collection has them: ObjectIds, strings, whole numbers or UUIDs.

herenow's ids are strings. Each kind has one way to write an id, and only that one counts: "507F…" is not the user
"507f…", or the registry would have two users where the collection has one.
"""

from enum import StrEnum
from typing import Any
from uuid import UUID

from bson import Int64, ObjectId
from bson.errors import InvalidId

from herenow.store.rows import can_be_id
from herenow.tenancy import SEPARATOR


class IdKind(StrEnum):
    """What the ``_id`` of users is."""

    OBJECT_ID = "ObjectId"
    STRING = "string"
    NUMBER = "whole number"
    UUID = "UUID"


RawId = ObjectId | str | int | UUID


def kind_of(raw: Any) -> IdKind | None:
    """Say which kind an ``_id`` is; ``None`` if it is one that herenow does not know."""
    match raw:
        case ObjectId():
            return IdKind.OBJECT_ID
        case str():
            return IdKind.STRING
        case bool():
            return None
        case int():
            return IdKind.NUMBER
        case float() if raw.is_integer():
            return IdKind.NUMBER  # old shells write every number so
        case UUID():
            return IdKind.UUID
        case _:
            return None


def to_raw(user_id: str, kind: IdKind) -> RawId | None:
    """Turn a user's id into an ``_id`` of a kind; ``None`` if no ``_id`` of that kind is written so."""
    if not can_be_id(user_id):
        return None
    raw = _parse(user_id, kind)
    return raw if raw is not None and from_raw(raw) == user_id else None


def from_raw(raw: Any) -> str:
    """Turn an ``_id`` into a user's id.

    One that would read as a tenant's key is no id that can come from outside: it becomes one that nobody has.
    """
    user_id = str(int(raw)) if isinstance(raw, float) and raw.is_integer() else str(raw)
    return user_id.replace(SEPARATOR, "\N{REPLACEMENT CHARACTER}")


def _parse(user_id: str, kind: IdKind) -> RawId | None:
    try:
        match kind:
            case IdKind.OBJECT_ID:
                return ObjectId(user_id)
            case IdKind.STRING:
                return user_id
            case IdKind.UUID:
                return UUID(user_id)
            case IdKind.NUMBER if user_id.removeprefix("-").isdecimal() and len(user_id) <= 20:
                number = int(user_id)
                return Int64(number) if -(2**63) <= number < 2**63 else None
    except (InvalidId, ValueError):
        pass
    return None
