"""The plan that adopts, or creates, the application's collection, and its execution.

All is done in the order in which a process may die between any two steps and be started again: fields are allowed
before they are filled, filled before the index is built over them and before they are required, and that all is done
is noted last. Nothing needs to be remembered: what is still to be done can be seen in the collection.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
from pymongo.errors import OperationFailure

from herenow.errors import StoreMismatch, StoreTooNew
from herenow.store.base import Gaps, Progress
from herenow.store.mongo import nodes
from herenow.store.mongo.adoption import fill, indexes, validator
from herenow.store.mongo.adoption.survey import NO_TIME, Survey, survey
from herenow.store.mongo.connection import Database, Document
from herenow.store.mongo.documents import Fields
from herenow.store.mongo.rules import find_objections

SCHEMA_VERSION = 1
"""The version that this code writes and the newest that it understands."""

SCHEMAS = "herenow_schema"

_INDEX_CONFLICTS = frozenset({85, 86})  # IndexOptionsConflict, IndexKeySpecsConflict


class Target(msgspec.Struct, frozen=True):
    """What is adopted: the users' collection, the names of its fields, and the database as a person names it."""

    collection: str
    fields: Fields
    shown: str


class AdoptionStep(msgspec.Struct, frozen=True):
    """One step of the plan: a sentence for people, and what it does; it may have something to add."""

    sentence: str
    execute: Callable[[Database], Awaitable[str | None]]


class Plan(msgspec.Struct, frozen=True):
    """What was found, and what is to be done."""

    survey: Survey
    steps: list[AdoptionStep]


async def read_schema_version(database: Database, target: Target) -> int | None:
    """Read which version of the schema the collection has; ``None`` if it was never prepared.

    Raises:
        StoreTooNew: a newer herenow made it.
    """
    note = await database[SCHEMAS].find_one({"_id": target.collection})
    if note is None:
        return None
    version = int(note["version"])
    if version > SCHEMA_VERSION:
        raise StoreTooNew(target.shown, found=version, known=SCHEMA_VERSION)
    return version


async def is_prepared(database: Database, target: Target) -> bool:
    """Say whether the collection was prepared, and has its indexes.

    Raises:
        StoreTooNew: as above.
    """
    if await read_schema_version(database, target) is None:
        return False
    return not await _missing_indexes(database, target)


async def _missing_indexes(database: Database, target: Target) -> list[indexes.Index]:
    found = [each async for each in await database[target.collection].list_indexes()]
    return indexes.missing(found, target.fields)


async def find_gaps(database: Database, target: Target) -> Gaps:
    """Say what is missing of a collection that was prepared.

    Raises:
        StoreTooNew: as above.
    """
    name = target.collection
    if not await database.list_collection_names(filter={"name": name}):
        return Gaps(users=f"its collection {name} is gone: somebody has dropped or renamed it")
    parts = [
        f"the index {index.name} on {name} is missing: {index.cost}"
        for index in await _missing_indexes(database, target)
    ]
    if await read_schema_version(database, target) is None:
        parts.append(f"the note in {SCHEMAS} is missing: no command knows that {name} was prepared")
    return Gaps(parts=tuple(parts), is_empty=await database[name].find_one({}, {"_id": 1}) is None)


