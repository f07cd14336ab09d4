"""Whose turn it is: who sends little is served at once, the others share what is left, one turn each."""

import asyncio
import time
from collections import Counter
from functools import partial

import pytest

from herenow.socketio_server.engineio import turns
from herenow.socketio_server.engineio.turns import (
    HEAVY_SHARE,
    LIGHT_BURST_S,
    LIGHT_SHARE,
    MOST_AT_ONCE_S,
    MOST_SHARE,
    TURN_S,
    Allowance,
    Turns,
)


def _busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_an_allowance_is_spent_by_a_burst_and_grows_with_time() -> None:
    allowance = Allowance()
    assert not allowance.is_spent(100.0)
    for _ in range(3):
        allowance.spend(100.0, LIGHT_BURST_S * 0.4)
    assert allowance.is_spent(100.1)
    assert not allowance.is_spent(100.0 + LIGHT_BURST_S / LIGHT_SHARE)
    for second in range(200, 260):  # what is within the share may go on for ever
        allowance.spend(second, LIGHT_SHARE)
        assert not allowance.is_spent(second + 0.5)


def test_a_machine_that_slept_costs_a_client_little() -> None:
    allowance = Allowance()
    assert allowance.clock(100.0) is time.monotonic
    allowance.spend(100.0, 3600.0)
    assert allowance.clock(100.0) is time.thread_time
    assert allowance.is_spent(100.0)
    assert not allowance.is_spent(100.0 + MOST_AT_ONCE_S / LIGHT_SHARE)


def test_a_message_that_takes_long_counts_whole() -> None:
    allowance = Allowance()
    allowance.spend(100.0, MOST_AT_ONCE_S)
    assert allowance.is_spent(100.0 + (MOST_AT_ONCE_S - LIGHT_BURST_S) / LIGHT_SHARE - 0.1)


async def _take_turns(turns: Turns, seconds: float) -> Counter[str]:
    """Let three ask for turns, again and again, for so long; return how often each had one."""
    taken, end = Counter[str](), time.monotonic() + seconds

    def take(who: str) -> None:
        _busy(TURN_S)
        taken[who] += 1
        if time.monotonic() < end:
            turns.ask(partial(take, who))

    for who in "abc":
        turns.ask(partial(take, who))
    await asyncio.sleep(seconds + 0.1)
    return taken


async def test_turns_go_round_and_leave_the_loop_its_part() -> None:
    taken = await _take_turns(Turns(), 0.3)
    assert max(taken.values()) - min(taken.values()) <= 1
    assert taken.total() * TURN_S <= 0.3 * MOST_SHARE + 3 * TURN_S


def test_what_the_others_take_is_seen_within_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """By clocks that are turned by hand: the test's own machine may be busy with anything."""
    now_s = spent_s = 0.0
    monkeypatch.setattr(turns, "monotonic", lambda: now_s)
    monkeypatch.setattr(turns, "thread_time", lambda: spent_s)
    others = turns._Others()

    def pause(seconds: float, busy: float) -> float:
        """Let the others have the loop for so long, and be busy for a part of it; return their share."""
        nonlocal now_s, spent_s
        now_s += seconds
        spent_s += seconds * busy
        share = others.take()
        others.begin(0.0)
        return share

    assert pause(10.0, 0.0) == 0.0
    assert 0.3 < pause(0.05, 0.8) < 0.5
    shares = [pause(0.005, 0.8) for _ in range(60)]
    assert shares == sorted(shares)
    assert 0.7 < shares[-1] <= 0.8
    assert pause(1.0, 0.1) == pytest.approx(0.1)
    others.begin(0.02)  # what is still to come of the turns before is not theirs
    assert pause(0.1, 0.2) == pytest.approx(0.0)


async def test_one_who_raises_stops_nobody() -> None:
    turns, heard, raised = Turns(), asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: raised.set())

    def fail() -> None:
        raise ValueError("a fault")

    turns.ask(fail)
    turns.ask(heard.set)
    async with asyncio.timeout(1):
        await heard.wait()
        await raised.wait()


@pytest.mark.parametrize(("busy", "share"), [(0.0, MOST_SHARE), (0.2, MOST_SHARE - 0.2), (1.0, HEAVY_SHARE)])
async def test_what_a_turn_costs_beside_is_waited_for_by_the_next(
    busy: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns._Others, "take", lambda _: busy)
    queue, began = Turns(), time.monotonic()
    await asyncio.gather(*(queue.wait(0.02) for _ in range(4)))
    assert time.monotonic() - began >= 3 * 0.02 / share - 0.005
    began = time.monotonic()
    await queue.wait()
    assert time.monotonic() - began >= 0.02 / share - 0.005


async def test_who_gives_up_waiting_keeps_nobody() -> None:
    turns = Turns()
    waiting = asyncio.create_task(turns.wait(0.02))
    await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(1):
        await turns.wait()
