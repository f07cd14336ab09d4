"""The log of SQLite while another program reads an old state of the file: a process of its own."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from captured import capture_logs
from herenow.errors import StoreUnavailable
from herenow.keeper.writer import Writer
from herenow.model import StoredUser
from herenow.store.nodes import Node
from herenow.store.sqlite.store import SqlStore
from herenow.store.sqlite.wal import SMALL, may_grow
from store.databases import select
from store.processes import child
from store.rows import offline, online

MB = 2**20


def log_of(path: Path) -> int:
    log = path.with_name(f"{path.name}-wal")
    return log.stat().st_size if log.exists() else 0


def crowd(version: int) -> list[StoredUser]:
    turn = online if version % 2 else offline
    return [turn(f"user-{n:03}", version=version) for n in range(500)]


def test_the_log_may_take_as_much_as_the_limit_and_as_the_disk_has_left() -> None:
    assert may_grow(SMALL, 0, 0, in_bulk=True)
    assert may_grow(100 * MB, 100 * MB, 100 * MB, in_bulk=True)
    assert not may_grow(100 * MB + 1, 900 * MB, 100 * MB, in_bulk=True)
    assert not may_grow(50 * MB, 49 * MB, 100 * MB, in_bulk=True)
    assert may_grow(150 * MB, 900 * MB, 100 * MB, in_bulk=False)
    assert not may_grow(201 * MB, 900 * MB, 100 * MB, in_bulk=False)


async def test_the_log_has_an_end_while_a_reader_holds_it_and_nothing_is_lost(path: Path) -> None:
    """It grew without end: 80 MB a second in a storm, until the disk was full for everybody."""
    store = SqlStore(f"sqlite:///{path}", log_limit=3 * MB)
    await store.init()
    await store.apply(crowd(1))
    writer = Writer(store, window_s=0.001)
    writing = asyncio.create_task(writer.run())
    node = Node.here(name="here", epoch=1, address="", now_ms=1, lease_ms=5000)
    await store.claim_node(node)
    version = 1
    with child("read", path) as reader, capture_logs() as logs:
        reader.read_line()
        while writer.state().failures == 0:
            version += 1
            writer.submit(crowd(version))
            await asyncio.sleep(0.005)
            assert version < 5000
        for _ in range(20):
            version += 1
            writer.submit(crowd(version))
            await asyncio.sleep(0.01)
        assert 3 * MB < log_of(path) < 5 * MB
        assert (writer.state().healthy, writer.state().pending) == (False, 500)
        assert "another program keeps reading an old state" in str(writer.state().last_error)
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["store failed"]
        before_ms = (await store.roll()).nodes[0].beat_ms
        await store.beat(node)
        assert (await store.roll()).nodes[0].beat_ms > before_ms, "it still says that it lives"
        reader.let_go()
    assert await writer.drain(10) == 0
    assert writer.state().healthy
    assert (await store.read(["user-000"]))["user-000"].is_online == (version % 2 == 1)
    assert log_of(path) < 3 * MB
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await store.close()
    assert select(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no disk may be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


async def test_on_a_small_disk_the_log_leaves_room_for_the_application(small_disk: Path) -> None:
    path = small_disk / "herenow.db"
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    await store.apply(crowd(1))
    with child("read", path) as reader:
        reader.read_line()
        with pytest.raises(StoreUnavailable, match="another program keeps reading an old state"):
            for version in range(2, 2000):
                await store.apply(crowd(version))
        left = os.statvfs(small_disk)
        assert left.f_bavail * left.f_frsize > 4 * MB
        reader.let_go()
    assert (await store.apply(crowd(5000))).written == 500
    for version in range(5001, 5100):  # without a reader it never comes so far
        await store.apply(crowd(version))
    await store.close()
