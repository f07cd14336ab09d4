"""The clock that stands while its process does, turned by hand; and the calls that are ordered from it."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herenow.steady import LATE_S, TICK_S, Steady


class Hand:
    """A system clock that a test turns, in seconds."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def read(self) -> float:
        return self.now_s


def test_it_goes_like_the_systems_while_it_is_wound_in_time() -> None:
    hand = Hand()
    clock = Steady(hand.read)
    clock.wind()
    for _ in range(50):
        hand.now_s += LATE_S - 0.01
        assert clock.now_ms() == pytest.approx(hand.now_s * 1000)
        clock.wind()
    assert clock.now_ms() == pytest.approx(hand.now_s * 1000)


def test_a_tick_that_comes_late_moves_all_deadlines_by_its_lateness() -> None:
    hand = Hand()
    clock = Steady(hand.read)
    clock.wind()
    hand.now_s += 0.05
    before_ms = clock.now_ms()
    hand.now_s += 20
    assert clock.now_ms() == before_ms, "who reads it before the tick must not find everybody late"
    clock.wind()
    assert clock.now_ms() == before_ms
    hand.now_s += 0.1
    assert clock.now_ms() == pytest.approx(before_ms + 100)


def test_unwound_it_is_the_systems() -> None:
    hand = Hand()
    clock = Steady(hand.read)
    hand.now_s += 3600
    assert clock.now_ms() == hand.now_s * 1000


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=40))
def test_it_never_goes_back_and_never_faster_than_the_systems(steps: list[tuple[float, bool]]) -> None:
    hand = Hand()
    clock = Steady(hand.read)
    clock.wind()
    latest_ms = clock.now_ms()
    for elapsed_s, is_tick in steps:
        hand.now_s += elapsed_s
        if is_tick:
            clock.wind()
        assert latest_ms <= clock.now_ms() <= latest_ms + elapsed_s * 1000 + 1e-6
        latest_ms = clock.now_ms()


async def test_what_was_ordered_waits_until_the_clock_has_gone_on_and_not_the_systems() -> None:
    """A closing handshake, a request: each was cut off at once after the process had stood still."""
    clock, came = Steady(), asyncio.Event()
    clock.call_later(0.3, came.set)
    taken_back = clock.call_later(0.1, lambda: pytest.fail("it was taken back"))
    taken_back.cancel()
    taken_back.cancel()
    time.sleep(1)  # noqa: ASYNC251  # the loop stands, as with a disk that hangs
    await asyncio.sleep(0.1)
    assert not came.is_set()
    async with asyncio.timeout(5):
        await came.wait()
    assert clock._timer is None, "nobody waits any more: nothing is left to wind"


async def test_a_time_out_counts_on_it() -> None:
    clock = Steady()
    with pytest.raises(TimeoutError):
        async with clock.timeout(0.02):
            await asyncio.sleep(5)
    async with clock.timeout(0.3):
        time.sleep(0.6)  # noqa: ASYNC251
        await asyncio.sleep(0.05)


def test_a_second_event_loop_winds_it_too() -> None:
    """The first may end without a word; its timer was once taken for one that is still to ring."""
    clock = Steady()

    async def begin() -> float:
        clock.begin()
        await asyncio.sleep(TICK_S)
        began_ms = clock.now_ms()
        await asyncio.sleep(LATE_S * 2)
        return clock.now_ms() - began_ms

    for _ in range(2):
        assert asyncio.run(begin()) > LATE_S * 1000
