"""Writing users: many documents in one command, each guarded by its version.

A command is one ``update_many`` whose pipeline holds all its rows and finds each document's own by its id, with the
guard inside. Most rows of a burst differ in nothing but the user, the version and `lastActive`, so what they show is
there once, and each row names it. MongoDB hashes a constant list of ids once. One update a row in an unordered
``bulk_write`` costs it more than twice as much (docs/decisions/010).

Where the database refuses one document, the whole command fails, with any part of it done. Its rows then go one by one.
"""

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import msgspec
from bson import DatetimeMS, Int64
from pymongo import InsertOne, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, WriteError
from pymongo.results import UpdateResult

from herenow.model import Availability, StoredUser
from herenow.store.base import Applied
from herenow.store.mongo.connection import Document
from herenow.store.mongo.documents import NEVER, Fields, from_document, key_in, to_date, to_document
from herenow.store.mongo.errors import DUPLICATE_KEY, describe_refusal, is_of_row
from herenow.store.mongo.ids import IdKind, RawId
from herenow.store.mongo.nodes import Hold
from herenow.store.mongo.tenants import are_theirs, place_among, to_identity
from herenow.store.rows import VERSION_UNBELIEVABLE, UnstorableRow, check_row
from herenow.tenancy import tenant_of
from herenow.times import LATEST_MS

BY_ID = {"_id": 1}
"""The hint of all that goes by ids. With a second condition MongoDB might choose the index of those online."""

_COMMAND_ROWS = 500
_COMMANDS_AT_ONCE = 2
"""A batch of 1,000 goes as two commands at the same time: a server of several cores takes half as long."""


class UsersCollection(msgspec.Struct, frozen=True):
    """The application's collection, the names of its fields, what its ids are, and for which node it is written.

    ``hold`` is ``None`` where no node has claimed the store, as in a command.
    """

    collection: AsyncCollection[Document]
    fields: Fields
    kind: IdKind
    hold: Hold | None = None

    def held(self, theirs: Document, *conditions: Document) -> Document:
        """The filter of a write: whose documents, and what must hold; for a node, that the store is still its own."""
        conditions = conditions if self.hold is None else (self.hold.condition, *conditions)
        return {"$and": [theirs, {"$expr": {"$and": list(conditions)}}]} if conditions else theirs

    async def check(self) -> None:
        """See that they held; raises as :meth:`Hold.check`."""
        if self.hold is not None:
            await self.hold.check()


class Whose(msgspec.Struct, frozen=True):
    """A document's ``_id`` as it is there, and the key of its user."""

    raw_id: object
    key: str


class _Row(msgspec.Struct, frozen=True):
    """A row, and its user as the collection has them: the ``_id``, and the tenant where there are such."""

    identity: tuple[RawId, str | None]
    row: StoredUser

    @property
    def user_id(self) -> str:
        """The user; the key, where there are tenants."""
        return self.row.user_id

    @property
    def version(self) -> int:
        return self.row.version

    @property
    def look(self) -> Hashable:
        """Equal in rows that show the same."""
        row = self.row
        return row.is_online, row.availability, row.claim

    def shown(self, fields: Fields) -> Document:
        """What rows that look alike share, in a document."""
        document = to_document(self.row, fields)
        del document[fields.last_active], document[fields.presence]["version"]
        return document

    @property
    def raw_id(self) -> RawId:
        return self.identity[0]


class _Outcome(msgspec.Struct, frozen=True):
    written: int
    unknown: tuple[str, ...] = ()
    refused: Mapping[str, str] = msgspec.field(default_factory=dict)


