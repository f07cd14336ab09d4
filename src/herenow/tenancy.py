"""A tenant, and how its users are told from those of another: one user has one *key*.

Each tenant is a world of its own: its registry, its watchers and its versions know a user by the plain id. Where all
tenants meet, in the store, the writer and the audit, a user is known by the key::

    key = user_id                       without a tenant
    key = tenant + "\\x1f" + user_id     with one

An id that comes from outside has no control characters, so nobody can forge a key. Nothing here ever goes to a client.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, TypeGuard

import msgspec

from herenow.model import StoredUser

MAX_TENANT_LENGTH: Final = 64
"""Characters in a tenant's name, at most."""

TENANT_PATTERN: Final = "^[A-Za-z0-9._-]+$"
"""For OpenAPI; see :data:`herenow.wire.USER_ID_PATTERN`."""

Tenant = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TENANT_LENGTH, pattern=r"\A[A-Za-z0-9._-]+\Z")]

SEPARATOR: Final = "\x1f"
"""ASCII's own: unit separator."""

_TENANT: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_TENANT_LENGTH}}}")


def is_tenant(value: object) -> TypeGuard[str]:
    """Whether this can name a tenant: 1 to 64 ASCII letters, digits, dots, underscores and dashes."""
    return isinstance(value, str) and _TENANT.fullmatch(value) is not None


def key_of(tenant: str | None, user_id: str) -> str:
    """Make the key of a user."""
    return user_id if tenant is None else f"{tenant}{SEPARATOR}{user_id}"


def split(key: str) -> tuple[str | None, str]:
    """Return the tenant and the id that a key was made of. What is no key is an id without a tenant."""
    tenant, separator, user_id = key.partition(SEPARATOR)
    return (tenant, user_id) if separator and is_tenant(tenant) else (None, key)


def tenant_of(key: str) -> str | None:
    """Return the tenant that a key was made of."""
    return split(key)[0]


def shown(tenant: str | None, user_id: str) -> str:
    """Write a user for a person: ``acme/alice``. No two users are written alike.

    A user without a tenant whose id would read so is written with a slash before it.
    """
    if tenant is not None:
        return f"{tenant}/{user_id}"
    first, slash, _ = user_id.partition("/")
    return f"/{user_id}" if slash and (not first or is_tenant(first)) else user_id


def shown_key(key: str) -> str:
    """Write the user of a key for a person; of one without a tenant, as it is, for logs have it so."""
    tenant, user_id = split(key)
    return user_id if tenant is None else shown(tenant, user_id)


def by_tenant(keys: Iterable[str]) -> dict[str | None, list[str]]:
    """Sort the ids that keys were made of by their tenants."""
    sorted_ids: dict[str | None, list[str]] = {}
    for key in keys:
        tenant, user_id = split(key)
        sorted_ids.setdefault(tenant, []).append(user_id)
    return sorted_ids


def rows_by_tenant(rows: Sequence[StoredUser]) -> dict[str | None, list[StoredUser]]:
    """Sort rows of the store by their tenants, each with the plain id, as the tenant's registry knows it."""
    sorted_rows: dict[str | None, list[StoredUser]] = {}
    for row in rows:
        tenant, user_id = split(row.user_id)
        plain = row if tenant is None else msgspec.structs.replace(row, user_id=user_id)
        sorted_rows.setdefault(tenant, []).append(plain)
    return sorted_rows


def keyed(tenant: str | None, rows: Sequence[StoredUser]) -> Sequence[StoredUser]:
    """Return rows of one tenant's registry as the store knows them."""
    if tenant is None:
        return rows
    return [msgspec.structs.replace(row, user_id=key_of(tenant, row.user_id)) for row in rows]
