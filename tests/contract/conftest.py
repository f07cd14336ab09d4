"""A database of each kind for every test of a store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.backends import BACKENDS, Backend
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
