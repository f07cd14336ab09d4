"""Looking at the application's collection before anything is done to it: what it is, and what its users look like."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from herenow.errors import StoreMismatch
from herenow.store.mongo.adoption import indexes
from herenow.store.mongo.connection import Database, Document
from herenow.store.mongo.documents import NEVER, Fields
from herenow.store.mongo.ids import IdKind, kind_of
from herenow.store.rows import CLOCK_SLACK_MS

NO_TIME = "a date before 1970 or to come"


class Types(msgspec.Struct):
    """Which types a field has: of each, how many documents have it, and the id of one of them."""

    counts: dict[str, int] = msgspec.field(default_factory=dict)
    examples: dict[str, object] = msgspec.field(default_factory=dict)

    def add(self, type_: str, count: int, example: object) -> None:
        """Count documents."""
        self.counts[type_] = self.counts.get(type_, 0) + count
        self.examples.setdefault(type_, example)

    def other_than(self, *expected: str) -> list[str]:
        """The types that there should not be, each as a clause."""
        return [
            f"{type_} in {count:,} of them, such as {self.examples[type_]}"
            for type_, count in sorted(self.counts.items())
            if type_ not in expected
        ]


class Survey(msgspec.Struct, frozen=True):
    """What was found.

    A date is of the type ``NO_TIME`` if it can be none at which somebody was active.

    Attributes:
        exists: there is such a collection.
        options: its options: the validator among them.
        kind: what its ids are; ``None`` without users.
        users: how many documents were looked at.
        indexes: those that it has, as ``listIndexes`` gives them.
        neighbours: the other collections of the database.
        is_online, last_active, presence: the types of the three fields.
    """

    exists: bool
    options: Mapping[str, Any]
    kind: IdKind | None
    users: int
    indexes: Sequence[Mapping[str, Any]]
    neighbours: Sequence[str]
    is_online: Types
    last_active: Types
    presence: Types

    def describe(self, name: str, fields: Fields) -> list[str]:
        """Tell it to a person, a sentence each."""
        if not self.exists:
            others = ", ".join(self.neighbours) or "none at all"
            return [f"there is no collection {name} yet; the others are: {others}"]
        are = f", their _id is of the type {self.kind}" if self.kind else ""
        sentences = [f"{self.users:,} {'user' if self.users == 1 else 'users'} in {name}{are}"]
        sentences += [
            f"{field} is not {expected}: {clause}"
            for field, expected, types in (
                (fields.is_online, "true or false", self.is_online.other_than("bool", "missing", "null")),
                (fields.last_active, "a date of the past", self.last_active.other_than("date", "missing", "null")),
            )
            for clause in types
        ]
        if "validator" in self.options:
            level, action = (self.options.get(f"validation{what}") for what in ("Level", "Action"))
            sentences.append(f"a validator (level {level}, action {action})")
        sentences.append("indexes: " + ", ".join(str(index["name"]) for index in self.indexes))
        sentences += [
            f"the index {index['name']} is the beginning of herenow_online, which serves its queries as well"
            for index in self.indexes
            if list(index["key"].items()) == indexes.online(fields).keys[:2]
        ]
        return sentences


async def survey(database: Database, name: str, fields: Fields, *, shown: str, is_adopted: bool) -> Survey:
    """Look at a collection: all of its documents, once, inside the database.

    Args:
        database: where it is.
        name: what it is called.
        fields: the names of the fields.
        shown: the database, as a person names it.
        is_adopted: what it has in the place of our notes, some program put there after we did.

    Raises:
        StoreMismatch: it cannot be adopted.
    """
    collections = {each["name"]: each async for each in await database.list_collections()}
    found = collections.get(name, {})
    if found.get("type", "collection") != "collection":
        raise StoreMismatch(shown, f"{name} is a {found['type']}, not a collection")
    is_online, last_active, presence = Types(), Types(), Types()
    for group in await _group_by_types(database, name, fields):
        types = group["_id"]
        is_online.add(types["is_online"], group["users"], group["example"])
        last_active.add(types["last_active"], group["users"], group["example"])
        of_presence = "herenow's own" if types["is_ours"] else types["presence"]
        presence.add(of_presence, group["users"], group["example"])
    foreign = presence.other_than("missing", "herenow's own")
    if foreign and not is_adopted:
        raise StoreMismatch(
            shown,
            f"they have a field {fields.presence} already ({'; '.join(foreign)}): let herenow keep its data under "
            "another name, with HERENOW_PRESENCE_FIELD",
        )
    options = found.get("options", {})
    kind = await learn_kind(database, name, shown=shown)
    if "collation" in options and (kind is IdKind.STRING or fields.tenant is not None):
        raise StoreMismatch(
            shown,
            f"{name} has a collation ({options['collation']['locale']}), under which MongoDB may take two users for "
            "one whose names differ in case or accents; herenow knows users of such a collection by an ObjectId, a "
            "whole number or a UUID, and without tenants",
        )
    return Survey(
        exists=name in collections,
        options=options,
        kind=kind,
        users=sum(is_online.counts.values()),
        indexes=[each async for each in await database[name].list_indexes()],
        neighbours=sorted(other for other in collections if other != name and not other.startswith("system.")),
        is_online=is_online,
        last_active=last_active,
        presence=presence,
    )


async def learn_kind(database: Database, name: str, *, shown: str) -> IdKind | None:
    """Read off the collection what its ids are; ``None`` while it is empty.

    MongoDB sorts values by their type first, so the first and the last id speak for all between them.

    Raises:
        StoreMismatch: they are of several types, or of one that herenow does not know.
    """
    ends = [
        end["_id"]
        for direction in (1, -1)
        for end in await database[name].find({}, {"_id": 1}, sort=[("_id", direction)], limit=1).to_list()
    ]
    kinds = {kind_of(end) for end in ends}
    if len(kinds) > 1 or None in kinds:
        types = " and ".join(sorted({type(end).__name__ for end in ends}))
        raise StoreMismatch(
            shown,
            f"their _id is of the type {types}, such as {ends[0]} and {ends[-1]}; herenow knows users by an ObjectId, "
            "a string, a whole number or a UUID, and by one of them only",
        )
    return next(iter(kinds), None)


async def _group_by_types(database: Database, name: str, fields: Fields) -> list[Document]:
    last_active = f"${fields.last_active}"
    latest = {"$add": ["$$NOW", CLOCK_SLACK_MS]}
    is_no_time = {"$or": [{"$lt": [last_active, NEVER]}, {"$gt": [last_active, latest]}]}
    is_date = {"$eq": [{"$type": last_active}, "date"]}
    types: Document = {
        "is_online": {"$type": f"${fields.is_online}"},
        "last_active": {"$cond": [{"$and": [is_date, is_no_time]}, NO_TIME, {"$type": last_active}]},
        "presence": {"$type": f"${fields.presence}"},
        "is_ours": {"$in": [{"$type": f"${fields.version}"}, ["int", "long", "double"]]},
    }
    group = {"_id": types, "users": {"$sum": 1}, "example": {"$first": "$_id"}}
    return await (await database[name].aggregate([{"$group": group}])).to_list()
