"""The collection's validator, with the presence fields in it. What the application wrote there stays."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from herenow.store.mongo.connection import Document
from herenow.store.mongo.documents import Fields


def allow(validator: Mapping[str, Any], fields: Fields) -> Document:
    """Add the types of the three fields where the schema does not have them yet."""
    changed = deepcopy(dict(validator))
    schema = changed.setdefault("$jsonSchema", {"bsonType": "object"})
    properties = schema.setdefault("properties", {})
    properties.setdefault(fields.is_online, {"bsonType": "bool"})
    properties.setdefault(fields.last_active, {"bsonType": ["date", "null"]})
    properties.setdefault(fields.presence, {"bsonType": "object"})
    return changed


def require(validator: Mapping[str, Any], fields: Fields) -> Document:
    """Add the application's two fields to those that every document must have."""
    changed = allow(validator, fields)
    required = changed["$jsonSchema"].setdefault("required", [])
    required += [name for name in (fields.is_online, fields.last_active) if name not in required]
    return changed
