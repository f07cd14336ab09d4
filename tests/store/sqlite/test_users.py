"""What is SQLite's own in reading and writing users: refused rows, query plans, memory, and death in mid-write."""

import asyncio
import contextlib
import gc
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from herenow.store.sqlite import users
from herenow.store.sqlite.fill import is_any_time, is_as_ours
from herenow.store.sqlite.store import SqlStore
from herenow.times import to_iso
from store.child import WRITTEN_USERS as WRITTEN
from store.child import row_of
from store.databases import execute, insert, select
from store.processes import child
from store.rows import NOW_MS, offline, online

# rows that the application's table refuses


@pytest.mark.parametrize("bad", [{0}, {999}, {3, 4, 500}, set(range(1000))], ids=["first", "last", "some", "all"])
async def test_rows_that_a_constraint_refuses_do_not_hold_up_the_others(path: Path, bad: set[int]) -> None:
    names = [f"user-{number:03}" for number in range(1000)]
    execute(
        path, "CREATE TABLE users (id TEXT PRIMARY KEY, isOnline INT, banned INT, CHECK (NOT (isOnline AND banned)))"
    )
    insert(path, "users", ((name, 0, number in bad) for number, name in enumerate(names)))
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    applied = await store.apply([online(name) for name in names])
    assert applied.written == 1000 - len(bad)
    assert set(applied.refused) == {names[number] for number in bad}
    assert all(reason == "CHECK constraint failed: NOT (isOnline AND banned)" for reason in applied.refused.values())
    assert (applied.skipped, applied.unknown) == (0, ())
    assert (await store.counts()).online == 1000 - len(bad)
    await store.close()


async def test_a_trigger_of_the_application_may_refuse_too(path: Path, store: SqlStore) -> None:
    refuse = "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    execute(path, f"CREATE TRIGGER guard BEFORE INSERT ON users WHEN new.id = 'bad' {refuse}")
    applied = await store.apply([online("alice"), online("bad"), online("bob")])
    assert (applied.written, applied.refused) == (2, {"bad": "not this one"})


# through the index


def plans_of(path: Path, work: Callable[[sa.Connection], object]) -> list[str]:
    """How SQLite goes about each statement of a transaction."""
    engine = sa.create_engine(f"sqlite:///{path}")
    statements: list[tuple[str, Any]] = []
    sa.event.listen(
        engine, "before_cursor_execute", lambda c, cursor, sql, p, context, many: statements.append((sql, p))
    )
    with engine.connect() as connection:
        work(connection)
        connection.rollback()
    engine.dispose()
    return [str(row[3]) for sql, p in statements for row in select(path, f"EXPLAIN QUERY PLAN {sql}", p)]


BEFORE, LATE = to_iso(NOW_MS), to_iso(NOW_MS + 90_000)


@pytest.mark.parametrize(
    "work",
    [
        lambda c: users.read(c, ["a", "b"]),
        lambda c: users.read_online_page(c, after=None, active=(None, None), limit=100),
        lambda c: users.read_online_page(c, after=[BEFORE, "a"], active=(None, None), limit=100),
        lambda c: users.read_online_page(c, after=[None, "a"], active=(None, None), limit=100),
        lambda c: users.read_online_page(c, after=[BEFORE, "a"], active=(BEFORE, LATE), limit=100),
        lambda c: users.read_online_places(c, after=None, active=(BEFORE, LATE), limit=100),
        lambda c: users.read_claimed_page(c, after=None, limit=100),
        lambda c: users.read_claimed_page(c, after=["a"], limit=100),
        lambda c: users.count_not_offline(c, active=(None, None)),
        lambda c: users.count_not_offline(c, active=(BEFORE, LATE)),
        lambda c: users.reset(c, ["a", "b"], version=9, active=(BEFORE, LATE)),
        lambda c: users.apply(c, [online("a")], create=True),
        lambda c: users.apply(c, [online("a")], create=False),
    ],
)
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("adopted", [False, True], ids=["own", "adopted"])
async def test_no_statement_looks_at_all_users_or_sorts(
    tmp_path: Path, work: Callable[[sa.Connection], object], adopted: bool
) -> None:
    path = tmp_path / "adopted.db" if adopted else tmp_path / "herenow.db"
    if adopted:
        execute(path, "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT)")
        store = SqlStore(f"sqlite:///{path}")
        await store.init()
        await store.close()
    plans = plans_of(path, work)
    assert plans
    for plan in plans:
        whole = plan.startswith("SCAN users") and "herenow_claims" not in plan  # that index holds the claims alone
        assert not whole and "TEMP B-TREE" not in plan, plans


@pytest.mark.parametrize(
    "work",
    [
        lambda c: users.read(c, ["a", "b"]),
        lambda c: users.reset(c, ["a", "b"], version=9, active=(None, None)),
        lambda c: users.apply(c, [online("a")], create=False),
    ],
)
@pytest.mark.usefixtures("store")
def test_named_users_are_looked_up_by_name(path: Path, work: Callable[[sa.Connection], object]) -> None:
    """SQLite once preferred to go through all those online for each batch of a reset."""
    assert "SEARCH users USING PRIMARY KEY (id=?)" in plans_of(path, work)


async def test_times_that_are_none_are_found_along_the_index(path: Path) -> None:
    """In an application's own table, which may have null where ours has false."""
    execute(path, "CREATE TABLE users (id TEXT PRIMARY KEY, isOnline INT, lastActive TEXT)")
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    await store.close()
    plans = plans_of(path, lambda c: users.read_no_times(c, late=LATE, limit=1000))
    way = "SEARCH users USING COVERING INDEX herenow_online (isOnline=? AND lastActive"
    assert [plan.startswith(way) for plan in plans] == [True] * 4, plans


