from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from herenow.store.sql import SqlStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of a test is."""
    return tmp_path / "herenow.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqlStore]:
    """A prepared store that does not wait long for locks."""
    store = SqlStore(f"sqlite:///{path}", busy_timeout_ms=50)
    await store.init()
    yield store
    await store.close()