async def apply(users: UsersCollection, rows: Sequence[StoredUser], *, create: bool) -> Applied:
    """Write a batch, each row if it is newer than what is there; create the users who are missing, or report them."""
    refused: dict[str, str] = {}
    impossible: dict[str, None] = {}  # in their order
    newest: dict[str, _Row] = {}
    for row in sorted(rows, key=lambda row: row.version):
        try:
            check_row(row)
        except UnstorableRow as error:
            refused[row.user_id] = str(error)
            continue
        identity = to_identity(row.user_id, users.fields, users.kind)
        if identity is None:
            impossible[row.user_id] = None
        else:
            newest[row.user_id] = _Row(identity, row)
    outcomes = await _write_all(users, list(newest.values()), create=create)
    for outcome in outcomes:
        refused.update(outcome.refused)
    written = sum(outcome.written for outcome in outcomes)
    unknown = (*impossible, *(user_id for outcome in outcomes for user_id in outcome.unknown))
    skipped = len(rows) - written - len(unknown) - len(refused)
    return Applied(written=written, skipped=skipped, unknown=unknown, refused=refused)


async def reset(
    users: UsersCollection, chosen: Sequence[Whose], *, version: int, before_ms: int | None, after_ms: int | None
) -> tuple[int, dict[str, str]]:
    """Set those of the users offline for whom all of it holds at this moment: online, older, last active as is said.

    Returns how many, and whom of them the database refuses, with its reason.
    """
    fields = users.fields
    is_older = {"$nor": [{fields.version: {"$gte": version, "$lt": VERSION_UNBELIEVABLE}}]}
    condition = {"$and": [is_older, is_not_offline(fields), *was_active(fields, before_ms, after_ms)]}
    whose = [(each.raw_id, tenant_of(each.key)) for each in chosen]
    # A pipeline, for a plain $set fails where another program has put something else into the place of ours.
    claim = {"$cond": [{"$eq": [{"$type": f"${fields.presence}"}, "object"]}, f"${fields.presence}", {}]}
    offline = {"availability": {"$literal": Availability.OFFLINE.value}, "version": {"$literal": Int64(version)}}
    change = [{"$set": {fields.is_online: False, fields.presence: {"$mergeObjects": [claim, offline]}}}]
    try:
        filter_ = users.held({**are_theirs(whose, fields), **condition})
        changed = (await users.collection.update_many(filter_, change, hint=BY_ID)).modified_count
        refused = {}
    except WriteError as error:
        if not is_of_row(error.code):
            raise
        each_alone = (users.held({**are_theirs([each], fields), **condition}) for each in whose)
        _, failures = await write_each(users.collection, [UpdateOne(each, change, hint=BY_ID) for each in each_alone])
        written = {**are_theirs(whose, fields), fields.version: Int64(version)}  # by the failed command or after it
        changed = len(await users.collection.find(written, {"_id": 1}, hint=BY_ID).to_list())
        refused = {chosen[place].key: describe_refusal(failure) for place, failure in failures.items()}
    if changed < len(chosen):
        await users.check()
    return changed, refused


def is_no_boolean(fields: Fields) -> Document:
    """The condition that ``isOnline`` is something else than it should be; the index has those, but for some lists."""
    return {fields.is_online: {"$nin": [True, False, None]}}


def is_not_offline(fields: Fields) -> Document:
    """The condition that a user is online, or may look so to an application that reads what is no boolean."""
    return {fields.is_online: {"$nin": [False, None]}}


def was_active(fields: Fields, before_ms: int | None, after_ms: int | None) -> list[Document]:
    """The conditions on when a user was last active: before a moment or never, or after one that no clock gives."""
    if before_ms is None:
        return []
    either: list[Document] = [
        {fields.last_active: {"$lt": DatetimeMS(before_ms)}},
        {fields.last_active: {"$not": {"$type": "date"}}},
    ]
    if after_ms is not None:
        either.append({fields.last_active: {"$gt": DatetimeMS(after_ms)}})
    return [{"$or": either}]


