"""A database of each kind for every test of a store, and a cluster on a Redis of each kind."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import redis_server
from contract.backends import BACKENDS, Backend
from contract.nodes import Cluster
from herenow.store.base import Store


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return BACKENDS[request.param](tmp_path)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    store = backend.store()
    await store.open()
    await store.init()
    yield store
    await store.close()


@pytest.fixture
async def second(backend: Backend, store: Store) -> AsyncIterator[Store]:
    """Another handle on the same database, as another process has."""
    second = backend.store()
    await second.open()
    yield second
    await second.close()


@pytest.fixture(params=redis_server.KINDS)
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    cluster = Cluster(redis_server.shared(request.param).url)
    yield cluster
    for node in cluster.nodes:
        await node.close()


@pytest.fixture
def own_server() -> Iterator[redis_server.RedisServer]:
    server = redis_server.RedisServer()
    server.start()
    yield server
    server.close()
