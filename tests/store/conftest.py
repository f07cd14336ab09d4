from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import mongod
from herenow.store.mongo.store import MongoStore
from herenow.store.sqlite.store import SqlStore
from store.shop import Shop


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of a test is."""
    return tmp_path / "herenow.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqlStore]:
    """A prepared store that does not wait long for locks, but for a busy machine."""
    store = SqlStore(f"sqlite:///{path}", busy_timeout_ms=50, timeout_s=30)
    await store.init()
    yield store
    await store.close()


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A database without collections, on the server that all tests share."""
    server = mongod.shared()
    with server.client() as client:
        yield Shop(client, server)


@pytest.fixture
async def kept(shop: Shop) -> AsyncIterator[MongoStore]:
    """A prepared store on it."""
    store = shop.store()
    await store.init()
    yield store
    await store.close()
