"""Whose document it is, where the application's collection has users of tenants: a condition inside each write.

``tenant_field`` names the field of a document that holds its user's tenant. A user of tenant T is the document that has
their id and whose field is T; a document whose field is missing, or names no tenant, is of a user of none. What a write
says of one user so never reaches the document of another, whatever the application does to it meanwhile.

Without that field in the settings nothing of this is asked of MongoDB, and a tenant's user is unknown.
"""

from collections.abc import Iterable
from typing import Any

from herenow.store.mongo.connection import Document
from herenow.store.mongo.documents import Fields
from herenow.store.mongo.ids import IdKind, RawId, to_raw
from herenow.tenancy import MAX_TENANT_LENGTH, split

_TENANT = rf"\A[A-Za-z0-9._-]{{1,{MAX_TENANT_LENGTH}}}\z"
"""As in ``herenow.tenancy``, for MongoDB."""


def to_identity(key: str, fields: Fields, kind: IdKind) -> tuple[RawId, str | None] | None:
    """Turn a user's key into the ``_id`` and the tenant of their document; ``None`` if no document can be theirs."""
    if fields.tenant is None:
        raw_id = to_raw(key, kind)  # a tenant's key is no id
        return None if raw_id is None else (raw_id, None)
    tenant, user_id = split(key)
    raw_id = to_raw(user_id, kind)
    return None if raw_id is None else (raw_id, tenant)


def are_theirs(identities: Iterable[tuple[Any, str | None]], fields: Fields) -> Document:
    """The condition that documents are those of these users, by id and tenant."""
    pairs = list(identities)
    theirs: Document = {"_id": {"$in": [raw_id for raw_id, _ in pairs]}}
    if fields.tenant is not None:
        theirs["$expr"] = {"$gte": [place_among(pairs, fields), 0]}
    return theirs


def place_among(identities: Iterable[tuple[Any, str | None]], fields: Fields) -> Document:
    """Say at which place among these users that of a document is; an expression, -1 for none."""
    if fields.tenant is None:
        return {"$indexOfArray": [{"$literal": [raw_id for raw_id, _ in identities]}, "$_id"]}
    pairs = [[raw_id, tenant] for raw_id, tenant in identities]
    return {"$indexOfArray": [{"$literal": pairs}, ["$_id", _tenant_of(fields.tenant)]]}


def _tenant_of(field: str) -> Document:
    value = f"${field}"
    text = {"$cond": [{"$eq": [{"$type": value}, "string"]}, value, ""]}
    return {"$cond": [{"$regexMatch": {"input": text, "regex": _TENANT}}, value, None]}
