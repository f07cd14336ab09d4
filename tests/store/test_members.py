"""Whom the database has: asked for in batches, remembered for a while, and let in where it cannot say."""

import asyncio
from collections.abc import Collection
from pathlib import Path

import pytest

from herenow.errors import StoreUnavailable
from herenow.store.members import AWAY_S, MOST_REMEMBERED, REMEMBERED_S, Members
from herenow.store.sqlite.store import SqlStore
from store.databases import execute
from support import until


class Table:
    """A real table of users, and the questions that were asked about it."""

    def __init__(self, path: Path, store: SqlStore) -> None:
        self.path, self.store = path, store
        self.asked: list[list[str]] = []
        self.trouble: Exception | None = None
        self.now_s = 100.0
        self.members = Members(self.missing, clock=lambda: self.now_s)

    async def missing(self, keys: Collection[str]) -> set[str]:
        self.asked.append(list(keys))
        if self.trouble is not None:
            raise self.trouble
        return await self.store.missing(keys)

    async def who_is_there(self, *keys: str) -> list[str]:
        answers = await asyncio.gather(*map(self.members.has, keys))
        return [key for key, is_there in zip(keys, answers, strict=True) if is_there]


@pytest.fixture
async def table(path: Path) -> Table:
    execute(path, "CREATE TABLE users (id TEXT PRIMARY KEY)", "INSERT INTO users VALUES ('alice'), ('bob')")
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    return Table(path, store)


async def test_however_many_come_in_one_tick_it_is_one_read(table: Table) -> None:
    crowd = ["alice", *(f"stranger {number}" for number in range(900)), "bob", "alice"]
    assert await table.who_is_there(*crowd) == ["alice", "bob", "alice"]
    assert list(map(len, table.asked)) == [902]
    await table.who_is_there(*(f"another {number}" for number in range(2_500)))
    assert list(map(len, table.asked)) == [902, 1_000, 1_000, 500], "or a page each"
    await table.store.close()


async def test_who_comes_while_one_read_is_under_way_waits_for_the_next_and_they_share_it(table: Table) -> None:
    first = asyncio.create_task(table.members.has("alice"))
    await until(lambda: table.asked)
    assert await table.who_is_there("bob", "carol", "alice") == ["bob", "alice"]
    assert await first
    assert table.asked == [["alice"], ["bob", "carol"]]
    await table.store.close()


async def test_an_answer_counts_for_a_while_and_then_is_asked_for_anew(table: Table) -> None:
    for _ in range(3):
        assert await table.who_is_there("alice", "carol") == ["alice"]
    assert len(table.asked) == 1
    execute(table.path, "DELETE FROM users WHERE id = 'alice'", "INSERT INTO users (id) VALUES ('carol')")
    table.now_s += REMEMBERED_S - 0.1
    assert await table.who_is_there("alice", "carol") == ["alice"]
    table.now_s += 0.1
    assert await table.who_is_there("alice", "carol") == ["carol"]
    await table.store.close()


async def test_what_is_remembered_has_a_bound(table: Table) -> None:
    await table.who_is_there(*(str(number) for number in range(MOST_REMEMBERED + 500)))
    await table.who_is_there("one more")
    assert len(table.members._remembered) == MOST_REMEMBERED
    before = len(table.asked)
    await table.who_is_there("one more", str(MOST_REMEMBERED))
    assert len(table.asked) == before, "the latest are remembered"
    await table.store.close()


async def test_a_database_that_is_away_refuses_nobody_and_is_not_asked_for_each(table: Table) -> None:
    table.trouble = StoreUnavailable("the database", "out of reach")
    assert await table.who_is_there("alice", "carol") == ["alice", "carol"]
    assert await table.who_is_there("dave") == ["dave"]
    assert len(table.asked) == 1
    table.trouble = None
    table.now_s += AWAY_S
    assert await table.who_is_there("alice", "carol", "dave") == ["alice"]
    await table.store.close()


async def test_one_that_does_not_answer_refuses_nobody_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herenow.store.members.ANSWER_WITHIN_S", 0.05)

    async def hang(_: Collection[str]) -> set[str]:
        await asyncio.sleep(60)
        return set()

    members = Members(hang)
    async with asyncio.timeout(10):
        assert await members.has("alice")


async def test_what_nobody_foresaw_leaves_nobody_waiting(table: Table) -> None:
    table.trouble = ZeroDivisionError()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it is told of it
    assert await table.who_is_there("alice", "carol") == ["alice", "carol"]
    table.trouble = None
    assert await table.who_is_there("carol") == []
    await table.store.close()


async def test_who_gives_up_waiting_takes_nobody_along(table: Table) -> None:
    impatient = asyncio.create_task(table.members.has("alice"))
    patient = asyncio.create_task(table.members.has("alice"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient
    await table.store.close()
