"""Giving the fields to users who lack them, or have something else in their place.

One range of ids after the other, each a command of its own. No place needs to be remembered: whoever was filled already
costs a look, so to begin anew is to resume.
"""

from typing import Any

import msgspec
from bson import DatetimeMS
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import WriteError

from herenow.store.base import PAGE_SIZE, Progress
from herenow.store.mongo.adoption.survey import Survey
from herenow.store.mongo.connection import Document
from herenow.store.mongo.documents import NEVER, Fields
from herenow.store.mongo.errors import describe_refusal, is_of_row
from herenow.store.mongo.sift import are_no_times
from herenow.store.mongo.writes import BY_ID, is_no_boolean, write_each
from herenow.store.rows import CLOCK_SLACK_MS
from herenow.times import LATEST_MS


class Filled(msgspec.Struct):
    """What came of it: how many users were filled, how many the database refused, and one of these with the reason."""

    users: int = 0
    refused: int = 0
    example: str = ""


def describe(found: Survey, fields: Fields) -> str | None:
    """Say what is to be filled or mended; ``None`` if nothing is."""
    of_online, of_active = found.is_online.counts, found.last_active.counts
    all_online, all_active = sum(of_online.values()), sum(of_active.values())
    no_flag = of_online.get("missing", 0) + of_online.get("null", 0)
    no_time = of_active.get("missing", 0)
    steps = (
        (no_flag, f"{fields.is_online} to false where it is missing or null"),
        (
            all_online - no_flag - of_online.get("bool", 0),
            f"{fields.is_online} to false where it is neither true nor false",
        ),
        (no_time, f"{fields.last_active} to 1970-01-01 (never) where it is missing"),
        (
            all_active - no_time - of_active.get("null", 0) - of_active.get("date", 0),
            f"{fields.last_active} to the date that it means, or never, where it is no date of the past",
        ),
    )
    parts = [f"{sentence}: {_users(count)}" for count, sentence in steps if count]
    return f"set {'; '.join(parts)}" if parts else None


def _users(count: int) -> str:
    return f"{count:,} user" if count == 1 else f"{count:,} users"


async def fill(users: AsyncCollection[Document], fields: Fields, *, total: int, on_progress: Progress | None) -> Filled:
    """Go through all users, fill what is missing, and mend what is something else than it should be.

    Args:
        users: the collection.
        fields: the names of the fields.
        total: how many users there are, for the progress.
        on_progress: told after each range.
    """
    filled = Filled()
    done = 0
    behind: Document = {}
    while ids := await users.find(behind, {"_id": 1}, sort=[("_id", 1)], limit=PAGE_SIZE).to_list():
        await _fill_range(users, fields, [each["_id"] for each in ids], filled)
        behind = {"_id": {"$gt": ids[-1]["_id"]}}
        done += len(ids)
        if on_progress:
            on_progress(done, max(total, done))
    return filled


async def _fill_range(users: AsyncCollection[Document], fields: Fields, raw_ids: list[object], filled: Filled) -> None:
    missing: list[Document] = [{fields.is_online: None}, {fields.last_active: {"$exists": False}}]
    odd = [is_no_boolean(fields), {fields.is_online: {"$type": "array"}}, *are_no_times(fields)]
    is_to_come = {"$expr": {"$gt": [f"${fields.last_active}", _latest()]}}  # behind the dates, what is no date
    unfilled: Document = {"$or": [*missing, *odd, is_to_come]}
    change = [{"$set": _defaults(fields)}]
    within = {"_id": {"$gte": raw_ids[0], "$lte": raw_ids[-1]}, **unfilled}
    try:
        filled.users += (await users.update_many(within, change, hint=BY_ID)).modified_count
        return
    except WriteError as error:
        if not is_of_row(error.code):
            raise
    updates = [UpdateOne({"_id": raw_id, **unfilled}, change, hint=BY_ID) for raw_id in raw_ids]
    changed, failures = await write_each(users, updates)
    filled.users += changed
    for place, failure in failures.items():
        filled.refused += 1
        filled.example = filled.example or f"{raw_ids[place]}: {describe_refusal(failure)}"


def _defaults(fields: Fields) -> dict[str, Any]:
    is_online, last_active = f"${fields.is_online}", f"${fields.last_active}"
    type_ = {"$type": last_active}
    number = {"$convert": {"input": last_active, "to": "long", "onError": None}}
    meant = {
        "$switch": {
            "branches": [
                {"case": {"$eq": [type_, "date"]}, "then": last_active},
                {"case": {"$eq": [type_, "string"]}, "then": _to_date(last_active)},
                {"case": {"$isNumber": last_active}, "then": _to_date(number)},
            ],
            "default": None,
        }
    }
    can_be = {"$and": [{"$gte": ["$$meant", NEVER]}, {"$lte": ["$$meant", DatetimeMS(LATEST_MS)]}]}
    mended = {"$cond": [{"$gt": ["$$meant", _latest()]}, "$$NOW", "$$meant"]}
    return {
        fields.is_online: {"$cond": [{"$eq": [{"$type": is_online}, "bool"]}, is_online, False]},
        fields.last_active: {
            "$switch": {
                "branches": [
                    {"case": {"$eq": [type_, "missing"]}, "then": NEVER},
                    {"case": {"$eq": [type_, "null"]}, "then": None},  # the application's own: it means never
                ],
                "default": {"$let": {"vars": {"meant": meant}, "in": {"$cond": [can_be, mended, NEVER]}}},
            }
        },
    }


def _to_date(value: object) -> Document:
    return {"$convert": {"input": value, "to": "date", "onError": None, "onNull": None}}


def _latest() -> Document:
    """The latest time that somebody's clock may have given."""
    return {"$add": ["$$NOW", CLOCK_SLACK_MS]}
