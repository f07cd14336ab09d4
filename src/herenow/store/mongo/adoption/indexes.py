"""The indexes that herenow needs on the application's collection.

``herenow_online`` is ``{isOnline: 1, lastActive: -1}`` with the id behind it, so that a page has a definite end among
users of the same millisecond; it serves every query that the shorter one serves. The other two hold only the few users
who have a claim, or are away or busy, and cost the others nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pymongo import ASCENDING, DESCENDING

from herenow.store.mongo.documents import Fields

_OF_COUNTS = "to count who is away or busy is to read all who are online"

Keys = list[tuple[str, int]]


class Index(msgspec.Struct, frozen=True):
    """One index: its name, its keys, which documents it holds, the same in words, and what it costs to have none."""

    name: str
    keys: Keys
    holds: dict[str, Any]
    words: str
    cost: str

    def is_like(self, found: Mapping[str, Any], *, collation: object) -> bool:
        """Say whether an index as ``listIndexes`` shows it serves as well, whatever its name.

        It must have the collation of the collection, as queries do that name none.
        """
        options = set(found) - {"v", "key", "name", "ns", "background", "partialFilterExpression", "collation"}
        same_keys = list(found["key"].items()) == self.keys and found.get("collation") == collation
        return same_keys and not options and found.get("partialFilterExpression", {}) == self.holds


def online(fields: Fields) -> Index:
    """Who is online, most recently active first."""
    keys: Keys = [(fields.is_online, ASCENDING), (fields.last_active, DESCENDING), ("_id", DESCENDING)]
    words = f"({fields.is_online}, {fields.last_active} descending, _id descending)"
    return Index(
        "herenow_online", keys, {}, words, "whoever asks who is online, or was active last, goes through all users"
    )


def claims(fields: Fields) -> Index:
    """Who has a claim, by id. The second key only makes it another index than that of ``_id``."""
    keys: Keys = [("_id", ASCENDING), (f"{fields.claim}.availability", ASCENDING)]
    return Index(
        "herenow_claims",
        keys,
        {fields.claim: {"$exists": True}},
        "(_id) where there is a claim",
        "a start goes through all users",
    )


def away_or_busy(fields: Fields) -> Index:
    """Who is away or busy: the words that sort before "offline", as a partial index cannot name several."""
    keys: Keys = [(fields.availability, ASCENDING), (fields.is_online, ASCENDING)]
    words = f"({fields.availability}, {fields.is_online}) where away or busy"
    return Index("herenow_away_or_busy", keys, {fields.availability: {"$lt": "offline"}}, words, _OF_COUNTS)


def all_of(fields: Fields) -> list[Index]:
    """All that herenow needs."""
    return [online(fields), claims(fields), away_or_busy(fields)]


def missing(found: Sequence[Mapping[str, Any]], fields: Fields) -> list[Index]:
    """Those that a collection lacks whose indexes these are."""
    # MongoDB gives every index the collation of the collection, and that of the id cannot have another.
    collation = next((each.get("collation") for each in found if each["key"] == {"_id": 1}), None)
    return [index for index in all_of(fields) if not any(index.is_like(each, collation=collation) for each in found)]
