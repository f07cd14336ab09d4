"""The store of an address."""

from herenow.store.base import Store
from herenow.store.sql import SqlStore


def open_store(database: str) -> Store:
    """Return the store of an address; it is not opened yet.

    Raises:
        StoreUrlInvalid: no store has such an address.
    """
    return SqlStore(database)
