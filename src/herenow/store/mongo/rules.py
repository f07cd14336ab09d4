"""What of a collection's validator refuses the fields of presence, and the change that lets them in.

Two looks, for neither is enough. The rules of a ``$jsonSchema`` are read, to name the one that is in the way and what
to write there. And the database itself is asked, with documents of the application's as they would be with our fields:
then rules of every kind count (``$expr``, ``$or``, patterns), and none is blamed that lets them pass another way.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import msgspec
from bson import Int64, json_util
from pymongo.errors import OperationFailure

from herenow.store.mongo.connection import Database, Document
from herenow.store.mongo.documents import NEVER, Fields

_LOOKED_AT = 100
"""Documents with which the database is asked."""

_SHOWN = 300
"""Characters of a rule that nobody can name, at most."""


class Objection(msgspec.Struct, frozen=True):
    """A rule that is in the way, and the change to make, each as a clause."""

    rule: str
    change: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.change}"


def types_of(fields: Fields) -> dict[str, Document]:
    """What a schema has to say of each field."""
    return {
        fields.is_online: {"bsonType": "bool"},
        fields.last_active: {"bsonType": ["date", "null"]},
        fields.presence: {"bsonType": "object"},
    }


async def find_objections(
    database: Database,
    name: str,
    fields: Fields,
    change: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> list[str]:
    """Say what of the validator of a collection refuses our fields, a sentence each; nothing where it only warns.

    Args:
        database: where the collection is.
        name: of the collection.
        fields: the names of the fields.
        change: what is to be done to the validator before it counts.

    Raises:
        PyMongoError: it cannot be read.
    """
    found = [each async for each in await database.list_collections(filter={"name": name})]
    options: Mapping[str, Any] = found[0].get("options", {}) if found else {}
    validator: Mapping[str, Any] = options.get("validator", {})
    if not validator or options.get("validationLevel") == "off" or options.get("validationAction") == "warn":
        return []
    rules = validator if change is None else change(validator)
    changed, objections = amend(rules, fields)
    is_refused = await _refuses(database, name, fields, validator, rules)
    if is_refused is False:
        return []
    if is_refused and await _refuses(database, name, fields, validator, changed):
        objections += await _find_the_rest(database, name, fields, changed, validator)
    return [f"the validator of {name} refuses what herenow writes: {objection}" for objection in objections]


def amend(validator: Mapping[str, Any], fields: Fields) -> tuple[Document, list[Objection]]:
    """Read the schemas of a validator; return it as it has to be, and what was in the way."""
    changed = deepcopy(dict(validator))
    objections: list[Objection] = []
    if "$jsonSchema" in changed:
        objections += _amend_schema(changed["$jsonSchema"], fields, "$jsonSchema")
    for place, part in enumerate(changed.get("$and", ())):
        if isinstance(part, dict) and "$jsonSchema" in part:
            objections += _amend_schema(part["$jsonSchema"], fields, f"$and[{place}].$jsonSchema")
    return changed, objections


def _amend_schema(schema: Document, fields: Fields, place: str) -> list[Objection]:
    objections: list[Objection] = []
    properties: Document = schema.get("properties", {})
    for name, expected in types_of(fields).items():
        if name in properties and not all(_takes(properties[name], value) for value in _values(name, fields)):
            rule = f"{place}.properties.{name} is {_json(properties[name])}"
            objections.append(Objection(rule, f"write {_json(expected)} there"))
            properties[name] = expected
    if schema.get("additionalProperties", True) is not True:
        patterns = schema.get("patternProperties", {})
        unknown = {
            name: expected
            for name, expected in types_of(fields).items()
            if name not in properties and not any(_matches(pattern, name) for pattern in patterns)
        }
        if unknown:
            schema["properties"] = {**properties, **unknown}
            rule = f"{place}.additionalProperties is {_json(schema['additionalProperties'])}"
            objections.append(Objection(rule, f"add to {place}.properties {_json(unknown)}"))
    for place_inside, part in _parts(schema, "allOf"):
        objections += _amend_schema(part, fields, f"{place}.{place_inside}")
    for word in ("anyOf", "oneOf"):
        of_each = [_amend_schema(part, fields, f"{place}.{inside}") for inside, part in _parts(schema, word)]
        if all(of_each):  # one that lets them pass is enough
            objections += [each for objections_of_one in of_each for each in objections_of_one]
    return objections


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:  # MongoDB knows more of them: it is asked itself
        return True


def _parts(schema: Document, word: str) -> Iterator[tuple[str, Document]]:
    for place, part in enumerate(schema.get(word, ())):
        yield f"{word}[{place}]", part


def _values(name: str, fields: Fields) -> list[Any]:
    return [each[name] for each in _looks(fields)]


def _takes(rule: Any, value: Any) -> bool:
    """Say whether a property's schema takes a value, as far as one can read: of what is not known, the database is."""
    if not isinstance(rule, dict):
        return True
    is_type = {bool: "bool", dict: "object", str: "string", Int64: "long"}.get(type(value), "date")
    known = {"boolean": "bool", "integer": "long"}
    for word in ("bsonType", "type"):
        types = rule.get(word, is_type)
        types = [types] if isinstance(types, str) else types
        names = {known.get(each, each) for each in types}
        if is_type not in names and not (is_type == "long" and "number" in names):
            return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    if not isinstance(value, dict):
        return True
    properties = rule.get("properties", {})
    is_closed = rule.get("additionalProperties", True) is False
    if is_closed and any(name not in properties for name in value):
        return False
    if any(name not in value for name in rule.get("required", ())):
        return False
    return all(_takes(properties.get(name), part) for name, part in value.items())


def _looks(fields: Fields) -> list[Document]:
    """The fields as they may be written."""
    claim = {"availability": "busy", "text": "at lunch", "until": NEVER}
    busy = {"availability": "busy", "version": Int64(2**50), "claim": claim}
    offline = {"availability": "offline", "version": Int64(2**50)}
    return [
        {fields.is_online: True, fields.last_active: NEVER, fields.presence: busy},
        {fields.is_online: False, fields.last_active: NEVER, fields.presence: offline},
    ]


async def _refuses(
    database: Database, name: str, fields: Fields, validator: Mapping[str, Any], changed: Mapping[str, Any]
) -> bool | None:
    """Ask the database whether a rule refuses documents with our fields which are valid; ``None`` if there are none."""
    users = database[name]
    is_valid: list[Document] = [{"$limit": _LOOKED_AT}, {"$match": validator}]
    try:
        if not await (await users.aggregate([*is_valid, {"$limit": 1}])).to_list():
            return None
        for look in _looks(fields):
            ours: Document = {"$set": {field: {"$literal": value} for field, value in look.items()}}
            refused = [*is_valid, ours, {"$match": {"$nor": [changed]}}, {"$limit": 1}]
            if await (await users.aggregate(refused)).to_list():
                return True
    except OperationFailure:  # a rule that fails over some document says nothing about ours
        return None
    return False


async def _find_the_rest(
    database: Database, name: str, fields: Fields, changed: Document, validator: Mapping[str, Any]
) -> list[Objection]:
    """The rules that refuse our fields, and are none that can be read."""
    wanted = _json(_looks(fields)[0])
    return [
        Objection(f"{_json({word: rule})[:_SHOWN]} does", f"change it so that users pass who have {wanted}")
        for word, rule in changed.items()
        if await _refuses(database, name, fields, validator, {word: rule})
    ]


def _json(value: Any) -> str:
    plain = json.loads(json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS))
    return json.dumps(plain, ensure_ascii=False)
