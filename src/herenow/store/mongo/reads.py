"""Reading users: by id, page by page, and counted.

Whoever asks who is online walks along the index ``herenow_online`` from one of its keys, ``[true, lastActive, _id]``.
That is one bound, and not a comparison: it holds over values of all types, so that also somebody whose ``lastActive``
is missing or no date is on exactly one page. A page is its own query; no cursor is left open in the server. Where
somebody has dropped the index, the same is found by comparing and sorting, each time from all users.
"""

from collections.abc import Collection
from typing import Any

from bson import DatetimeMS, MaxKey, MinKey
from pymongo.errors import OperationFailure

from herenow.model import StoredUser
from herenow.store.base import PAGE_SIZE, Counts, RowPage
from herenow.store.mongo.adoption import indexes
from herenow.store.mongo.connection import Document
from herenow.store.mongo.documents import from_document, key_in, to_cursor
from herenow.store.mongo.errors import is_of_missing_index
from herenow.store.mongo.tenants import are_theirs, to_identity
from herenow.store.mongo.writes import BY_ID, UsersCollection, Whose, is_no_boolean, is_not_offline, was_active
from herenow.store.rows import VERSION_UNBELIEVABLE

PLACE = ("lastActive", "id")
"""What the cursor of a page of users online holds: where in the order the last of them stands."""

CLAIM_PLACE = ("id",)
"""The same of users in the order of their ids."""

_LATEST = DatetimeMS(2**63 - 1)

_END: tuple[Any, Any, Any] = (True, MinKey(), MinKey())
"""Where those online end in the index."""


async def read(users: UsersCollection, user_ids: Collection[str]) -> dict[str, StoredUser]:
    """Read users by id."""
    found_ids = (to_identity(user_id, users.fields, users.kind) for user_id in user_ids)
    whose = [identity for identity in found_ids if identity is not None]
    rows: dict[str, StoredUser] = {}
    for start in range(0, len(whose), PAGE_SIZE):
        wanted = are_theirs(whose[start : start + PAGE_SIZE], users.fields)
        found = users.collection.find(wanted, users.fields.projection, hint=BY_ID, batch_size=PAGE_SIZE + 1)
        rows.update({row.user_id: row async for row in (from_document(each, users.fields) async for each in found)})
    return rows


async def read_present(users: UsersCollection, user_ids: Collection[str]) -> set[str]:
    """Say who of the users is there; without tenants from the index alone."""
    found_ids = (to_identity(user_id, users.fields, users.kind) for user_id in user_ids)
    whose = [identity for identity in found_ids if identity is not None]
    present: set[str] = set()
    for start in range(0, len(whose), PAGE_SIZE):
        wanted = are_theirs(whose[start : start + PAGE_SIZE], users.fields)
        found = users.collection.find(wanted, users.fields.identity, hint=BY_ID, batch_size=PAGE_SIZE + 1)
        present.update([key_in(each, users.fields) async for each in found])
    return present


async def read_online_page(
    users: UsersCollection, *, after: Document | None, before_ms: int | None, after_ms: int | None, limit: int
) -> RowPage:
    """Read a page of those online, or of those of them who were last active before a moment, never or after another."""
    # one more than the page, to know whether another follows
    projection = users.fields.projection
    found = await _walk(users, projection, after=after, before_ms=before_ms, after_ms=after_ms, limit=limit + 1)
    cursor = to_cursor(_place_of(found[limit - 1], users)) if len(found) > limit else None
    return RowPage(users=tuple(from_document(each, users.fields) for each in found[:limit]), cursor=cursor)


async def read_online_places(
    users: UsersCollection, *, after: Document | None, before_ms: int | None, after_ms: int | None, limit: int
) -> list[tuple[Document, Whose]]:
    """Read only where those online stand in the order, and who they are; without tenants from the index alone."""
    projection = {**users.fields.identity, users.fields.last_active: 1}
    found = await _walk(users, projection, after=after, before_ms=before_ms, after_ms=after_ms, limit=limit)
    return [(_place_of(each, users), _whose(each, users)) for each in found]


async def read_no_booleans(
    users: UsersCollection, *, after: object, before_ms: int | None, after_ms: int | None, limit: int
) -> list[Whose]:
    """Read who is neither online nor offline, last active as is said, by ``_id`` and behind that which is given.

    MongoDB finds them by the index of those online, and sorts the few that there are.
    """
    behind: list[Document] = [] if after is None else [{"_id": {"$gt": after}}]
    wanted = {"$and": [is_no_boolean(users.fields), *behind, *was_active(users.fields, before_ms, after_ms)]}
    found = users.collection.find(wanted, users.fields.identity, sort=[("_id", 1)], limit=limit)
    return [_whose(each, users) async for each in found]


async def read_no_times(users: UsersCollection, *, after_ms: int, limit: int) -> list[Whose]:
    """Read who is offline and was last active after a moment, before 1970 or at what is no time: so many of each.

    In the index they stand before the times that can be, and between these and the ends of those who never were.
    """
    keys = indexes.online(users.fields).keys
    names = [name for name, _ in keys]
    late = ((MaxKey(), MaxKey()), (DatetimeMS(after_ms), MaxKey()))
    early = ((DatetimeMS(-1), MaxKey()), (None, MaxKey()))
    found: list[Whose] = []
    for flag in (False, None):
        for start, end in (late, early):
            first: tuple[Any, ...] = (flag, *start)
            behind: tuple[Any, ...] = (flag, *end)
            within = users.collection.find({}, users.fields.identity, limit=limit).hint(keys)
            within = within.min(list(zip(names, first, strict=True))).max(list(zip(names, behind, strict=True)))
            try:
                found += [_whose(each, users) async for each in within]
            except OperationFailure as error:
                if not is_of_missing_index(error):
                    raise
    return found


