"""The rules of the writer, on a clock that stands still; and at the end, on a real file with real faults."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from captured import capture_logs
from herenow.errors import StoreCorrupt, StoreError, StoreUnavailable, StoreUnforeseen
from herenow.keeper.writer import STALLED_MS, Writer, WriterState
from herenow.model import StoredUser
from herenow.store.base import Applied
from herenow.store.sqlite.store import SqlStore
from store.clock import TurnedClock, settle
from store.processes import child
from store.rows import offline, online
from support import until

WINDOW_S = 0.05


class HeldStore(SqlStore):
    """A store in memory that a test can hold and break; it keeps the contract's guard by version."""

    def __init__(self) -> None:
        super().__init__("sqlite:///held.db")  # never opened
        self.rows: dict[str, StoredUser] = {}
        self.batches: list[list[StoredUser]] = []
        self.error: StoreError | None = None
        self.raises: Exception | None = None
        self.poison: str | None = None
        self.refuses: dict[str, str] = {}
        self.knows: set[str] | None = None
        self.free = asyncio.Event()
        self.free.set()

    async def apply(self, rows: Sequence[StoredUser]) -> Applied:
        self.batches.append(list(rows))
        await self.free.wait()
        if self.error is not None:
            raise self.error
        if self.raises is not None:
            raise self.raises
        if any(row.user_id == self.poison for row in rows):
            raise StoreUnforeseen("db", "something is odd")
        refused = {row.user_id: self.refuses[row.user_id] for row in rows if row.user_id in self.refuses}
        unknown = tuple(row.user_id for row in rows if self.knows is not None and row.user_id not in self.knows)
        written = 0
        for row in rows:
            old = self.rows.get(row.user_id)
            if row.user_id not in refused and row.user_id not in unknown and (old is None or old.version < row.version):
                self.rows[row.user_id] = row
                written += 1
        return Applied(written, len(rows) - written - len(refused) - len(unknown), unknown, refused)


OUT_OF_REACH = StoreUnavailable("db", "the disk is full")


class Bench:
    """A writer at work on a held store, by a clock that stands still."""

    def __init__(self) -> None:
        self.clock = TurnedClock()
        self.store = HeldStore()
        self.writer = Writer(self.store, clock=self.clock, sleep=self.clock.sleep, jitter=lambda: 1.0)

    @property
    def state(self) -> WriterState:
        return self.writer.state()

    async def submit(self, *rows: StoredUser) -> None:
        self.writer.submit(rows)
        await settle()


