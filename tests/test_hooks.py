"""Handlers of changes that are slow: they keep nobody, what waits is bounded, and a stop waits 2 s for them."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from captured import capture_logs
from herenow import hooks
from herenow.hooks import Hooks
from herenow.model import Availability, Cause, Change, Closing
from herenow.presence import Presence
from support import until


def change(n: int) -> Change:
    return Change(f"user-{n}", True, Availability.ONLINE, n, None, None, n, cause=Cause.CONNECT)


class Handler:
    """Takes as long as the test lets it."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.at_once = self.most_at_once = 0
        self.may_go_on = asyncio.Event()

    async def __call__(self, change: Change) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.may_go_on.wait()
        self.heard.append(change.version)
        self.at_once -= 1


async def test_a_slow_handler_hears_one_change_at_a_time_in_order_and_keeps_no_other() -> None:
    slow, quick = Handler(), []
    told = Hooks(lambda: None)
    told.add(slow)
    told.add(lambda change: quick.append(change.version))
    told.tell([change(n) for n in range(5)])
    assert quick == [0, 1, 2, 3, 4]
    slow.may_go_on.set()
    await until(lambda: slow.heard == quick)
    assert slow.most_at_once == 1


async def test_what_waits_is_bounded_and_drops_are_counted_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "MOST_WAITING", 3)
    dropped: list[None] = []
    slow, told = Handler(), Hooks(lambda: dropped.append(None))
    told.add(slow)
    with capture_logs() as lines:
        told.tell([change(n) for n in range(10)])
        assert len(dropped) == 6
        assert [line["event"] for line in lines] == ["a change handler is too slow: changes are dropped"]
        slow.may_go_on.set()
        await until(lambda: slow.heard == [0, 7, 8, 9])  # the latest: what they say is still so
        slow.may_go_on.clear()
        told.tell([change(n) for n in range(10, 20)])
        assert len(lines) == 2, "once it had caught up, it is news again"
    slow.may_go_on.set()
    await told.drain(10)


async def test_one_that_raises_or_is_cancelled_hears_of_the_next_change() -> None:
    heard: list[int] = []

    async def fails(change: Change) -> None:
        heard.append(change.version)
        raise (ZeroDivisionError if change.version % 2 else asyncio.CancelledError)

    def at_times(change: Change) -> Any:
        if change.version == 0:
            return fails(change)
        heard.append(change.version)
        raise ZeroDivisionError

    for handler in (fails, at_times):
        heard.clear()
        told = Hooks(lambda: None)
        told.add(handler)
        with capture_logs() as lines:
            told.tell([change(n) for n in range(4)])
            await until(lambda: heard == [0, 1, 2, 3])
            await until(lambda: len(lines) == 2)
        assert {line["event"] for line in lines} == {"a change handler raised"}


async def test_who_unsubscribes_hears_no_more_also_of_what_waits() -> None:
    slow, told = Handler(), Hooks(lambda: None)
    remove = told.add(slow)
    told.tell([change(0), change(1)])
    remove()
    remove()
    assert not told
    slow.may_go_on.set()
    await until(lambda: slow.heard == [0])
    await asyncio.sleep(0.01)
    assert slow.heard == [0]


async def test_a_stop_lets_slow_handlers_hear_the_rest(tmp_path: Path) -> None:
    presence = Presence(f"sqlite:///{tmp_path}/app.db", dev=True)
    await presence.start()
    heard: list[tuple[str, bool]] = []

    async def slow(change: Change) -> None:
        await asyncio.sleep(0.05)
        heard.append((change.user_id, change.is_online))

    presence.on_change(slow)
    for name in ("alice", "bob", "carol"):
        await presence.registry.connect(name, name, node="n")
    await presence.registry.disconnect("alice", "alice", Closing.LEFT)
    await presence.stop()
    assert len(heard) == 6
    assert {name for name, is_online in heard if not is_online} == {"alice", "bob", "carol"}


async def test_a_stop_waits_no_longer_than_2_s_for_a_handler_that_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herenow.service.HOOKS_END_S", 0.1)
    presence = Presence(f"sqlite:///{tmp_path}/app.db", dev=True)
    await presence.start()
    ended = asyncio.Event()

    async def never(change: Change) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    presence.on_change(never)
    await presence.registry.connect("alice", "c", node="n")
    began_s = time.monotonic()
    with capture_logs() as lines:
        await presence.stop()
    assert time.monotonic() - began_s < 3
    assert ended.is_set()
    assert [line["changes"] for line in lines if line["event"] == "a change handler did not end in time"] == [2]