async def plan(database: Database, target: Target, *, schema: bool, values: bool, on_progress: Progress | None) -> Plan:
    """Compare a collection with what herenow needs, and say what is missing. Changes nothing.

    Args:
        database: where the collection is.
        target: what is adopted.
        schema: whether the database itself is to demand the fields.
        values: whether to look at what users have in the fields.
        on_progress: told while they are put right.

    Raises:
        StoreTooNew: a newer herenow made it.
        StoreMismatch: it cannot be adopted.
    """
    version = await read_schema_version(database, target)
    found = await survey(database, target.collection, target.fields, shown=target.shown, is_adopted=version is not None)
    will_be = partial(validator.require, fields=target.fields) if schema else None
    if objections := await find_objections(database, target.collection, target.fields, will_be):
        has_remedy = not schema and all(": add to $jsonSchema.properties {" in each for each in objections)
        hint = "; `herenow init --schema` does so" if has_remedy else ""
        raise StoreMismatch(target.shown, "; ".join(objections) + hint)
    steps: list[AdoptionStep] = []
    if not found.exists:
        steps.append(AdoptionStep(f"create the collection {target.collection}", _creation(target)))
    current = found.options.get("validator", {})
    if schema:
        steps += _plan_change(target, current, validator.allow, _know_sentence(target))
    if values and (sentence := fill.describe(found, target.fields)):
        steps.append(AdoptionStep(sentence, _filling(target, found, on_progress)))
    for index in indexes.missing(found.indexes, target.fields):
        sentence = f"create the index {index.name} on {target.collection} {index.words}"
        steps.append(AdoptionStep(sentence, _index_creation(target, index, sentence)))
    if schema:
        _refuse_wrong_types(target, found)
        fields = f"{target.fields.is_online} and {target.fields.last_active}"
        sentence = f"let the validator of {target.collection} require {fields}"
        steps += _plan_change(target, validator.allow(current, target.fields), validator.require, sentence)
    if version is None:
        steps.append(AdoptionStep(f"note the schema version {SCHEMA_VERSION} in {SCHEMAS}", _note(target)))
    return Plan(found, steps)


def _creation(target: Target) -> Callable[[Database], Awaitable[None]]:
    async def execute(database: Database) -> None:
        await database.create_collection(target.collection)

    return execute


def _filling(
    target: Target, found: Survey, on_progress: Progress | None
) -> Callable[[Database], Awaitable[str | None]]:
    async def execute(database: Database) -> str | None:
        users = database[target.collection]
        filled = await fill.fill(users, target.fields, total=found.users, on_progress=on_progress)
        if filled.refused and filled.refused == found.users:
            raise StoreMismatch(target.shown, f"the database refuses the fields, as in {filled.example}")
        if filled.refused:
            return f"but for {filled.refused:,} whom the database refuses, such as {filled.example}"
        return None

    return execute


def _index_creation(target: Target, index: indexes.Index, sentence: str) -> Callable[[Database], Awaitable[None]]:
    async def execute(database: Database) -> None:
        holds: dict[str, Any] = {"partialFilterExpression": index.holds} if index.holds else {}
        try:
            # Since MongoDB 4.2 an index is built beside all reading and writing. If we die, the server builds on.
            await database[target.collection].create_index(index.keys, name=index.name, **holds)
        except OperationFailure as error:
            if error.code in _INDEX_CONFLICTS:
                raise StoreMismatch(
                    target.shown, f"it was not possible to {sentence}: another one has its name, drop that first"
                ) from error
            raise

    return execute


def _note(target: Target) -> Callable[[Database], Awaitable[None]]:
    async def execute(database: Database) -> None:
        await nodes.leave_free(nodes.Nodes(database[nodes.COLLECTION], target.collection))
        note = {"$set": {"version": SCHEMA_VERSION}}
        await database[SCHEMAS].update_one({"_id": target.collection}, note, upsert=True)

    return execute


# the validator


def _know_sentence(target: Target) -> str:
    fields = target.fields
    return (
        f"let the validator of {target.collection} know {fields.is_online} (bool), {fields.last_active} (date or null) "
        f"and {fields.presence} (object)"
    )


def _plan_change(
    target: Target, current: Document, change: Callable[[Document, Fields], Document], sentence: str
) -> list[AdoptionStep]:
    changed = change(current, target.fields)
    if changed == current:
        return []

    async def execute(database: Database) -> None:
        await database.command("collMod", target.collection, validator=changed)  # level and action stay

    return [AdoptionStep(sentence, execute)]


def _refuse_wrong_types(target: Target, found: Survey) -> None:
    wrong = [
        f"{name} is {clause}"
        for name, clauses in (
            (target.fields.is_online, found.is_online.other_than("bool", "missing", "null")),
            (target.fields.last_active, found.last_active.other_than("date", NO_TIME, "missing", "null")),
        )
        for clause in clauses
    ]
    if wrong:
        raise StoreMismatch(
            target.shown,
            f"{'; '.join(wrong)}: `herenow init` without --schema mends them; but a validator would refuse an "
            "application that writes such values",
        )