@asynccontextmanager
async def running(writer: Writer) -> AsyncIterator[None]:
    task = asyncio.create_task(writer.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    async with running(bench.writer):
        await bench.clock.advance(1)
        yield bench


def many(number: int, *, version: int = 1) -> list[StoredUser]:
    return [online(f"user-{i:05}", version=version) for i in range(number)]


# merging and windows


async def test_the_first_row_after_a_quiet_window_is_written_at_once(bench: Bench) -> None:
    await bench.submit(online("alice"))
    assert bench.store.batches == [[online("alice")]]
    assert (bench.state.written, bench.state.pending, bench.state.lag_ms) == (1, 0, 0)


async def test_then_rows_gather_until_the_window_ends(bench: Bench) -> None:
    await bench.submit(online("alice"))
    await bench.clock.advance(WINDOW_S / 2)
    await bench.submit(online("bob"))
    await bench.submit(online("carol"))
    assert len(bench.store.batches) == 1
    assert bench.state.pending == 2
    await bench.clock.advance(WINDOW_S / 2)
    assert bench.store.batches[1:] == [[online("bob"), online("carol")]]


async def test_after_a_window_without_rows_it_is_quiet_again(bench: Bench) -> None:
    await bench.submit(online("alice"))
    await bench.clock.advance(WINDOW_S)
    await bench.submit(online("bob"))
    assert len(bench.store.batches) == 2


async def test_a_full_batch_does_not_wait_for_the_window(bench: Bench) -> None:
    await bench.submit(online("alice"))
    await bench.submit(*many(999))
    assert len(bench.store.batches) == 1
    await bench.submit(online("the thousandth"))
    assert [len(batch) for batch in bench.store.batches] == [1, 1000]


async def test_a_burst_goes_in_batches_one_after_the_other(bench: Bench) -> None:
    await bench.submit(*many(2500))
    assert [len(batch) for batch in bench.store.batches] == [1000, 1000]
    await bench.clock.advance(WINDOW_S)
    assert [len(batch) for batch in bench.store.batches] == [1000, 1000, 500]
    assert bench.state.written == 2500


async def test_of_each_user_only_the_newest_row_is_written(bench: Bench) -> None:
    await bench.submit(online("somebody"))
    await bench.submit(online("alice", version=1), offline("alice", version=2), online("alice", version=3))
    await bench.submit(offline("alice", version=2))
    await bench.clock.advance(WINDOW_S)
    assert bench.store.batches[1:] == [[online("alice", version=3)]]


async def test_a_row_that_comes_while_an_older_one_is_under_way_follows_it(bench: Bench) -> None:
    bench.store.free.clear()
    await bench.submit(online("alice", version=1))
    await bench.submit(offline("alice", version=2))
    assert bench.state.pending == 1, "one user, two rows"
    await bench.clock.advance(10)
    assert len(bench.store.batches) == 1, "one batch at a time"
    bench.store.free.set()
    await settle()
    assert bench.store.batches[1:] == [[offline("alice", version=2)]]
    assert bench.store.rows == {"alice": offline("alice", version=2)}


async def test_it_knows_whose_rows_are_still_on_their_way(bench: Bench) -> None:
    bench.store.free.clear()
    await bench.submit(online("alice"))
    await bench.submit(online("bob"))
    assert [bench.writer.is_pending(name) for name in ("alice", "bob", "carol")] == [True, True, False]
    bench.store.free.set()
    await bench.clock.advance(WINDOW_S)
    assert [bench.writer.is_pending(name) for name in ("alice", "bob")] == [False, False]


async def test_the_lag_is_the_age_of_the_oldest_news(bench: Bench) -> None:
    bench.store.free.clear()
    await bench.submit(online("alice", version=1))
    await bench.clock.advance(0.5)
    await bench.submit(online("bob", version=1))
    await bench.clock.advance(0.25)
    await bench.submit(online("bob", version=2), online("alice", version=2))
    assert bench.state.lag_ms == 750
    bench.store.free.set()
    await settle()
    assert bench.state.lag_ms == 0


async def test_a_store_that_does_not_answer_is_not_healthy(bench: Bench) -> None:
    bench.store.free.clear()
    await bench.submit(online("alice"))
    await bench.clock.advance(STALLED_MS / 1000)
    assert bench.state.healthy
    await bench.clock.advance(0.001)
    assert not bench.state.healthy
    assert bench.state.last_error is None


async def test_each_row_of_a_batch_keeps_its_own_version(bench: Bench) -> None:
    """Another writer may have a row that is newer than this one's, and older than the newest of this batch."""
    await bench.submit(online("zoe", version=1))
    await bench.submit(online("alice", version=2), online("bob", version=4))
    await bench.clock.advance(WINDOW_S)
    assert bench.store.batches[1] == [online("alice", version=2), online("bob", version=4)]
    await bench.store.apply([offline("alice", version=3)])
    assert bench.store.rows["alice"] == offline("alice", version=3)


# failures


async def test_rows_wait_while_the_store_fails(bench: Bench) -> None:
    bench.store.error = OUT_OF_REACH
    await bench.submit(online("alice", version=1), online("bob", version=2))
    await bench.submit(offline("alice", version=3))
    await bench.submit(online("carol", version=4))
    await bench.clock.advance(60)
    assert (bench.state.healthy, bench.state.pending, bench.state.lag_ms) == (False, 3, 60_000)
    assert bench.state.last_error == str(OUT_OF_REACH)
    assert bench.state.failures > 60


async def test_what_waited_is_written_within_two_seconds_of_the_stores_return(bench: Bench) -> None:
    bench.store.error = OUT_OF_REACH
    await bench.submit(online("alice", version=1), online("bob", version=2))
    await bench.submit(offline("alice", version=3))
    await bench.submit(online("carol", version=4))
    await bench.clock.advance(60)
    bench.store.error = None
    await bench.clock.advance(2)
    assert bench.store.rows == {
        "alice": offline("alice", version=3),
        "bob": online("bob", version=2),
        "carol": online("carol", version=4),
    }
    assert (bench.state.healthy, bench.state.pending, bench.state.last_error) == (True, 0, None)


async def test_a_batch_that_is_tried_again_carries_the_newest_rows(bench: Bench) -> None:
    bench.store.error = OUT_OF_REACH
    await bench.submit(online("alice", version=1), online("bob", version=1))
    await bench.submit(offline("alice", version=2))
    await bench.clock.advance(WINDOW_S)
    assert bench.store.batches[1] == [offline("alice", version=2), online("bob", version=1)]


async def test_an_older_row_does_not_replace_a_newer_one_under_way(bench: Bench) -> None:
    bench.store.error = OUT_OF_REACH
    await bench.submit(online("alice", version=5))
    await bench.submit(offline("alice", version=4))
    bench.store.error = None
    await bench.clock.advance(1)
    assert bench.store.rows == {"alice": online("alice", version=5)}


async def test_memory_is_bounded_by_the_number_of_users(bench: Bench) -> None:
    bench.store.error = OUT_OF_REACH
    for version in range(1, 200):
        await bench.submit(*many(50, version=version))
    assert bench.state.pending == 50


async def test_pauses_grow_to_a_limit_that_keeps_the_promise(bench: Bench) -> None:
    """P9: once the database is back, the next attempt is at most half a second away."""
    bench.store.error = OUT_OF_REACH
    await bench.submit(online("alice"))
    began_s, attempts_s = bench.clock.now_s, []
    for _ in range(4000):
        before = bench.state.failures
        await bench.clock.advance(0.001)
        attempts_s += [round(bench.clock.now_s - began_s, 3)] * (bench.state.failures - before)
    assert attempts_s[:5] == [0.05, 0.15, 0.35, 0.75, 1.25]
    assert max(later - sooner for sooner, later in pairwise(attempts_s)) == pytest.approx(0.5)


async def test_pauses_are_jittered() -> None:
    clock, store = TurnedClock(), HeldStore()
    store.error = OUT_OF_REACH
    writer = Writer(store, clock=clock, sleep=clock.sleep, jitter=lambda: 0.0)
    async with running(writer):
        writer.submit([online("alice")])
        await clock.advance(0.0249)
        assert writer.state().failures == 1
        await clock.advance(0.0002)
        assert writer.state().failures == 2, "half the pause, with the least jitter"


async def test_an_error_that_will_not_pass_by_itself_is_waited_out_too(bench: Bench) -> None:
    """An operator may mend it; the rows must still be there then."""
    bench.store.error = StoreCorrupt("db", "file is not a database")
    await bench.submit(online("alice"))
    await bench.clock.advance(3600)
    bench.store.error = None
    await bench.clock.advance(1)
    assert bench.store.rows == {"alice": online("alice")}


async def test_an_outage_is_logged_once_at_its_start_and_once_at_its_end(bench: Bench) -> None:
    with capture_logs() as logs:
        bench.store.error = OUT_OF_REACH
        await bench.submit(online("alice"))
        await bench.clock.advance(30)
        bench.store.error = None
        await bench.clock.advance(1)
    said = [line for line in logs if line["log_level"] != "debug"]
    assert [(line["event"], line["log_level"]) for line in said] == [
        ("store failed", "warning"),
        ("store is back", "info"),
    ]
    assert said[0]["error"] == str(OUT_OF_REACH)
    assert 30_000 <= said[1]["outage_ms"] <= 30_500


# rows that the store does not take


async def test_a_refused_row_is_reported_once_and_does_not_stop_the_others(bench: Bench) -> None:
    bench.store.refuses = {"bad": "CHECK constraint failed"}
    with capture_logs() as logs:
        await bench.submit(online("alice"), online("bad"), online("bob"))
        await bench.clock.advance(WINDOW_S)
        await bench.submit(online("bad", version=2))
    assert set(bench.store.rows) == {"alice", "bob"}
    assert (bench.state.refused, bench.state.pending, bench.state.healthy) == (2, 0, True)
    reported = [line for line in logs if line["log_level"] == "error"]
    assert [(line["event"], line["user"], line["reason"]) for line in reported] == [
        ("row refused", "bad", "CHECK constraint failed")
    ]


async def test_unknown_users_are_counted_each_time_and_reported_once(bench: Bench) -> None:
    bench.store.knows = {"alice"}
    with capture_logs() as logs:
        await bench.submit(online("alice"), online("stranger"), online("another"))
        await bench.clock.advance(WINDOW_S)
        await bench.submit(online("stranger", version=2))
    assert bench.state.unknown == 3
    reported = [line["users"] for line in logs if line["event"] == "users not in the store"]
    assert reported == [["stranger", "another"]]


async def test_reports_have_an_end(bench: Bench) -> None:
    bench.store.knows = set()
    with capture_logs() as logs:
        await bench.submit(*many(12_000))
        await bench.clock.advance(1)
    assert bench.state.unknown == 12_000
    assert sum(len(line["users"]) for line in logs if line["event"] == "users not in the store") == 10_000


# drain


async def test_drain_writes_all_without_waiting_for_windows(bench: Bench) -> None:
    await bench.submit(online("somebody"))
    await bench.submit(*many(2500))
    assert await bench.writer.drain(5) == 0
    assert bench.state.written == 2501


async def test_drain_with_nothing_waiting_returns_at_once(bench: Bench) -> None:
    assert await bench.writer.drain(5) == 0


async def test_drain_gives_up_after_its_timeout_and_says_what_is_left(bench: Bench) -> None:
    bench.store.error = OUT_OF_REACH
    await bench.submit(online("alice"), online("bob"))
    draining = asyncio.create_task(bench.writer.drain(5))
    await bench.clock.advance(4.9)
    assert not draining.done()
    await bench.clock.advance(0.2)
    assert await draining == 2


async def test_drain_tries_a_failing_store_often(bench: Bench) -> None:
    bench.store.error = OUT_OF_REACH
    await bench.submit(online("alice"))
    await bench.clock.advance(10)
    draining = asyncio.create_task(bench.writer.drain(5))
    await bench.clock.advance(1)
    bench.store.error = None
    await bench.clock.advance(0.05)
    assert await draining == 0


async def test_after_a_drain_windows_count_again(bench: Bench) -> None:
    await bench.writer.drain(5)
    await bench.submit(online("alice"))
    await bench.submit(online("bob"))
    assert len(bench.store.batches) == 1


# what nobody foresaw, and what refuses everybody


async def test_an_exception_that_nobody_foresaw_does_not_end_the_writer(bench: Bench) -> None:
    """It ended the writer's task, silently: nothing was ever written again."""
    bench.store.raises = ZeroDivisionError("division by zero")
    with capture_logs() as logs:
        await bench.submit(online("alice"))
        await bench.clock.advance(5)
        assert (bench.state.healthy, bench.state.pending) == (False, 1)
        assert "ZeroDivisionError: division by zero" in str(bench.state.last_error)
        bench.store.raises = None
        await bench.clock.advance(1)
    assert bench.store.rows == {"alice": online("alice")}
    assert (bench.state.healthy, bench.state.pending, bench.state.last_error) == (True, 0, None)
    said = [line for line in logs if line["log_level"] != "debug"]
    assert [line["event"] for line in said] == ["store failed", "store is back"]
    assert isinstance(said[0]["exc_info"], ZeroDivisionError)


async def test_one_row_over_which_the_store_fails_holds_nobody_else_up(bench: Bench) -> None:
    bench.store.poison = "user-00500"
    await bench.submit(online("somebody"))
    await bench.submit(*many(1000))
    await bench.clock.advance(30)
    assert len(bench.store.rows) == 1000
    assert (bench.state.healthy, bench.state.pending) == (False, 1), "it is kept, and said"
    await bench.submit(online("zoe", version=2))
    await bench.clock.advance(WINDOW_S)
    assert "zoe" in bench.store.rows, "those who come later do not wait"
    assert not bench.state.healthy
    bench.store.poison = None
    await bench.clock.advance(1)
    assert (len(bench.store.rows), bench.state.healthy, bench.state.pending) == (1002, True, 0)


async def test_rows_in_doubt_wait_with_their_newest_and_are_bounded_by_the_users(bench: Bench) -> None:
    bench.store.raises = ZeroDivisionError()
    for version in range(1, 100):
        await bench.submit(*many(50, version=version))
        await bench.clock.advance(0.1)
    assert bench.state.pending == 50
    assert bench.state.lag_ms == 9900
    assert bench.writer.pending("user-00049") == online("user-00049", version=99)
    bench.store.raises = None
    await bench.clock.advance(1)
    assert bench.store.rows["user-00049"].version == 99
    assert (len(bench.store.rows), bench.state.pending) == (50, 0)


async def test_a_store_that_refuses_most_rows_is_failing_and_nothing_is_lost(bench: Bench) -> None:
    """They were dropped, all of them, and the store counted as healthy."""
    rows = many(100)
    bench.store.refuses = {row.user_id: "no more" for row in rows[:60]}
    with capture_logs() as logs:
        await bench.submit(online("somebody"))
        await bench.submit(*rows)
        await bench.clock.advance(20)
    assert (len(bench.store.rows), bench.state.pending) == (41, 60)
    assert (bench.state.healthy, bench.state.refused) == (False, 0)
    said = [line for line in logs if line["log_level"] != "debug"]
    assert [line["event"] for line in said] == ["store failed"]
    assert "it refuses 60 of 100 rows, such as user-00000's: no more." in said[0]["error"]
    bench.store.refuses = {}
    await bench.clock.advance(2)
    assert (len(bench.store.rows), bench.state.healthy, bench.state.pending) == (101, True, 0)


async def test_a_store_that_refuses_everybody_is_failing_also_where_they_come_one_by_one(bench: Bench) -> None:
    await bench.submit(online("alice"))
    await bench.clock.advance(1)
    bench.store.refuses = {"alice": "no more", "bob": "no more"}
    await bench.submit(online("bob", version=2))
    await bench.clock.advance(1)
    assert (bench.state.healthy, bench.state.pending, bench.state.refused) == (False, 1, 0)
    bench.store.refuses = {}
    await bench.clock.advance(1)
    assert (bench.state.healthy, set(bench.store.rows)) == (True, {"alice", "bob"})


async def test_a_lone_row_is_refused_for_its_own_sake_if_the_store_takes_another_of_its_look(bench: Bench) -> None:
    await bench.submit(online("alice"))
    await bench.clock.advance(1)
    bench.store.refuses = {"bob": "not this one"}
    await bench.submit(online("bob", version=2))
    assert (bench.state.healthy, bench.state.pending, bench.state.refused) == (True, 0, 1)
    await bench.clock.advance(1)
    await bench.submit(offline("bob", version=3))
    assert (bench.state.healthy, bench.state.refused) == (True, 2), "whom it refused before is no evidence"


async def test_a_lone_row_of_a_look_that_the_store_never_took_is_kept(bench: Bench) -> None:
    """A rule that lets nobody go offline takes every row of who is online."""
    await bench.submit(online("alice"))
    await bench.submit(online("bob"))
    await bench.clock.advance(1)
    bench.store.refuses = {"bob": "only online"}
    await bench.submit(offline("bob", version=2))
    await bench.clock.advance(5)
    assert (bench.state.healthy, bench.state.pending) == (False, 1)


async def test_a_row_that_no_store_could_hold_says_nothing_about_this_one(bench: Bench) -> None:
    bench.store.refuses = {"bad\0": "a null character"}
    await bench.submit(online("bad\0"))
    assert (bench.state.healthy, bench.state.pending, bench.state.refused) == (True, 0, 1)


async def test_a_writer_that_was_ended_goes_on_where_it_was() -> None:
    store = HeldStore()
    store.free.clear()
    writer = Writer(store)
    async with running(writer):
        writer.submit([online("alice")])
        await settle()
        assert len(store.batches) == 1
    store.free.set()
    async with running(writer):
        assert await writer.drain(2) == 0
    assert store.rows == {"alice": online("alice")}


# the real thing


async def test_a_locked_database_gets_all_within_two_seconds_of_its_return(path: Path, store: SqlStore) -> None:
    writer = Writer(store)
    async with running(writer):
        with child("lock", path) as other:
            other.read_line()
            writer.submit(many(1500, version=1))
            await until(lambda: not writer.state().healthy)
            writer.submit(many(3000, version=2))
            state = writer.state()
            assert (state.healthy, state.pending) == (False, 3000)
            assert state.last_error is not None
            assert "another program keeps it locked" in state.last_error
            other.let_go()
        assert await writer.drain(2) == 0
    assert (await store.counts()).online == 3000
    assert await store.read(["user-00000"]) == {"user-00000": online("user-00000", version=2)}