async def _walk(
    users: UsersCollection,
    projection: dict[str, int],
    *,
    after: Document | None,
    before_ms: int | None,
    after_ms: int | None,
    limit: int,
) -> list[Document]:
    """Read up to ``limit`` of those online behind a place: first who were active too late, then who long enough ago."""
    first = (MaxKey(), MaxKey()) if after is None else (after["lastActive"], after["id"])
    if before_ms is not None and after is None:
        first = (_LATEST, MaxKey())
    if before_ms is None:
        return await _walk_online(users, projection, start=first, end=_END, limit=limit)
    earliest = (DatetimeMS(before_ms - 1), MaxKey())
    is_behind = after is not None and _is_behind(after["lastActive"], before_ms)
    found: list[Document] = []
    if not is_behind and after_ms is not None:
        end = (True, DatetimeMS(after_ms), MaxKey())
        found = await _walk_online(users, projection, start=first, end=end, limit=limit)
    if len(found) < limit:
        start = first if is_behind else earliest
        found += await _walk_online(users, projection, start=start, end=_END, limit=limit - len(found))
    return found


async def _walk_online(
    users: UsersCollection, projection: dict[str, int], *, start: tuple[Any, Any], end: tuple[Any, Any, Any], limit: int
) -> list[Document]:
    """Read up to ``limit`` documents of those online between two places, most recently active first, never last."""
    keys = indexes.online(users.fields).keys
    names = [name for name, _ in keys]
    found = users.collection.find({}, projection, sort=keys, limit=limit + 1, batch_size=limit + 2).hint(keys)
    found = found.min(list(zip(names, (True, *start), strict=True))).max(list(zip(names, end, strict=True)))
    try:
        documents = [each async for each in found]
    except OperationFailure as error:
        if not is_of_missing_index(error):
            raise
        documents = await _search_online(users, projection, start=start, end=end, limit=limit + 1)
    # The bound includes its own place, and who stood there may have gone since, or may still be there.
    if documents and _place_of(documents[0], users) == dict(zip(PLACE, start, strict=True)):
        del documents[0]
    return documents[:limit]


async def _search_online(
    users: UsersCollection, projection: dict[str, int], *, start: tuple[Any, Any], end: tuple[Any, Any, Any], limit: int
) -> list[Document]:
    """The same without the index: a look at all users, by MongoDB's order of values of all types."""
    place = [f"${users.fields.last_active}", "$_id"]
    within = [
        {"$lte": [place, {"$literal": list(start)}]},
        {"$gt": [place, {"$literal": list(end[1:])}]},
    ]
    wanted = {users.fields.is_online: True, "$expr": {"$and": within}}
    order = indexes.online(users.fields).keys[1:]
    return [each async for each in users.collection.find(wanted, projection, sort=order, limit=limit)]


def _is_behind(last_active: Any, before_ms: int) -> bool:
    """Say whether a place in the order is behind all who were active too late."""
    return not isinstance(last_active, DatetimeMS) or int(last_active) < before_ms


def _place_of(document: Document, users: UsersCollection) -> Document:
    """Say where in the order of those online a document stands."""
    return dict(zip(PLACE, (document.get(users.fields.last_active), document["_id"]), strict=True))


def _whose(document: Document, users: UsersCollection) -> Whose:
    return Whose(document["_id"], key_in(document, users.fields))


async def read_claimed_page(users: UsersCollection, *, after: Document | None, limit: int) -> RowPage:
    """Read a page of the users who have a claim, by id."""
    claimed: Document = {users.fields.claim: {"$exists": True}}
    if after is not None:
        claimed["_id"] = {"$gt": after["id"]}
    find = users.collection.find(
        claimed, users.fields.projection, sort=[("_id", 1)], limit=limit + 1, batch_size=limit + 2
    )
    try:
        found = [each async for each in find.clone().hint(indexes.claims(users.fields).keys)]
    except OperationFailure as error:
        if not is_of_missing_index(error):
            raise
        found = [each async for each in find]
    cursor = to_cursor({"id": found[limit - 1]["_id"]}) if len(found) > limit else None
    return RowPage(users=tuple(from_document(each, users.fields) for each in found[:limit]), cursor=cursor)


async def count(users: UsersCollection) -> Counts:
    """Count the users, by the database's own book-keeping, and those online by availability, along the indexes."""
    online = {users.fields.is_online: True}
    return Counts(
        users=await users.collection.estimated_document_count(),
        online=await _count(users, online),
        away=await _count(users, {**online, users.fields.availability: "away"}),
        busy=await _count(users, {**online, users.fields.availability: "busy"}),
        odd=await _count(users, is_no_boolean(users.fields)),
    )


async def count_not_offline(users: UsersCollection, *, before_ms: int | None, after_ms: int | None) -> int:
    """Count those online, or who look so; or those of them last active before a moment, never or after another."""
    active = was_active(users.fields, before_ms, after_ms)
    return await _count(users, {"$and": [is_not_offline(users.fields), *active]})


async def read_max_version(users: UsersCollection) -> int:
    """Read the newest version of any document."""
    is_version = {users.fields.version: {"$gt": 0, "$lt": VERSION_UNBELIEVABLE}}
    version = f"${users.fields.version}"
    newest = {"_id": None, "version": {"$max": {"$cond": [{"$isNumber": version}, version, 0]}}}  # a list matches, too
    found = await users.collection.aggregate([{"$match": is_version}, {"$group": newest}])
    return max([int(each["version"]) for each in await found.to_list()], default=0)


async def _count(users: UsersCollection, condition: Document) -> int:
    # The command, not count_documents: that is an aggregation, which counts by handing each document on.
    counted = await users.collection.database.command("count", users.collection.name, query=condition)
    return int(counted["n"])
