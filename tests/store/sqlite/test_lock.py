import errno
import fcntl
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from herenow.errors import StoreInUse, StoreNotWritable, StoreUnavailable
from herenow.store.nodes import Node
from herenow.store.sqlite.lock import LockFile
from herenow.store.sqlite.store import SqlStore
from store.databases import execute
from store.processes import child
from store.rows import NOW_MS


def node(*, now_ms: int = NOW_MS) -> Node:
    return Node.here(name="parent", epoch=now_ms, address="http://parent", now_ms=now_ms, lease_ms=5000)


async def test_a_second_server_is_refused_and_told_who_the_first_is(path: Path, store: SqlStore) -> None:
    with child("own", path) as server:
        first = msgspec.json.decode(server.read_line(), type=Node)
        with pytest.raises(StoreInUse) as refused:
            await store.claim_node(node())
        assert (refused.value.pid, refused.value.beat_ms) == (server.pid, first.beat_ms)
        assert f"process {server.pid} on {first.host}, last beat at 20" in str(refused.value)


async def test_it_is_refused_even_when_the_clocks_say_that_the_first_is_long_dead(path: Path, store: SqlStore) -> None:
    with child("own", path) as server:
        first = msgspec.json.decode(server.read_line(), type=Node)
        with pytest.raises(StoreInUse):
            await store.claim_node(node(now_ms=first.beat_ms + 10**9))


async def test_it_is_refused_even_when_someone_removed_the_row_of_the_first(path: Path, store: SqlStore) -> None:
    with child("own", path) as server:
        first = msgspec.json.decode(server.read_line(), type=Node)
        await store.release_node(first)
        with pytest.raises(StoreInUse, match=f"process {server.pid}"):
            await store.claim_node(node())


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
async def test_after_kill_9_the_next_server_starts_at_once(path: Path, store: SqlStore, reaped: bool) -> None:
    with child("own", path) as server:
        first = msgspec.json.decode(server.read_line(), type=Node)
        server.kill()
        if reaped:
            server.reap()
        assert await store.claim_node(node(now_ms=first.beat_ms + 1)) == (first,), "well within its lease"


async def test_a_stopped_server_still_owns_its_store(path: Path, store: SqlStore) -> None:
    with child("own", path) as server:
        first = msgspec.json.decode(server.read_line(), type=Node)
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(StoreInUse):
            await store.claim_node(node(now_ms=first.beat_ms + 10**9))


async def test_who_locked_but_has_not_written_its_row_yet_is_starting(path: Path, store: SqlStore) -> None:
    other = LockFile(path)
    assert other.acquire(node())
    other.path.write_text("")
    with pytest.raises(StoreUnavailable, match="another server is just starting"):
        await store.claim_node(node())
    other.release()
    assert await store.claim_node(node()) == ()


async def test_who_has_not_prepared_the_store_yet_is_named_by_the_lock_file(path: Path) -> None:
    other = LockFile(path)
    assert other.acquire(node())
    store = SqlStore(f"sqlite:///{path}")
    with pytest.raises(StoreInUse, match=f"process {os.getpid()} on {node().host}"):
        await store.claim_node(node())
    other.release()
    await store.close()


async def test_a_claim_that_fails_leaves_no_lock(path: Path) -> None:
    unprepared = SqlStore(f"sqlite:///{path}")
    with pytest.raises(Exception, match="not prepared"):
        await unprepared.claim_node(node())
    assert LockFile(path).acquire(node())
    await unprepared.close()


def test_a_lock_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreNotWritable, match=r"missing/herenow\.db-lock"):
        LockFile(tmp_path / "missing" / "herenow.db").acquire(node())


def test_a_file_system_without_locks_is_an_error_not_a_licence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreNotWritable, match="no locks available"):
        LockFile(path).acquire(node())


def test_a_lock_is_taken_once_and_let_go_once(path: Path) -> None:
    lock = LockFile(path)
    assert lock.acquire(node())
    assert lock.acquire(node())
    assert lock.proves
    lock.release()
    lock.release()
    assert not lock.proves


def remove_lock(path: Path) -> None:
    path.with_name(f"{path.name}-lock").unlink()


async def test_a_lock_file_that_somebody_removed_is_in_its_place_again_with_the_next_beat(
    path: Path, store: SqlStore
) -> None:
    first = node()
    await store.claim_node(first)
    remove_lock(path)
    await store.beat(first)
    other = LockFile(path)
    assert other.is_held()
    assert not other.acquire(replace(first, epoch=2))
    assert other.holder() == first


async def test_who_took_the_lock_meanwhile_owns_the_store(path: Path, store: SqlStore) -> None:
    first = node()
    await store.claim_node(first)
    remove_lock(path)
    other = LockFile(path)
    assert other.acquire(replace(first, pid=7, epoch=2))
    with pytest.raises(StoreInUse, match="process 7 "):
        await store.beat(first)
    with pytest.raises(StoreInUse):
        await store.apply([])
    other.release()


async def test_a_server_that_runs_is_not_replaced_because_somebody_removed_its_lock(
    path: Path, store: SqlStore
) -> None:
    with child("own", path) as server:
        server.read_line()
        remove_lock(path)
        with pytest.raises(StoreInUse, match=f"process {server.pid}"):
            await store.claim_node(node())


@pytest.mark.parametrize("harm", ["DELETE FROM herenow_nodes", "DROP TABLE herenow_nodes"])
async def test_a_server_whose_row_is_gone_is_known_by_its_lock(path: Path, store: SqlStore, harm: str) -> None:
    """A command must not work behind its back until the next beat, and need not wait for that."""
    with child("own", path) as server:
        first = msgspec.json.decode(server.read_line(), type=Node)
        execute(path, harm)
        (known,) = (await store.roll()).sightings
        assert known.is_fresh
        assert (known.node.pid, known.node.address) == (first.pid, first.address)
        server.kill()
        assert not any(each.is_fresh for each in (await store.roll()).sightings)


def test_whether_a_lock_is_held_can_be_asked_without_taking_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = LockFile(path)
    assert lock.is_held() is False, "there is no file"
    with child("own", path) as server:
        server.read_line()
        assert lock.is_held() is True
    assert lock.is_held() is False
    assert not lock.proves
    assert LockFile(tmp_path / "file" / "x").is_held() is False
    path.write_text("")
    assert LockFile(path / "x").is_held() is None, "it cannot be looked at"
    assert not LockFile(path / "x").proves
    monkeypatch.setattr(sys, "platform", "win32")
    assert lock.is_held() is None
