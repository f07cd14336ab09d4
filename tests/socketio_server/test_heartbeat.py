"""The timing wheel, and the one timer that turns it."""

import asyncio
import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herenow.socketio_server.engineio.heartbeat import Heartbeat, Wheel
from herenow.steady import Steady
from support import until

NEVER = float("inf")


class Item:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.wheel_slot: int | None = None


def test_an_item_is_never_early_and_at_most_one_tick_late() -> None:
    wheel: Wheel[Item] = Wheel(10)
    item = Item()
    wheel.schedule(item, 101)
    assert wheel.turn(109) == []
    assert wheel.turn(110) == [item]
    assert wheel.turn(1_000) == []
    assert not wheel


def test_an_item_can_be_moved_and_cancelled() -> None:
    wheel: Wheel[Item] = Wheel(10)
    item, other = Item(), Item()
    wheel.schedule(item, 50)
    wheel.schedule(other, 50)
    wheel.schedule(item, 90)
    wheel.schedule(item, 85)  # the same slot
    assert wheel.turn(50) == [other]
    wheel.cancel(item)
    wheel.cancel(item)
    assert wheel.turn(200) == []
    wheel.schedule(item, 300)
    wheel.schedule(item, NEVER)
    assert not wheel


def test_an_item_that_is_put_off_stays_and_one_that_is_hastened_moves() -> None:
    wheel: Wheel[Item] = Wheel(10)
    item = Item()
    wheel.hasten(item, 90)
    wheel.hasten(item, 200)
    assert wheel.turn(90) == [item]
    wheel.hasten(item, 200)
    wheel.hasten(item, NEVER)
    wheel.hasten(item, 150)
    assert wheel.turn(150) == [item]
    wheel.hasten(item, NEVER)
    assert not wheel


def test_what_is_overdue_comes_at_the_next_turn() -> None:
    wheel: Wheel[Item] = Wheel(10)
    item = Item()
    assert wheel.turn(1_000) == []
    wheel.schedule(item, 5)
    assert wheel.turn(1_000) == []
    assert wheel.turn(1_010) == [item]


def test_a_long_sleep_of_the_machine_costs_no_more_than_its_items() -> None:
    wheel: Wheel[Item] = Wheel(1)
    early, late = Item("early"), Item("late")
    wheel.schedule(late, 7_000_000)
    wheel.schedule(early, 5)
    assert wheel.turn(10**15) == [early, late]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=30))
def test_every_item_comes_once_and_in_time(schedule: list[tuple[int, int]]) -> None:
    wheel: Wheel[Item] = Wheel(7)
    due: dict[Item, int] = {}
    came: dict[Item, float] = {}
    for first, second in schedule:
        item = Item()
        wheel.schedule(item, first)
        wheel.schedule(item, second)
        due[item] = second
    for tick in range(600):
        for item in wheel.turn(tick):
            assert item not in came
            came[item] = tick
    assert came.keys() == due.keys()
    for item, now in came.items():
        assert due[item] <= now <= due[item] + 7


async def test_one_timer_turns_the_wheel_and_none_while_it_is_empty() -> None:
    loop = asyncio.get_running_loop()
    came: asyncio.Queue[tuple[Item, float]] = asyncio.Queue()
    heartbeat: Heartbeat[Item] = Heartbeat(5, lambda item, now_ms: came.put_nowait((item, now_ms)), Steady())
    item, cancelled = Item(), Item()
    start_ms = loop.time() * 1000
    heartbeat.schedule(item, start_ms + 20)
    heartbeat.schedule(cancelled, start_ms + 20)
    heartbeat.cancel(cancelled)
    first, now_ms = await came.get()
    assert first is item
    assert now_ms >= start_ms + 20
    await asyncio.sleep(0.02)
    assert heartbeat._timer is None
    heartbeat.schedule(item, loop.time() * 1000 + 20)
    assert (await came.get())[0] is item


async def test_an_item_that_raises_stops_no_other() -> None:
    """The heart of ten thousand sessions must not stop for the fault of one."""
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    came: asyncio.Queue[str] = asyncio.Queue()

    def on_due(item: Item, now_ms: float) -> None:
        if item.name == "bad":
            raise ValueError("bad")
        came.put_nowait(item.name)

    heartbeat: Heartbeat[Item] = Heartbeat(5, on_due, Steady())
    for name in ("bad", "good", "better"):
        heartbeat.schedule(Item(name), loop.time() * 1000 + 10)
    assert {await came.get(), await came.get()} == {"good", "better"}
    assert [str(fault["exception"]) for fault in faults] == ["bad"]