async def _write_all(users: UsersCollection, rows: list[_Row], *, create: bool) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    parts = [rows[start : start + _COMMAND_ROWS] for start in range(0, len(rows), _COMMAND_ROWS)]
    for start in range(0, len(parts), _COMMANDS_AT_ONCE):
        under_way = [_write(users, part, create=create) for part in parts[start : start + _COMMANDS_AT_ONCE]]
        for outcome in await asyncio.gather(*under_way, return_exceptions=True):  # none is left behind at work
            if isinstance(outcome, BaseException):
                raise outcome
            outcomes.append(outcome)
    return outcomes


async def _write(users: UsersCollection, rows: list[_Row], *, create: bool) -> _Outcome:
    try:
        result = await _update(users, rows)
        written, unknown = result.modified_count, frozenset[str]()
        if result.matched_count < len(rows):
            unknown = await _find_unknown(users, rows)
            if result.matched_count + len(unknown) < len(rows):
                # They were created since, by another program: to take them for as new would lose their rows.
                written += (await _update(users, [row for row in rows if row.user_id not in unknown])).modified_count
            await users.check()
        outcome = _Outcome(written, tuple(row.user_id for row in rows if row.user_id in unknown))
    except WriteError as error:
        if not is_of_row(error.code):
            raise
        outcome = await _write_singly(users, rows)
    if not create or not outcome.unknown:
        return outcome
    missing = set(outcome.unknown)
    created = await _create(users, [row for row in rows if row.user_id in missing])
    refused = {**outcome.refused, **created.refused}
    return _Outcome(outcome.written + created.written, created.unknown, refused)


async def _update(users: UsersCollection, rows: list[_Row]) -> UpdateResult:
    """Update those who are there, each if its row is newer."""
    filter_ = users.held(_of(rows, users.fields))
    return await users.collection.update_many(filter_, _put_newer(rows, users.fields), hint=BY_ID)


async def _write_singly(users: UsersCollection, rows: list[_Row]) -> _Outcome:
    """Write row by row, with those apart that are refused. What the failed command wrote counts as written."""
    fields = users.fields
    updates = [UpdateOne(users.held(_of([row], fields)), _put_newer([row], fields), hint=BY_ID) for row in rows]
    _, failures = await write_each(users.collection, updates)
    refused = {rows[place].user_id: describe_refusal(failure) for place, failure in failures.items()}
    found = users.collection.find(_of(rows, users.fields), users.fields.projection, batch_size=len(rows) + 1)
    versions = {row.user_id: row.version async for row in (from_document(each, users.fields) async for each in found)}
    await users.check()
    taken = [row for row in rows if row.user_id not in refused]
    unknown = tuple(row.user_id for row in taken if row.user_id not in versions)
    return _Outcome(sum(versions.get(row.user_id) == row.version for row in taken), unknown, refused)


async def _create(users: UsersCollection, rows: list[_Row]) -> _Outcome:
    """Create the users who were not there, offline and never seen, and write their rows as those of all others.

    For an insert knows no condition: who was replaced meanwhile would put somebody online who is not.
    """
    fields = users.fields
    inserts = [InsertOne({"_id": row.raw_id, **_tenant_in(row, fields), **_never_seen(row, fields)}) for row in rows]
    _, failures = await write_each(users.collection, inserts)
    # Whoever was created meanwhile, by another program, is there too.
    refused = {
        rows[place].user_id: describe_refusal(failure) for place, failure in failures.items() if not _is_of_id(failure)
    }
    there = [row for row in rows if row.user_id not in refused]
    if not there:
        return _Outcome(0, (), refused)
    updated = await _write(users, there, create=False)
    return _Outcome(updated.written, updated.unknown, {**refused, **updated.refused})


