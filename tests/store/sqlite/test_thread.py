"""A disk that is frozen, as it looks to whoever asks: a call that never comes back."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from herenow.errors import StoreUnavailable
from herenow.store.sqlite.store import SqlStore
from herenow.store.sqlite.thread import Hangs, Thread
from store.rows import online


@pytest.fixture
def thaws() -> Iterator[threading.Event]:
    """Until it is set, what waits for it hangs."""
    event = threading.Event()
    yield event
    event.set()


async def test_whoever_waits_for_what_hangs_gives_up_and_whoever_comes_next_is_told_at_once(
    thaws: threading.Event,
) -> None:
    thread = Thread("test")
    done: list[str] = []
    assert await thread.do(lambda: 1, within_s=10) == 1
    hanging = asyncio.create_task(thread.do(thaws.wait, within_s=0.2))
    behind = asyncio.create_task(thread.do(lambda: done.append("behind"), within_s=0.1))
    for task in (hanging, behind):
        with pytest.raises(Hangs):
            await task
    began_s = time.monotonic()
    with pytest.raises(Hangs):
        await thread.do(lambda: done.append("next"), within_s=60)
    assert time.monotonic() - began_s < 5
    thaws.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await thread.do(lambda: 2, within_s=5) == 2
                break
            except Hangs:
                await asyncio.sleep(0.01)
    assert done == [], "what was given up before it began is not done"
    thread.end()


async def test_what_waits_behind_something_long_waits_as_long_as_that_may_take() -> None:
    thread = Thread("test")
    long = asyncio.create_task(thread.do(lambda: time.sleep(0.3), within_s=10))
    assert await thread.do(lambda: 1, within_s=0.05) == 1
    await long
    thread.end()


async def test_an_error_comes_to_whoever_asked() -> None:
    thread = Thread("test")
    with pytest.raises(ZeroDivisionError):
        await thread.do(lambda: 1 // 0, within_s=1)
    assert await thread.do(lambda: 1, within_s=1) == 1
    thread.end()


async def test_a_frozen_database_is_unavailable_in_time_and_thaws(path: Path, thaws: threading.Event) -> None:
    store = SqlStore(f"sqlite:///{path}", timeout_s=0.2, busy_timeout_ms=50)
    await store.init()
    writing = asyncio.create_task(store._file.write(lambda _: thaws.wait()))
    reading = asyncio.create_task(store._file.read(lambda _: thaws.wait()))
    for each in (writing, reading):
        with pytest.raises(StoreUnavailable, match="did not answer in time"):
            await each
    began_s = time.monotonic()
    for attempt in (store.counts(), store.roll(), store.read(["alice"]), store.max_version()):
        with pytest.raises(StoreUnavailable):
            await attempt
    with pytest.raises(StoreUnavailable):
        await store.apply([online("alice")])
    assert time.monotonic() - began_s < 2
    thaws.set()
    async with asyncio.timeout(5):
        while True:
            try:
                await store.apply([online("alice")])
                assert (await store.counts()).online == 1
                break
            except StoreUnavailable:
                await asyncio.sleep(0.01)
    await store.close()


def test_a_process_ends_though_its_disk_is_frozen(path: Path) -> None:
    """The interpreter would wait for the thread for ever."""
    code = f"""
import asyncio, threading
from herenow.store.sqlite.store import SqlStore
async def main():
    store = SqlStore("sqlite:///{path}", timeout_s=0.1)
    await store.init()
    try:
        await store._file.read(lambda _: threading.Event().wait())
    finally:
        await store.close()
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert "did not answer in time" in ended.stderr