def test_of_a_crowd_the_earliest_come_first_and_the_rest_stay_due() -> None:
    wheel: Wheel[Item] = Wheel(10)
    early, late, gone = [Item() for _ in range(30)], [Item() for _ in range(30)], Item()
    for item in (*late, gone):
        wheel.schedule(item, 90)
    for item in early:
        wheel.schedule(item, 80)
    first = wheel.turn(100, 40)
    assert first[:30] == sorted(early, key=first.index)
    wheel.cancel(gone)
    rest = wheel.turn(100, 40)
    assert {*first, *rest} - {gone} == {*early, *late}
    assert not wheel


async def test_a_crowd_that_is_due_at_once_leaves_the_loop_to_others_in_between() -> None:
    loop = asyncio.get_running_loop()
    done, all_done, turns = 0, asyncio.Event(), []

    def on_due(item: Item, now_ms: float) -> None:
        nonlocal done
        done += 1
        if done == 1_000:
            all_done.set()

    def other() -> None:
        turns.append(done)
        if done < 1_000:
            loop.call_soon(other)

    heartbeat: Heartbeat[Item] = Heartbeat(5, on_due, Steady())
    for _ in range(1_000):
        heartbeat.schedule(Item(), loop.time() * 1000 + 10)
    other()
    async with asyncio.timeout(5):
        await all_done.wait()
    assert len({*turns}) >= 10


async def test_a_tick_that_comes_late_reads_before_it_judges() -> None:
    """What came meanwhile waits in the kernel: an item is due only if it is so still after that was read."""
    loop = asyncio.get_running_loop()
    came: list[str] = []
    heartbeat: Heartbeat[Item] = Heartbeat(5, lambda item, now_ms: came.append("judged"), Steady())
    heartbeat.schedule(Item(), loop.time() * 1000 + 10)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop.add_reader(ours, lambda: loop.call_soon(came.append, ours.recv(1).decode()))  # as a task takes one more turn
    theirs.send(b"x")
    time.sleep(0.1)  # noqa: ASYNC251  # the loop stands
    await until(lambda: len(came) == 2)
    assert came == ["x", "judged"]
    loop.remove_reader(ours)
    ours.close()
    theirs.close()


async def test_a_wheel_that_was_empty_for_a_moment_has_one_timer() -> None:
    loop = asyncio.get_running_loop()
    other, came = Item("other"), asyncio.Event()

    def on_due(item: Item, now_ms: float) -> None:
        if item.name == "first":
            heartbeat.cancel(other)
            heartbeat.schedule(other, now_ms + 10)
        elif item.name == "other":
            heartbeat.schedule(Item("last"), now_ms)
            came.set()

    clock = Steady()
    heartbeat: Heartbeat[Item] = Heartbeat(5, on_due, clock)
    heartbeat.schedule(Item("first"), loop.time() * 1000 + 5)
    heartbeat.schedule(other, loop.time() * 1000 + 50)
    async with asyncio.timeout(5):
        await came.wait()
    await until(lambda: heartbeat._timer is None)
    assert clock._timer is None


def test_a_second_event_loop_has_a_heartbeat_too() -> None:
    """A timer that the first loop never let ring was once taken for one that is still to come."""
    came: list[Item] = []
    heartbeat: Heartbeat[Item] = Heartbeat(50, lambda item, now_ms: came.append(item), Steady())
    item = Item()

    async def begin_and_end() -> None:
        heartbeat.schedule(item, asyncio.get_running_loop().time() * 1000 + 5000)
        heartbeat.cancel(item)

    async def begin() -> None:
        heartbeat.schedule(item, asyncio.get_running_loop().time() * 1000 + 10)
        await asyncio.sleep(0.2)

    asyncio.run(begin_and_end())
    asyncio.run(begin())
    assert came == [item]


async def test_a_wheel_that_raises_is_turned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[str] = []
    came: asyncio.Queue[str] = asyncio.Queue()
    heartbeat: Heartbeat[Item] = Heartbeat(
        5, lambda item, now_ms: came.put_nowait(item.name), Steady(), on_fault=lambda name, error: faults.append(name)
    )
    turn = heartbeat._wheel.turn
    monkeypatch.setattr(heartbeat._wheel, "turn", lambda now_ms, limit: turn(now_ms, limit) if faults else 1 / 0)
    heartbeat.schedule(Item("one"), asyncio.get_running_loop().time() * 1000 + 10)
    async with asyncio.timeout(10):
        assert await came.get() == "one"
    assert faults == ["heartbeat"]
