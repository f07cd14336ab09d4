"""Reading users: by id, page by page, and counted.

Whoever asks who is online walks along the index ``herenow_online`` from one of its keys, ``[true, lastActive, _id]``.
That is one bound, and not a comparison: it holds over values of all types, so that also somebody whose ``lastActive``
is missing or no date is on exactly one page. A page is its own query; no cursor is left open in the server.
"""

from collections.abc import Collection
from typing import Any

from bson import DatetimeMS, MaxKey, MinKey

from herenow.model import StoredUser
from herenow.store import mongo_indexes
from herenow.store.base import PAGE_SIZE, Counts, Page
from herenow.store.mongo_connection import Document
from herenow.store.mongo_documents import from_document, key_in, to_cursor
from herenow.store.mongo_tenants import are_theirs, to_identity
from herenow.store.mongo_writes import BY_ID, Users, Whose, is_online_since_before
from herenow.store.rows import VERSION_UNBELIEVABLE

PLACE = ("lastActive", "id")
"""What the cursor of a page of users online holds: where in the order the last of them stands."""

CLAIM_PLACE = ("id",)
"""The same of users with a claim."""

_END: tuple[Any, Any, Any] = (True, MinKey(), MinKey())
"""Where those online end in the index."""


async def read(users: Users, user_ids: Collection[str]) -> dict[str, StoredUser]:
    """Read users by id."""
    found_ids = (to_identity(user_id, users.fields, users.kind) for user_id in user_ids)
    whose = [identity for identity in found_ids if identity is not None]
    rows: dict[str, StoredUser] = {}
    for start in range(0, len(whose), PAGE_SIZE):
        wanted = are_theirs(whose[start : start + PAGE_SIZE], users.fields)
        found = users.collection.find(wanted, users.fields.projection, hint=BY_ID, batch_size=PAGE_SIZE + 1)
        rows.update({row.user_id: row async for row in (from_document(each, users.fields) async for each in found)})
    return rows


async def read_present(users: Users, user_ids: Collection[str]) -> set[str]:
    """Say who of the users is there; without tenants from the index alone."""
    found_ids = (to_identity(user_id, users.fields, users.kind) for user_id in user_ids)
    whose = [identity for identity in found_ids if identity is not None]
    present: set[str] = set()
    for start in range(0, len(whose), PAGE_SIZE):
        wanted = are_theirs(whose[start : start + PAGE_SIZE], users.fields)
        found = users.collection.find(wanted, users.fields.identity, hint=BY_ID, batch_size=PAGE_SIZE + 1)
        present.update([key_in(each, users.fields) async for each in found])
    return present


async def read_online_page(users: Users, *, after: Document | None, before_ms: int | None, limit: int) -> Page:
    """Read a page of those online, or of those of them last active before a moment, or never."""
    # one more than the page, to know whether another follows
    projection = users.fields.projection
    found = await _walk_online(users, projection, after=after, before_ms=before_ms, limit=limit + 1)
    cursor = to_cursor(_place_of(found[limit - 1], users)) if len(found) > limit else None
    return Page(users=tuple(from_document(each, users.fields) for each in found[:limit]), cursor=cursor)


async def read_online_places(
    users: Users, *, after: Document | None, before_ms: int | None, limit: int
) -> list[tuple[Document, Whose]]:
    """Read only where those online stand in the order, and who they are; without tenants from the index alone."""
    projection = {**users.fields.identity, users.fields.last_active: 1}
    found = await _walk_online(users, projection, after=after, before_ms=before_ms, limit=limit)
    return [(_place_of(each, users), Whose(each["_id"], key_in(each, users.fields))) for each in found]


async def _walk_online(
    users: Users, projection: dict[str, int], *, after: Document | None, before_ms: int | None, limit: int
) -> list[Document]:
    """Read up to ``limit`` documents of those online behind a place, most recently active first, never active last."""
    keys = mongo_indexes.online(users.fields).keys
    start = _start(after, before_ms)
    names = [name for name, _ in keys]
    found = users.collection.find({}, projection, sort=keys, limit=limit + 1, batch_size=limit + 2).hint(keys)
    found = found.min(list(zip(names, (True, *start), strict=True)))
    found = found.max(list(zip(names, _END, strict=True)))
    documents = [each async for each in found]
    # The bound includes its own place, and who stood there may have gone since, or may still be there.
    if after is not None and documents and _place_of(documents[0], users) == after:
        del documents[0]
    return documents[:limit]


def _place_of(document: Document, users: Users) -> Document:
    """Say where in the order of those online a document stands."""
    return dict(zip(PLACE, (document.get(users.fields.last_active), document["_id"]), strict=True))


async def read_claimed_page(users: Users, *, after: Document | None, limit: int) -> Page:
    """Read a page of the users who have a claim, by id."""
    claimed: Document = {users.fields.claim: {"$exists": True}}
    if after is not None:
        claimed["_id"] = {"$gt": after["id"]}
    keys = mongo_indexes.claims(users.fields).keys
    find = users.collection.find(
        claimed, users.fields.projection, hint=keys, sort=[("_id", 1)], limit=limit + 1, batch_size=limit + 2
    )
    found = [each async for each in find]
    cursor = to_cursor({"id": found[limit - 1]["_id"]}) if len(found) > limit else None
    return Page(users=tuple(from_document(each, users.fields) for each in found[:limit]), cursor=cursor)


async def count(users: Users) -> Counts:
    """Count the users, by the database's own book-keeping, and those online by availability, along the indexes."""
    online = {users.fields.is_online: True}
    return Counts(
        users=await users.collection.estimated_document_count(),
        online=await _count(users, online),
        away=await _count(users, {**online, users.fields.availability: "away"}),
        busy=await _count(users, {**online, users.fields.availability: "busy"}),
    )


async def count_online(users: Users, *, before_ms: int | None) -> int:
    """Count those online, or those of them last active before a moment, or never."""
    return await _count(users, is_online_since_before(users.fields, before_ms))


async def read_max_version(users: Users) -> int:
    """Read the newest version of any document."""
    is_version = {users.fields.version: {"$gt": 0, "$lt": VERSION_UNBELIEVABLE}}
    version = f"${users.fields.version}"
    newest = {"_id": None, "version": {"$max": {"$cond": [{"$isNumber": version}, version, 0]}}}  # a list matches, too
    found = await users.collection.aggregate([{"$match": is_version}, {"$group": newest}])
    return max([int(each["version"]) for each in await found.to_list()], default=0)


async def _count(users: Users, condition: Document) -> int:
    # The command, not count_documents: that is an aggregation, which counts by handing each document on.
    counted = await users.collection.database.command("count", users.collection.name, query=condition)
    return int(counted["n"])


def _start(after: Document | None, before_ms: int | None) -> tuple[Any, Any]:
    """The first place that may be on a page: behind ``after``, and not active at ``before_ms`` or later."""
    first: tuple[Any, Any] = (MaxKey() if before_ms is None else DatetimeMS(before_ms - 1), MaxKey())
    if after is None:
        return first
    last_active = after["lastActive"]
    if before_ms is not None and isinstance(last_active, DatetimeMS) and int(last_active) >= before_ms:
        return first  # the cursor is of another question
    return last_active, after["id"]
