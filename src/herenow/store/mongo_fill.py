"""Giving the fields to users who lack them: one range of ids after the other, each a command of its own.

No place needs to be remembered: whoever was filled already costs a look, so to begin anew is to resume.
"""

from typing import Any

import msgspec
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import WriteError

from herenow.store.base import PAGE_SIZE, Progress
from herenow.store.mongo_connection import Document
from herenow.store.mongo_documents import NEVER, Fields
from herenow.store.mongo_errors import describe_refusal, is_of_row
from herenow.store.mongo_survey import Survey
from herenow.store.mongo_writes import BY_ID, write_each


class Filled(msgspec.Struct):
    """What came of it: how many users were filled, how many the database refused, and one of these with the reason."""

    users: int = 0
    refused: int = 0
    example: str = ""


def describe(found: Survey, fields: Fields) -> str | None:
    """Say what is to be filled; ``None`` if nothing is."""
    is_online = found.is_online.counts.get("missing", 0) + found.is_online.counts.get("null", 0)
    last_active = found.last_active.counts.get("missing", 0)
    parts = []
    if is_online:
        parts.append(f"{fields.is_online} to false where it is missing or null: {_users(is_online)}")
    if last_active:
        parts.append(f"{fields.last_active} to 1970-01-01 (never) where it is missing: {_users(last_active)}")
    return f"set {'; '.join(parts)}" if parts else None


def _users(count: int) -> str:
    return f"{count:,} user" if count == 1 else f"{count:,} users"


async def fill(users: AsyncCollection[Document], fields: Fields, *, total: int, on_progress: Progress | None) -> Filled:
    """Go through all users and fill what is missing; what is there stays, whatever it is.

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
    unfilled: Document = {"$or": [{fields.is_online: None}, {fields.last_active: {"$exists": False}}]}
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
    is_missing = {"$eq": [{"$type": last_active}, "missing"]}
    return {
        fields.is_online: {"$ifNull": [is_online, False]},
        # a null that the application wrote means never, and may stay
        fields.last_active: {"$cond": [is_missing, NEVER, last_active]},
    }
