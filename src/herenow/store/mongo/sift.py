"""Going through all users for those whom the audit must see: the database looks, and gives only them.

They are few, and to find them costs a server less than a microsecond a user, and this process nothing. What is asked
is coarse, and may give too many: ``documents`` says what is odd, and the audit what is wrong.
"""

from typing import Any

from bson import DatetimeMS

from herenow.model import Availability
from herenow.store.base import PAGE_SIZE, RowPage
from herenow.store.mongo.connection import Document
from herenow.store.mongo.documents import Fields, from_document, to_cursor
from herenow.store.mongo.writes import BY_ID, UsersCollection, is_no_boolean
from herenow.store.rows import VERSION_UNBELIEVABLE

_ONLINE = [each.value for each in Availability if each is not Availability.OFFLINE]


async def sift(users: UsersCollection, *, after: Document | None, limit: int, version: int, after_ms: int) -> RowPage:
    """Look at the next so many users, by id, and read those who are suspicious."""
    behind: Document = {} if after is None else {"$gt": after["id"]}
    place: Document = {} if after is None else {"_id": behind}
    last = await users.collection.find(
        place, {"_id": 1}, sort=[("_id", 1)], skip=limit - 1, limit=1, hint=BY_ID
    ).to_list()
    within = {**behind, **({"$lte": last[0]["_id"]} if last else {})}
    wanted: Document = {"$or": suspicions(users.fields, version=version, after_ms=after_ms)}
    if within:
        wanted = {"_id": within, **wanted}
    find = users.collection.find(
        wanted, users.fields.projection, sort=[("_id", 1)], limit=PAGE_SIZE, batch_size=PAGE_SIZE + 1, hint=BY_ID
    )
    found = [each async for each in find]
    ends = found[-1:] if len(found) == PAGE_SIZE else last
    cursor = to_cursor({"id": ends[0]["_id"]}) if ends else None
    return RowPage(users=tuple(from_document(each, users.fields) for each in found), cursor=cursor)


def suspicions(fields: Fields, *, version: int, after_ms: int) -> list[Document]:
    """The conditions of which one makes a document suspicious.

    Args:
        fields: the names of the fields.
        version: a row that is newer has a version that nobody gave out.
        after_ms: a later `lastActive` is one that no clock has given.
    """
    return [
        is_no_boolean(fields),
        {fields.is_online: {"$type": "array"}},  # one that holds a boolean matches it
        *are_no_times(fields),
        {fields.last_active: {"$gt": DatetimeMS(after_ms)}},
        *_is_no("object", fields.presence),
        *_is_no("number", fields.version),
        {fields.version: {"$type": "double"}},
        {fields.version: {"$lt": 0}},
        {fields.version: {"$gte": min(version, VERSION_UNBELIEVABLE)}},
        {fields.availability: {"$type": "array"}},
        {fields.is_online: True, fields.availability: {"$nin": [*_ONLINE, None]}},
        {fields.is_online: {"$ne": True}, fields.availability: {"$nin": ["offline", None]}},
        {fields.claim: {"$exists": True}},
    ]


def are_no_times(fields: Fields) -> list[Document]:
    """The conditions of which one holds where `lastActive` is something that never was a time of ours."""
    return [*_is_no("date", fields.last_active), {fields.last_active: {"$lt": DatetimeMS(0)}}]


def _is_no(type_: str, field: str) -> list[Document]:
    """The conditions of which one holds where a field is there and of another type; a list of the type matches it."""
    wrong: dict[str, Any] = {"$ne": None, "$not": {"$type": type_}}
    return [{field: wrong}, {field: {"$type": "array"}}]
