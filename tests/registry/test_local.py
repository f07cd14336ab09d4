"""What only the registry of one process promises: its batches, its one timer, its use of the event loop's clock."""

import asyncio
import time
from typing import Any

import pytest

from herenow.model import Availability, Claim, Claimed, Closing, StoredUser
from herenow.registry.base import Batch, Registry
from herenow.registry.clock import LONGEST_WAIT_MS
from herenow.registry.commands import Advance, Now
from herenow.registry.crowds import USERS_AT_ONCE
from herenow.registry.local import LocalRegistry
from registry.manual_clock import START_MS, START_US, ManualClock


@pytest.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def registry(clock: ManualClock) -> LocalRegistry:
    return LocalRegistry(grace_ms=2000, clock=clock)


async def test_it_is_a_registry(registry: LocalRegistry) -> None:
    contract: Registry = registry
    assert contract.version == START_US


async def test_the_commands_of_one_tick_make_one_batch(registry: LocalRegistry) -> None:
    batches: list[Batch] = []
    registry.subscribe(batches.append)
    for i in range(1000):
        registry.connect(f"user-{i}", f"c{i}", node="n")
    await registry.stats()
    (batch,) = batches
    assert len(batch.changes) == len(batch.rows) == 1000


async def test_a_failure_in_one_command_is_its_callers_and_harms_no_other(registry: LocalRegistry) -> None:
    before = registry.connect("alice", "c1", node="n")
    broken = registry.online(10, "not a cursor")
    after = registry.connect("bob", "c2", node="n")
    await before
    await after
    with pytest.raises(ValueError, match="not a cursor"):
        await broken
    assert (await registry.stats()).users == 2


async def test_a_thousand_deadlines_need_one_timer_and_none_is_left_at_the_end(
    registry: LocalRegistry, clock: ManualClock
) -> None:
    for i in range(1000):
        registry.connect(f"user-{i}", f"c{i}", node="n")
        registry.disconnect(f"user-{i}", f"c{i}", Closing.CLOSED)
        clock.advance(1)
        await registry.stats()
        assert clock.timers == 1
    clock.advance(2000)
    stats = await registry.stats()
    assert (stats.users, stats.held, clock.timers) == (0, 0, 0)


async def test_the_timer_is_moved_only_for_an_earlier_deadline(registry: LocalRegistry, clock: ManualClock) -> None:
    await registry.claim("alice", Claim(Claimed.BUSY, None, START_MS + 30_000))
    await registry.claim("bob", Claim(Claimed.BUSY, None, START_MS + 40_000))
    assert clock.timers == 1
    await registry.claim("carol", Claim(Claimed.BUSY, None, START_MS + 10_000))
    assert clock.timers == 1
    clock.advance(10_000)
    assert (await registry.stats()).held == 2
    clock.advance(30_000)
    assert (await registry.stats()).held == 0


async def test_a_crowd_that_falls_due_at_once_is_told_in_parts(registry: LocalRegistry, clock: ManualClock) -> None:
    rows = [StoredUser(f"user-{i}", True, Availability.ONLINE, START_MS, None, 1) for i in range(2 * USERS_AT_ONCE + 1)]
    await registry.adopt(rows, last_beat_ms=START_MS, grace_ms=15_000)
    batches: list[Batch] = []
    registry.subscribe(batches.append)
    clock.advance(15_000)
    assert [len(batch.changes) for batch in batches] == [USERS_AT_ONCE, USERS_AT_ONCE, 1]
    assert (await registry.stats()).held == 0


CROWD = 2 * USERS_AT_ONCE + 1


