"""Whose turn it is: who sends little is served at once, the others share what is left, one turn each."""

import asyncio
import time
from collections import Counter
from functools import partial

from herenow.socketio_server.turns import (
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


async def test_turns_go_round_and_leave_a_busy_loop_its_part() -> None:
    loop, turns = asyncio.get_running_loop(), Turns()
    going: asyncio.Handle | None = None

    def other() -> None:
        nonlocal going
        _busy(0.0005)
        going = loop.call_soon(other)

    going = loop.call_soon(other)
    await turns.wait()
    taken = await _take_turns(turns, 0.5)
    assert going is not None
    going.cancel()
    assert max(taken.values()) - min(taken.values()) <= 1
    # By its end, at the latest, the loop is seen to be busy.
    assert taken.total() * TURN_S <= 0.1 * MOST_SHARE + 0.4 * HEAVY_SHARE + 3 * TURN_S


async def test_turns_have_more_of_a_loop_that_nobody_else_needs() -> None:
    taken = await _take_turns(Turns(), 0.5)
    assert 0.5 * HEAVY_SHARE < taken.total() * TURN_S <= 0.5 * MOST_SHARE + 3 * TURN_S


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


async def test_what_a_turn_costs_beside_is_waited_for_by_the_next() -> None:
    turns, began = Turns(), time.monotonic()
    await asyncio.gather(*(turns.wait(0.02) for _ in range(4)))
    assert time.monotonic() - began >= 3 * 0.02 / MOST_SHARE - 0.005
    began = time.monotonic()
    await turns.wait()
    assert time.monotonic() - began >= 0.02 / MOST_SHARE - 0.005


async def test_who_gives_up_waiting_keeps_nobody() -> None:
    turns = Turns()
    waiting = asyncio.create_task(turns.wait(0.02))
    await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(1):
        await turns.wait()
