"""Pages that are read ahead: in order, not too many, and with whatever goes wrong."""

import asyncio

import pytest

from herenow.errors import StoreUnavailable
from herenow.keeper.adoption import read_ahead
from herenow.store.base import RowPage
from store.clock import settle
from store.rows import online

AWAY = StoreUnavailable("db", "it is away")


class Book:
    """Pages of one user each; the one numbered ``broken`` cannot be read."""

    def __init__(self, pages: int, *, broken: int | None = None) -> None:
        self.pages, self.broken, self.read = pages, broken, 0

    async def turn(self, *, after: str | None, limit: int) -> RowPage:
        number = int(after or 0)
        await asyncio.sleep(0)
        if number == self.broken:
            raise AWAY
        self.read += 1
        return RowPage((online(f"user-{number}"),), str(number + 1) if number + 1 < self.pages else None)


async def test_pages_come_in_their_order_and_end() -> None:
    async with read_ahead(Book(5).turn, pages=2) as pages:
        assert [page[0].user_id async for page in pages] == [f"user-{number}" for number in range(5)]


async def test_only_so_many_are_read_before_they_are_asked_for() -> None:
    book = Book(100)
    async with read_ahead(book.turn, pages=3):
        await settle()
        assert book.read == 4, "three wait, and one is in hand"


async def test_a_page_that_cannot_be_read_is_told_in_its_place() -> None:
    seen: list[str] = []
    async with read_ahead(Book(5, broken=2).turn, pages=10) as pages:
        with pytest.raises(StoreUnavailable):
            async for page in pages:
                seen.append(page[0].user_id)  # noqa: PERF401  what came before the error is the point
    assert seen == ["user-0", "user-1"]


async def test_whoever_stops_early_leaves_nobody_reading() -> None:
    before = asyncio.all_tasks()
    async with read_ahead(Book(100).turn, pages=1):
        await settle()
    assert asyncio.all_tasks() == before
