"""The ids of users, as the application's collection has them: ObjectIds, strings, whole numbers or UUIDs.

herenow's ids are strings. Each kind has one way to write an id: a user who comes as "507F…" is the user "507f…", or the
registry would have two users where the collection has one. Strings have no other way than their own: whether two that
look alike are one, is the application's to know.
"""

import re
from enum import StrEnum
from typing import Any
from uuid import UUID

from bson import Int64, ObjectId
from bson.errors import InvalidId

from herenow.store.numbers import whole_number
from herenow.store.rows import can_be_id
from herenow.tenancy import SEPARATOR


class IdKind(StrEnum):
    """What the ``_id`` of users is."""

    OBJECT_ID = "ObjectId"
    STRING = "string"
    NUMBER = "whole number"
    UUID = "UUID"


RawId = ObjectId | str | int | UUID

_OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}")
_UUID = re.compile(
    r"(?:urn:uuid:)?\{?[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}\}?", re.IGNORECASE
)


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


def canonical(user_id: str, kind: IdKind) -> str:
    """Write an id in the one way of its kind; what is written like no ``_id`` of that kind stays as it is."""
    match kind:
        case IdKind.OBJECT_ID:
            return user_id.lower() if _OBJECT_ID.fullmatch(user_id) else user_id
        case IdKind.UUID:
            return str(UUID(user_id)) if _UUID.fullmatch(user_id) else user_id
        case IdKind.NUMBER:
            number = whole_number(user_id)
            return user_id if number is None else str(number)
        case IdKind.STRING:
            return user_id


def to_raw(user_id: str, kind: IdKind) -> RawId | None:
    """Turn a user's id in its one way into an ``_id`` of a kind; ``None`` if no ``_id`` of that kind is written so."""
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
            case IdKind.NUMBER:
                number = whole_number(user_id)
                return None if number is None else Int64(number)
    except (InvalidId, ValueError):
        pass
    return None
