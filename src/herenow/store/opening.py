"""The store that the settings name."""

from typing import Protocol

from herenow.errors import StoreUrlInvalid
from herenow.store.address import is_mongo, without_secrets
from herenow.store.base import Store


class StoreSettings(Protocol):
    """What must be known to open a store; ``herenow.settings.Settings`` says what each means."""

    @property
    def database(self) -> str: ...
    @property
    def users_collection(self) -> str: ...
    @property
    def is_online_field(self) -> str: ...
    @property
    def last_active_field(self) -> str: ...
    @property
    def presence_field(self) -> str: ...
    @property
    def tenant_field(self) -> str | None: ...
    @property
    def create_users(self) -> bool: ...
    @property
    def database_timeout_s(self) -> float: ...
    @property
    def sqlite_log_limit(self) -> int: ...


def open_store(settings: StoreSettings) -> Store:
    """Return the store that the settings name; it is not opened yet. Only its own driver is loaded.

    Raises:
        StoreUrlInvalid: no store has such an address, or its driver is not installed.
    """
    if not is_mongo(settings.database):
        from herenow.store.sqlite.store import SqlStore

        return SqlStore(settings.database, timeout_s=settings.database_timeout_s, log_limit=settings.sqlite_log_limit)
    try:
        from herenow.store.mongo.documents import Fields
        from herenow.store.mongo.store import MongoStore
    except ModuleNotFoundError as error:
        shown = without_secrets(settings.database)
        raise StoreUrlInvalid(shown, f"MongoDB needs {error.name}: pip install 'herenow[mongo]'") from error
    return MongoStore(
        settings.database,
        collection=settings.users_collection,
        fields=Fields(
            settings.is_online_field, settings.last_active_field, settings.presence_field, settings.tenant_field
        ),
        create_users=settings.create_users,
        timeout_s=settings.database_timeout_s,
    )
