"""Creating the schema, and adopting what an application has."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from herenow.errors import StoreMismatch
from herenow.store.base import Applied
from herenow.store.sqlite.store import SqlStore
from store.databases import execute, read_file, select
from store.rows import NOW_MS, offline, online

APPLICATION = """CREATE TABLE users (
    id TEXT PRIMARY KEY, email TEXT NOT NULL, passwordHash TEXT NOT NULL CHECK (length(passwordHash) > 3), version TEXT
)"""
PEOPLE = "INSERT INTO users VALUES ('ann', 'ann@example.org', 'x1x1', 'v1'), ('ben', 'ben@example.org', 'y2y2', NULL)"


@pytest.fixture
async def unprepared(path: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore(f"sqlite:///{path}")
    await store.open()
    yield store
    await store.close()


async def test_the_columns_that_an_application_reads(path: Path, store: SqlStore) -> None:
    await store.apply([online("alice", last_active_ms=NOW_MS + 250), offline("bob")])
    found = select(path, "SELECT id, isOnline, lastActive FROM users ORDER BY id")
    assert found == [("alice", 1, "2025-02-19T21:20:00.250Z"), ("bob", 0, "2025-02-19T21:20:00.000Z")]
    in_2025 = "SELECT id, strftime('%H:%M:%f', lastActive) FROM users WHERE isOnline AND lastActive > '2025'"
    assert select(path, in_2025) == [("alice", "21:20:00.250")]


async def test_a_query_of_the_application_goes_through_the_index(path: Path, store: SqlStore) -> None:
    query = "SELECT id FROM users WHERE isOnline = ? ORDER BY lastActive DESC LIMIT 20"
    plan = [row[3] for row in select(path, f"EXPLAIN QUERY PLAN {query}", [True])]
    assert plan == ["SEARCH users USING COVERING INDEX herenow_online (isOnline=?)"]


async def test_the_applications_own_table_is_adopted(path: Path, unprepared: SqlStore) -> None:
    execute(path, APPLICATION, PEOPLE)
    report = await unprepared.init()
    assert report.steps == (
        "add the column isOnline to the table users",
        "add the column lastActive to the table users",
        "add the column presenceAvailability to the table users",
        "add the column presenceClaim to the table users",
        "add the column presenceVersion to the table users",
        "create the index herenow_online on users (isOnline, lastActive descending, id descending)",
        "create the index herenow_claims on users (id) where there is a claim",
        "create the table herenow_nodes",
        "create the table herenow_schema",
        "note the schema version 1",
    )
    assert select(path, "SELECT isOnline, lastActive FROM users") == [(0, None), (0, None)]
    assert await unprepared.apply([online("ann")]) == Applied(written=1, skipped=0)
    assert select(path, "SELECT * FROM users WHERE id = 'ann'") == [
        ("ann", "ann@example.org", "x1x1", "v1", 1, "2025-02-19T21:20:00.000Z", "online", None, 1)
    ], "its own columns are untouched, even one that is called version"


async def test_users_are_never_created_in_the_applications_table(path: Path, unprepared: SqlStore) -> None:
    execute(path, APPLICATION, PEOPLE)
    await unprepared.init()
    assert not unprepared.creates_users
    applied = await unprepared.apply([online("ann"), online("stranger"), online("ben", version=0)])
    assert (applied.written, applied.skipped, applied.unknown, set(applied.refused)) == (1, 0, ("stranger",), {"ben"})
    assert select(path, "SELECT count(*) FROM users") == [(2,)]


async def test_what_the_application_had_in_the_two_columns_is_kept(path: Path, unprepared: SqlStore) -> None:
    """The system that herenow replaces left some online for ever, and some without a value."""
    execute(path, "CREATE TABLE users (id TEXT PRIMARY KEY, isOnline BOOLEAN, lastActive DATETIME)")
    execute(path, "INSERT INTO users VALUES ('ghost', 1, '2025-02-19 21:20:00'), ('ok', 0, NULL), ('new', NULL, NULL)")
    report = await unprepared.init()
    assert report.steps[-1] == "set isOnline to false where it is null: 1 users"
    assert not any("column isOnline" in step or "column lastActive" in step for step in report.steps)
    assert await unprepared.read(["ghost", "ok", "new"]) == {
        "ghost": online("ghost", version=0),
        "ok": offline("ok", version=0, last_active_ms=None),
        "new": offline("new", version=0, last_active_ms=None),
    }
    assert (await unprepared.counts()).online == 1
    assert [row.user_id for row in (await unprepared.stale(NOW_MS + 86_400_000)).users] == ["ghost"]
    assert await unprepared.reset(version=1) == 1
    assert (await unprepared.init()).steps == ()


async def test_users_are_filled_in_batches_with_progress(path: Path, unprepared: SqlStore) -> None:
    execute(path, "CREATE TABLE users (id INTEGER PRIMARY KEY, isOnline BOOLEAN)")
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2500)"
    execute(path, f"{numbers} INSERT INTO users SELECT i, NULL FROM n")
    assert "2500 users" in (await unprepared.init(dry_run=True)).steps[-1]
    progress: list[tuple[int, int]] = []
    report = await unprepared.init(on_progress=lambda done, total: progress.append((done, total)))
    assert "2500 users" in report.steps[-1]
    assert progress == [(1000, 2500), (2000, 2500), (2500, 2500)]


async def test_ids_may_be_numbers(path: Path, unprepared: SqlStore) -> None:
    execute(path, "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
    execute(path, "INSERT INTO users VALUES (9, 'ann'), (10, 'ben'), (-3, 'cleo')")
    await unprepared.init()
    applied = await unprepared.apply([online("9"), online("10"), online("-3"), online("11"), online("ann")])
    assert (applied.written, set(applied.unknown)) == (3, {"11", "ann"})
    assert await unprepared.read(["10", "-3", "x"]) == {"10": online("10"), "-3": online("-3")}
    pages = [page async for page in unprepared.online_ids(page_size=2)]
    assert pages == [["10", "9"], ["-3"]]
    first = await unprepared.online(limit=1)
    assert [row.user_id for row in (await unprepared.online(after=first.cursor)).users] == ["9", "-3"]
    assert await unprepared.reset(version=2) == 3


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("CREATE TABLE users (userId TEXT PRIMARY KEY, name TEXT)", "no column id, only name, userid"),
        ("CREATE TABLE users (id TEXT, name TEXT)", "neither the primary key nor unique"),
        ("CREATE TABLE users (tenant TEXT, id TEXT, PRIMARY KEY (tenant, id))", "neither the primary key nor unique"),
        ("CREATE VIEW users AS SELECT 'ann' AS id", "a view"),
    ],
)
async def test_what_cannot_be_adopted_is_refused_with_its_reason(
    path: Path, unprepared: SqlStore, table: str, reason: str
) -> None:
    execute(path, table)
    for dry_run in (True, False):
        with pytest.raises(StoreMismatch, match=reason):
            await unprepared.init(dry_run=dry_run)
    assert len(select(path, "SELECT * FROM sqlite_master WHERE type IN ('table', 'view')")) == 1, "nothing was made"


async def test_the_case_of_a_column_name_does_not_matter(path: Path, unprepared: SqlStore) -> None:
    execute(path, "CREATE TABLE users (ID TEXT PRIMARY KEY, isonline BOOLEAN, LASTACTIVE TEXT)")
    execute(path, "INSERT INTO users VALUES ('ann', NULL, NULL)")
    await unprepared.init()
    assert (await unprepared.apply([online("ann")])).written == 1
    assert await unprepared.read(["ann"]) == {"ann": online("ann")}
    assert len((await unprepared.online(limit=1)).users) == 1
    assert select(path, "SELECT isonline, LASTACTIVE FROM users") == [(1, "2025-02-19T21:20:00.000Z")]


async def test_a_table_that_takes_no_such_column_is_refused_whole(path: Path, unprepared: SqlStore) -> None:
    execute(path, "CREATE TABLE users (id TEXT PRIMARY KEY) STRICT")
    with pytest.raises(StoreMismatch, match="not possible to add the column isOnline to the table users: error in"):
        await unprepared.init()
    assert len(select(path, "SELECT * FROM sqlite_master WHERE type = 'table'")) == 1, "nothing was made"


@pytest.mark.parametrize("id_column", ["id TEXT UNIQUE", "id TEXT NOT NULL"])
async def test_an_id_may_be_unique_by_a_constraint_or_an_index(
    path: Path, unprepared: SqlStore, id_column: str
) -> None:
    execute(
        path, f"CREATE TABLE users (row INTEGER PRIMARY KEY, {id_column})", "CREATE UNIQUE INDEX mine ON users (id)"
    )
    await unprepared.init()
    execute(path, "INSERT INTO users (id) VALUES ('ann')")
    assert (await unprepared.apply([online("ann")])).written == 1


async def test_a_schema_note_that_somebody_emptied_is_written_again(path: Path, store: SqlStore) -> None:
    await store.apply([online("ann")])
    execute(path, "DELETE FROM herenow_schema")
    assert (await store.init()).steps == ("note the schema version 1",)
    assert await store.read(["ann"]) == {"ann": online("ann")}


async def test_a_dry_run_changes_nothing_in_the_applications_file(path: Path, unprepared: SqlStore) -> None:
    execute(path, APPLICATION, PEOPLE)
    before = read_file(path)
    assert (await unprepared.init(dry_run=True)).steps
    await unprepared.close()
    assert read_file(path) == before


async def test_two_that_prepare_at_once_do_not_collide(path: Path) -> None:
    stores = [SqlStore(f"sqlite:///{path}") for _ in range(4)]
    reports = await asyncio.gather(*(store.init() for store in stores))
    assert sum("create the table users" in report.steps for report in reports) == 1
    for store in stores:
        await store.close()