@pytest.mark.usefixtures("store")
def test_counting_goes_through_an_index_for_those_online(path: Path) -> None:
    plans = plans_of(path, users.count)
    assert plans[0] == "SEARCH users USING INDEX herenow_online (isOnline=?)"


# with many users


@contextmanager
def memory_below(megabytes: float) -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * 1_000_000, f"{peak / 1_000_000:.1f} MB"


async def test_with_100_000_users_nothing_holds_more_than_a_page(path: Path) -> None:
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    for start in range(0, 100_000, 10_000):
        await store.apply(
            [online(f"user-{i:06}", last_active_ms=NOW_MS + i % 977) for i in range(start, start + 10_000)]
        )
    with memory_below(2):  # a page of 1,000 users takes less than one; 100,000 ids alone would take six
        assert (await store.counts()).online == 100_000
        assert await store.max_version() == 1
        assert len((await store.online()).users) == 1000
        assert len((await store.stale(NOW_MS + 500)).users) == 1000
        assert (await store.init()).steps == ()
        assert await store.reset(version=2, before_ms=NOW_MS + 977) == 100_000
    await store.close()


# death in mid-write


@pytest.mark.parametrize("after_batches", [1, 4, 9])
async def test_kill_9_in_mid_write_leaves_whole_batches(path: Path, after_batches: int) -> None:
    with child("write", path) as server:
        for _ in range(after_batches):
            said = int(server.read_line())
        server.kill()
        said = max([said, *map(int, server.read_rest())])
    store = SqlStore(f"sqlite:///{path}")
    await store.open()
    assert select(path, "PRAGMA integrity_check") == [("ok",)]
    users = (await store.read([row_of(number, 1).user_id for number in range(WRITTEN)])).values()
    (version,) = {row.version for row in users}
    assert version >= said, "what apply had reported as written is there"
    assert sorted(users, key=lambda row: row.user_id) == [row_of(number, version) for number in range(WRITTEN)]
    await store.apply([offline("user-0000", version=version + 1)])
    await store.close()


# under way at once


async def test_a_cancelled_write_is_whole_or_not_there(path: Path, store: SqlStore) -> None:
    rows = [online(f"user-{i}") for i in range(2000)]
    writing = asyncio.create_task(store.apply(rows))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await store.close()  # waits for what is under way
    assert select(path, "SELECT count(*) FROM users") in ([(0,)], [(2000,)])


async def test_reading_goes_on_during_a_long_write(store: SqlStore) -> None:
    rows = [online(f"user-{i}") for i in range(20_000)]
    writing = asyncio.create_task(store.apply(rows))
    seen = set()
    while not writing.done():
        seen.add((await store.counts()).users)
    assert seen <= {0, 20_000}
    assert (await writing).written == 20_000


# what another program wrote


@pytest.mark.parametrize("written", [f"{2**52}", f"{2**63 - 1}", "'a word'", "1e300", "-5", "x'00'"])
@pytest.mark.parametrize("adopted", [False, True], ids=["ours", "adopted"])
async def test_a_version_that_cannot_be_one_is_older_than_any(path: Path, written: str, *, adopted: bool) -> None:
    """Otherwise the row could never be written again, and a registry that began above it would have no versions."""
    if adopted:
        execute(path, "CREATE TABLE users (id TEXT PRIMARY KEY)")
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    execute(path, f"INSERT INTO users (id, isOnline, presenceVersion) VALUES ('alice', 1, {written})")
    assert (await store.read(["alice"]))["alice"].version == 0
    assert await store.max_version() == 0
    assert (await store.apply([offline("alice", version=1)])).written == 1
    assert (await store.read(["alice"]))["alice"] == offline("alice", version=1)
    execute(path, f"UPDATE users SET isOnline = 1, presenceVersion = {written}")
    assert await store.reset(version=2) == 1
    await store.close()


@pytest.mark.parametrize("odd", ["X'FF'", "9e999", "-9e999"])
async def test_a_page_goes_on_behind_any_value(path: Path, store: SqlStore, odd: str) -> None:
    """The place of a blob was written as text and that of an infinity as nothing: the walk went on elsewhere."""
    rows = [("a", odd), ("b", odd), ("c", "'2025-02-19T21:20:00.250Z'"), ("d", "'2025-01-01'"), ("e", "NULL")]
    for user_id, last_active in rows:
        execute(path, f"INSERT INTO users (id, isOnline, lastActive) VALUES ('{user_id}', 1, {last_active})")
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.online(after=cursor, limit=1)
        found += [user.user_id for user in page.users]
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(found) == ["a", "b", "c", "d", "e"]


def test_what_passes_for_a_time_at_a_glance_is_one_by_the_calendar() -> None:
    """Every day and hour that can be written with two digits each, in years with and without a 29th of February."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE users (id TEXT, lastActive TEXT)")
        texts = [
            f"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{minute:02}.999Z"
            for year in (0, 1969, 1970, 1999, 2000, 2023, 2100, 9999)
            for month in range(20)
            for day in range(40)
            for hour, minute in ((0, 0), (19, 59), (20, 60), (23, 99), (24, 0), (29, 1))
        ]
        connection.executemany("INSERT INTO users VALUES (?, ?)", ((text, text) for text in texts))
        connection.execute("INSERT INTO users VALUES ('bytes', ?)", (b"2026-01-01T00:00:00.000Z",))

        def passing(condition: sa.ColumnElement[bool]) -> set[str]:
            sql = condition.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
            return {text for (text,) in connection.execute(f"SELECT lastActive FROM users WHERE {sql}")}

        at_a_glance, by_the_calendar = passing(is_as_ours), passing(is_any_time)
    assert at_a_glance < by_the_calendar
    assert len(at_a_glance) > 0.9 * len(by_the_calendar)
