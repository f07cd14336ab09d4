"""Who owns the store, at a glance; in doubt it says nobody, and the store itself is asked."""

from pathlib import Path

import pytest

from herenow.store.nodes import Node
from herenow.store.sqlite.glance import live_node
from herenow.store.sqlite.store import SqlStore
from store.databases import execute, put_file
from store.rows import NOW_MS


@pytest.fixture
def node() -> Node:
    return Node.here(name="local", epoch=1, address="http://127.0.0.1:1", now_ms=NOW_MS, lease_ms=5_000)


async def test_the_live_owner_is_seen_as_the_store_says(path: Path, store: SqlStore, node: Node) -> None:
    assert live_node(path, NOW_MS) is None
    await store.claim_node(node)
    (known,) = (await store.roll()).nodes
    assert live_node(path, known.beat_ms) == known
    assert live_node(path, known.beat_ms + 5_000) is None, "its lease has run out"
    assert live_node(path, known.beat_ms - 1) is None, "a beat from the future says nothing"
    await store.beat(node)
    (later,) = (await store.roll()).nodes
    assert live_node(path, known.beat_ms + 5_000 - 1) == later


@pytest.mark.parametrize("broken", ["missing", "no database", "unprepared", "another program's row"])
async def test_in_doubt_there_is_nobody(path: Path, broken: str, node: Node) -> None:
    match broken:
        case "no database":
            put_file(path, b"a text of some length" * 1_000)
        case "unprepared":
            execute(path, "CREATE TABLE users (id TEXT)")
        case "another program's row":
            store = SqlStore(f"sqlite:///{path}")
            await store.init()
            await store.claim_node(node)
            await store.close()
            execute(path, "UPDATE herenow_nodes SET pid = 'a word'")
    assert live_node(path, NOW_MS) is None