async def write_each(
    collection: AsyncCollection[Document], writes: Sequence[UpdateOne | InsertOne[Document]]
) -> tuple[int, dict[int, Mapping[str, Any]]]:
    """Do each of the writes that can be done; returns how many documents changed, and why the others could not.

    Raises:
        BulkWriteError: one failed for a reason that is not its document's own.
    """
    try:
        return (await collection.bulk_write(writes, ordered=False)).modified_count, {}
    except BulkWriteError as error:
        details: Mapping[str, Any] = error.details
        failures = {failure["index"]: failure for failure in details["writeErrors"]}
        if details["writeConcernErrors"] or not all(is_of_row(failure["code"]) for failure in failures.values()):
            raise
        return details["nModified"], failures


async def _find_unknown(users: UsersCollection, rows: list[_Row]) -> frozenset[str]:
    fields = users.fields
    found = users.collection.find(_of(rows, fields), fields.identity, hint=BY_ID, batch_size=len(rows) + 1)
    known = {key_in(each, fields) async for each in found}
    return frozenset(row.user_id for row in rows if row.user_id not in known)


def _of(rows: list[_Row], fields: Fields) -> Document:
    return are_theirs((row.identity for row in rows), fields)


def _never_seen(row: _Row, fields: Fields) -> Document:
    return to_document(StoredUser(row.user_id, False, Availability.OFFLINE, None, None, 0), fields)


def _tenant_in(row: _Row, fields: Fields) -> Document:
    tenant = row.identity[1]
    return {} if fields.tenant is None or tenant is None else {fields.tenant: tenant}


def _put_newer(rows: list[_Row], fields: Fields) -> list[Document]:
    """Put into each document its own row, if that is newer; other fields stay as they are."""
    looks: dict[Hashable, _Row] = {}  # a row of each
    for row in rows:
        looks.setdefault(row.look, row)
    shown = [row.shown(fields) for row in looks.values()]
    places = {look: place for place, look in enumerate(looks)}
    look = _at("$$place", [places[row.look] for row in rows]) if len(shown) > 1 else 0
    last_active = _at("$$place", [to_date(row.row.last_active_ms) for row in rows])
    presence = _at(look, [each[fields.presence] for each in shown])
    put = {
        fields.is_online: _at(look, [each[fields.is_online] for each in shown]),
        fields.last_active: {"$ifNull": [last_active, _kept(fields)]},
        fields.presence: {"$mergeObjects": [presence, {"version": "$$version"}]},
    }
    changed = {"$cond": [_is_as_new(fields, "$$version"), "$$ROOT", {"$mergeObjects": ["$$ROOT", put]}]}
    with_version = _let("version", _at("$$place", [Int64(row.version) for row in rows]), changed)
    return [{"$replaceWith": _let("place", place_among((row.identity for row in rows), fields), with_version)}]


def _kept(fields: Fields) -> Document:
    """What `lastActive` is where a row does not know it: as it was or, where that is no time, never."""
    value = f"${fields.last_active}"
    is_time = {"$and": [{"$gte": [value, NEVER]}, {"$lte": [value, DatetimeMS(LATEST_MS)]}]}  # of dates, as of no other
    is_kept = {"$or": [{"$in": [{"$type": value}, ["missing", "null"]]}, is_time]}
    return {"$cond": [is_kept, value, None]}


def _let(name: str, value: Document, expression: Document) -> Document:
    return {"$let": {"vars": {name: value}, "in": expression}}


def _at(place: Document | str | int, values: Sequence[Any]) -> Document:
    """The expression that takes one of the values."""
    return {"$arrayElemAt": [{"$literal": values}, place]}


def _is_as_new(fields: Fields, version: object) -> Document:
    """The condition that what is stored is as new as a version."""
    stored = f"${fields.version}"
    # In MongoDB's order of all values, what is no number comes behind all numbers: it is no version, and written over.
    return {"$and": [{"$gte": [stored, version]}, {"$lt": [stored, VERSION_UNBELIEVABLE]}]}


def _is_of_id(failure: Mapping[str, Any]) -> bool:
    """Say whether an insert failed because the user exists, and not over a unique index of the application."""
    return failure["code"] == DUPLICATE_KEY and failure.get("keyPattern") == BY_ID
