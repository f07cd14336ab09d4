"""Reading pages of users ahead of whoever works on them, so that the database and the work wait less for each other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from herenow.model import StoredUser
from herenow.store.base import PAGE_SIZE, Page


@asynccontextmanager
async def read_ahead(
    read: Callable[..., Awaitable[Page]], *, pages: int
) -> AsyncIterator[AsyncIterator[Sequence[StoredUser]]]:
    """Begin to read all pages, and give them in their order.

    Args:
        read: one of the store's, such as ``online``.
        pages: as many are read before they are asked for, at most: some 0.5 MB each.

    Raises:
        StoreError: where the pages are gone through, a page could not be read.
    """
    ready: asyncio.Queue[Page | Exception] = asyncio.Queue(pages)

    async def fill() -> None:
        cursor: str | None = None
        while True:
            try:
                page = await read(after=cursor, limit=PAGE_SIZE)
            except Exception as error:  # for whoever goes through the pages: else they would wait for ever
                await ready.put(error)
                return
            await ready.put(page)
            if page.cursor is None:
                return
            cursor = page.cursor

    async def give() -> AsyncIterator[Sequence[StoredUser]]:
        while True:
            page = await ready.get()
            if isinstance(page, Exception):
                raise page
            if page.users:
                yield page.users
            if page.cursor is None:
                return

    reader = asyncio.create_task(fill(), name="herenow reads ahead")
    try:
        yield give()
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