@pytest.mark.parametrize("command", ["evict", "node lost", "repair", "adopt"])
async def test_a_command_for_a_crowd_takes_a_turn_for_each_part(
    registry: LocalRegistry, clock: ManualClock, command: str
) -> None:
    """Done in one go, for 100,000 users it held up everybody's heartbeats and news for half a second."""
    rows = [StoredUser(f"user-{i}", True, Availability.ONLINE, START_MS, None, 1) for i in range(CROWD)]
    if command in ("evict", "node lost"):
        for i in range(CROWD):
            registry.connect(f"user-{i}", f"c{i}", node="n")
        await registry.stats()
    at_once: list[int] = []
    turns: list[int] = []
    registry.subscribe(lambda batch: at_once.append(len(batch.rows)))

    def count_turn() -> None:
        turns.append(len(at_once))
        clock.stall(10)
        asyncio.get_running_loop().call_soon(count_turn)

    count_turn()
    done: asyncio.Future[Any]
    match command:
        case "evict":
            done = registry.evict(None, disconnect=True)
        case "node lost":
            done = registry.node_lost("n", last_beat_ms=START_MS)
        case "repair":
            done = registry.repair(rows)
        case _:
            done = registry.adopt(rows, last_beat_ms=START_MS, grace_ms=2000)
    late = registry.connect("user-0", "late", node="n")  # it sees the command whole
    cancelled = registry.connect("someone", "someone", node="n")
    cancelled.cancel()
    stats = await registry.stats()
    assert done.done() and late.done()
    match command:
        case "evict":
            assert at_once == [USERS_AT_ONCE, USERS_AT_ONCE, 3]  # with those who came after it
            assert len(done.result() or ()) == CROWD
            assert stats.users == 2
        case "node lost":
            assert at_once == [1], "nobody sees a linger, and user-0 was back in time"
            first, last = await asyncio.gather(registry.explain("user-1"), registry.explain(f"user-{CROWD - 1}"))
            assert first is not None and last is not None
            assert first.lingers_ms == last.lingers_ms, "all happened at one moment"
        case "repair":
            assert at_once == [USERS_AT_ONCE, USERS_AT_ONCE, 3]
        case _:
            assert (at_once, stats.users) == ([1], CROWD + 1)
    assert len(turns) >= 3


