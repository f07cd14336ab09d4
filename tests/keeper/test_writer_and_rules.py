"""A database that refuses, or fails as nobody foresaw, under a writer at work: the real ones, with real rules."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import mongod
from captured import capture_logs
from herenow.errors import StoreRefused, StoreUnavailable, StoreUnforeseen
from herenow.keeper.writer import Writer
from herenow.store.base import Store
from herenow.store.mongo.store import MongoStore
from herenow.store.mongo.writes import _COMMAND_ROWS
from herenow.store.sqlite.store import SqlStore
from store.databases import execute
from store.rows import offline, online
from store.shop import Shop


@asynccontextmanager
async def at_work(store: Store) -> AsyncIterator[Writer]:
    writer = Writer(store)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool], *, within_s: float = 15.0) -> None:
    ends_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends_s
        await asyncio.sleep(0.01)


def is_failing(writer: Writer) -> bool:
    state = writer.state()
    return not state.healthy and state.failures > 1


EACH_ROW = "CREATE TRIGGER app BEFORE {of} ON users BEGIN SELECT {does}; END"


@pytest.mark.parametrize(
    ("does", "said"),
    [("notify(NEW.id)", "no such function: notify"), ("RAISE(ABORT, 'read only for now')", "read only for now")],
)
async def test_a_trigger_that_fails_or_refuses_everybody_is_waited_out(
    path: Path, store: SqlStore, does: str, said: str
) -> None:
    """The first ended the writer, silently; under the second all rows were dropped, and nothing was said."""
    await store.apply([online(f"user-{n}") for n in range(20)])
    for of in ("INSERT", "UPDATE"):
        execute(path, EACH_ROW.format(of=of, does=does).replace("app", f"on_{of}"))
    async with at_work(store) as writer:
        with capture_logs() as logs:
            writer.submit([offline(f"user-{n}", version=2) for n in range(20)])
            await until(lambda: is_failing(writer))
            writer.submit([online("bob", version=3)])
            await asyncio.sleep(0.1)
        assert writer.state().pending == 21
        assert said in str(writer.state().last_error)
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["store failed"]
        execute(path, "DROP TRIGGER on_INSERT", "DROP TRIGGER on_UPDATE")
        assert await writer.drain(10) == 0
        assert writer.state().healthy
    assert (await store.counts()).online == 1


async def test_a_trigger_that_refuses_one_user_is_that_users_matter(path: Path, store: SqlStore) -> None:
    execute(path, EACH_ROW.format(of="INSERT", does="RAISE(ABORT, 'not her') WHERE NEW.id = 'eve'"))
    async with at_work(store) as writer:
        for version, name in enumerate(("alice", "eve", "bob"), 1):
            writer.submit([online(name, version=version)])
            assert await writer.drain(5) == 0
        assert (writer.state().healthy, writer.state().refused) == (True, 1)
    assert (await store.read(["alice", "eve", "bob"])).keys() == {"alice", "bob"}


async def test_whom_sqlite_refuses_is_named_by_a_reset_and_the_others_are_offline(path: Path, store: SqlStore) -> None:
    await store.apply([online(name) for name in ("alice", "ben", "carol")])
    execute(path, EACH_ROW.format(of="UPDATE", does="RAISE(ABORT, 'not him') WHERE NEW.id = 'ben'"))
    with pytest.raises(StoreRefused, match="set offline: 2; refused, and online as before: 1, such as ben: not him"):
        await store.reset(version=2)
    assert [user.user_id for user in (await store.online()).users] == ["ben"]


async def test_a_validator_that_refuses_everybody_is_waited_out(shop: Shop, kept: MongoStore) -> None:
    shop.users.insert_many([{"_id": f"user-{n}"} for n in range(20)])
    shop.database.command("collMod", "users", validator={"email": {"$exists": True}})
    async with at_work(kept) as writer:
        writer.submit([online(f"user-{n}") for n in range(20)])
        await until(lambda: is_failing(writer))
        assert writer.state().pending == 20
        assert "Document failed validation" in str(writer.state().last_error)
        shop.database.command("collMod", "users", validator={})
        assert await writer.drain(10) == 0
        assert writer.state().healthy
    assert (await kept.counts()).online == 20


def put_odd_rule(shop: Shop, users: int) -> None:
    """An index of the application's holds places of who is online, and one user's place is none."""
    places = [*([[0, 0]] * (users - 1)), "nowhere"]
    shop.users.insert_many([{"_id": f"user-{n}", "place": place} for n, place in enumerate(places)])
    shop.users.create_index([("place", "2dsphere")], partialFilterExpression={"isOnline": True})


async def test_a_document_over_which_the_database_fails_in_an_unknown_way_holds_nobody_else_up(
    shop: Shop, kept: MongoStore
) -> None:
    put_odd_rule(shop, 30)
    async with at_work(kept) as writer:
        writer.submit([online(f"user-{n}") for n in range(30)])
        await until(lambda: writer.state().pending == 1)
        assert not writer.state().healthy
        assert "geo" in str(writer.state().last_error)
        shop.users.update_one({"_id": "user-29"}, {"$set": {"place": [0, 0]}})
        assert await writer.drain(10) == 0
        assert writer.state().healthy
    assert (await kept.counts()).online == 30


# MongoDB's row-by-row path


@pytest.mark.parametrize(
    "trouble",
    [
        {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
        {"writeConcernError": {"code": 14031, "errmsg": "no space left"}},
        {"errorCode": 14031},
    ],
)
async def test_rows_that_go_one_by_one_are_not_lost_over_what_is_not_their_own(
    shop: Shop, kept: MongoStore, trouble: dict[str, Any]
) -> None:
    """One user is refused, so that the batch goes row by row; only then the trouble begins."""
    shop.users.insert_many([{"_id": name, "email": name} for name in ("alice", "ben")] + [{"_id": "carol"}])
    shop.database.command("collMod", "users", validator={"email": {"$exists": True}})
    rows = [online(name) for name in ("alice", "ben", "carol")]
    with shop.server.failing("update", "bulkWrite", skip=1, **trouble), pytest.raises(StoreUnavailable):
        await kept.apply(rows)
    async with at_work(kept) as writer:
        writer.submit([online(name, version=2) for name in ("alice", "ben", "carol")])
        assert await writer.drain(10) == 0
        assert (writer.state().refused, writer.state().healthy) == (1, True)
    assert (await kept.counts()).online == 2


async def test_an_unknown_error_among_rows_that_go_one_by_one_is_told(shop: Shop, kept: MongoStore) -> None:
    put_odd_rule(shop, 3)
    shop.database.command("collMod", "users", validator={"_id": {"$ne": "user-0"}})
    with pytest.raises(StoreUnforeseen, match="geo"):
        await kept.apply([online(f"user-{n}") for n in range(3)])


async def test_no_command_of_a_batch_that_failed_is_left_at_work_behind_it() -> None:
    """Else it could write after the next attempt: of one user an older row behind a newer one's success."""
    server = mongod.shared(replica_set=True)
    name = mongod.fresh_database()
    store = MongoStore(server.url(name), create_users=True, timeout_s=10)
    await store.init()
    number = 2 * _COMMAND_ROWS
    await store.apply([online(f"user-{n}") for n in range(number)])
    with server.client() as client, client.start_session() as session, session.start_transaction():
        # A transaction of the application's holds everybody: the one of the two commands that does not fail waits.
        client[name].users.update_many({}, {"$set": {"held": True}}, session=session)
        for _ in range(10):  # two that come in the same instant may both be the one time, and fail
            with server.failing("update", times=1, errorCode=14031):
                writing = asyncio.create_task(store.apply([offline(f"user-{n}", version=2) for n in range(number)]))
                done, _ = await asyncio.wait([writing], timeout=0.5)
            if not done:
                break
        assert not done, "the other command is still at work"
        session.abort_transaction()
    with pytest.raises(StoreUnavailable, match="full"):
        await writing
    offline_then = (await store.counts()).online
    await asyncio.sleep(0.3)
    assert (await store.counts()).online == offline_then == number - _COMMAND_ROWS
    await store.close()