async def test_a_fault_in_what_is_done_to_one_of_a_crowd_keeps_none_of_the_others(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the stop of a server it would have left online all who came after that one."""
    for user in ("alice", "bob", "carol"):
        await registry.connect(user, "c", node="n")
    apply = registry._ledger.apply
    monkeypatch.setattr(
        registry._ledger, "apply", lambda command, now: 1 / 0 if command.user_id == "bob" else apply(command, now)
    )
    with pytest.raises(ZeroDivisionError):
        await registry.leave("n")
    assert await registry.connections_on("n") == (("bob", "c"),)


async def test_closing_finishes_what_is_under_way(registry: LocalRegistry) -> None:
    for i in range(CROWD):
        registry.connect(f"user-{i}", f"c{i}", node="n")
    await registry.stats()
    evicted = registry.evict(None, disconnect=True)
    await registry.close()
    assert len(await evicted or ()) == CROWD


async def test_a_reconnect_that_waits_in_the_queue_when_the_linger_falls_due_is_in_time(
    registry: LocalRegistry, clock: ManualClock
) -> None:
    batches: list[Batch] = []
    registry.subscribe(batches.append)
    await registry.connect("alice", "c1", node="n")
    await registry.disconnect("alice", "c1", Closing.CLOSED)
    reconnect = registry.connect("alice", "c2", node="n")
    clock.advance(2000)  # the timer rings before the queue is worked off
    await reconnect
    assert len(batches) == 1


async def test_a_timer_that_rings_for_nothing_is_set_again(registry: LocalRegistry, clock: ManualClock) -> None:
    await registry.claim("alice", Claim(Claimed.BUSY, None, START_MS + 10 * LONGEST_WAIT_MS))
    for _ in range(9):
        clock.advance(LONGEST_WAIT_MS)
        assert clock.timers == 1
    assert (await registry.stats()).held == 1
    clock.advance(LONGEST_WAIT_MS)
    assert (await registry.stats()).held == 0


async def test_a_version_that_another_process_may_have_given_out_is_never_covered(clock: ManualClock) -> None:
    """A client once kept what a killed server had told it in its last moments, and the store had never heard of."""
    stored, told_and_lost = START_US - 5_000_000, START_US - 4_000_000
    registry = LocalRegistry(grace_ms=2000, last_version=stored, clock=clock)
    assert await registry.changes_since(stored) is None
    assert await registry.changes_since(told_and_lost) is None


async def test_versions_begin_above_a_store_that_is_ahead_of_the_clock(clock: ManualClock) -> None:
    registry = LocalRegistry(grace_ms=2000, last_version=START_US + 10**9, clock=clock)
    batches: list[Batch] = []
    registry.subscribe(batches.append)
    await registry.connect("alice", "c1", node="n")
    assert batches[0].changes[0].version == START_US + 10**9 + 1


async def test_the_clock_of_the_event_loop_measures_and_rings() -> None:
    registry = LocalRegistry(grace_ms=20)
    gone: asyncio.Future[Now] = asyncio.get_running_loop().create_future()

    def watch(batch: Batch) -> None:
        if not batch.changes[-1].is_online:
            gone.set_result(Now(batch.changes[-1].version, int(asyncio.get_running_loop().time() * 1000)))

    registry.subscribe(watch)
    before = time.time_ns() // 1000
    await registry.connect("alice", "c1", node="n")
    closed_ms = int(asyncio.get_running_loop().time() * 1000)
    await registry.disconnect("alice", "c1", Closing.CLOSED)
    told = await asyncio.wait_for(gone, 10)
    assert told.steady_ms - closed_ms >= 20
    assert before <= told.unix_us <= time.time_ns() // 1000
    assert (await registry.stats()).users == 0
    await registry.close()


async def test_closing_lets_the_timer_go(registry: LocalRegistry, clock: ManualClock) -> None:
    await registry.claim("alice", Claim(Claimed.AWAY, None, START_MS + 5000))
    view = await registry.own_view("alice")
    assert view is not None
    assert view.availability is Availability.OFFLINE
    await registry.close()
    assert clock.timers == 0


async def test_a_fault_in_what_falls_due_keeps_no_command_and_the_timer_rings_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once it left the commands of its turn without an answer, and no timer: everybody lingered for ever."""
    clock, faults = ManualClock(), list[str]()
    registry = LocalRegistry(grace_ms=2000, clock=clock, on_fault=lambda name, error: faults.append(name))
    await registry.connect("alice", "c", node="n")
    await registry.disconnect("alice", "c", Closing.CLOSED)
    apply = registry._ledger.apply
    monkeypatch.setattr(
        registry._ledger, "apply", lambda command, now: 1 / 0 if isinstance(command, Advance) else apply(command, now)
    )
    clock.advance(2000)
    assert faults == ["wheel"]
    await registry.connect("bob", "b", node="n")  # in the meantime, which brings no second fault
    assert (await registry.stats()).users == 2
    assert faults == ["wheel"]
    monkeypatch.undo()
    clock.advance(1000)
    assert (await registry.stats()).users == 1


@pytest.mark.parametrize("what", ["due", "wait_ms"])
async def test_a_timer_that_cannot_be_set_is_set_a_second_later(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Whether it is not known what is due now, or what is next."""
    clock, faults = ManualClock(), list[str]()
    registry = LocalRegistry(grace_ms=2000, clock=clock, on_fault=lambda name, error: faults.append(name))
    await registry.connect("alice", "c", node="n")
    with monkeypatch.context() as patch:
        patch.setattr(registry._ledger, what, lambda *_: 1 / 0)
        await registry.disconnect("alice", "c", Closing.CLOSED)
        assert faults == ["wheel"]
    clock.advance(2000)
    assert (await registry.stats()).users == 0


async def test_all_connections_of_a_node_are_told() -> None:
    registry = LocalRegistry(grace_ms=2000, clock=ManualClock())
    for name in ("a", "b", "c"):
        await registry.connect("alice", name, node="n")
    await registry.disconnect("alice", "b", Closing.LEFT)
    assert await registry.connections_on("n") == (("alice", "a"), ("alice", "c"))
    assert await registry.connections_on("m") == ()
