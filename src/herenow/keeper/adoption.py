"""Takes over whom a dead process left online: they linger, and who comes back in time never flickers.

Pages of users are read ahead of that work, so that the database and it wait less for each other.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from herenow.model import StoredUser
from herenow.registry.tenants import Tenants
from herenow.settings import DISPATCH_BUDGET_S, Settings
from herenow.store.base import PAGE_SIZE, RowPage
from herenow.tenancy import rows_by_tenant
from herenow.times import steady_s

DECIDED_PER_S = 20_000
"""Users whom a restart finds online, and who do not come back: so many a second are told and written offline."""


@asynccontextmanager
async def read_ahead(
    read: Callable[..., Awaitable[RowPage]], *, pages: int
) -> AsyncIterator[AsyncIterator[Sequence[StoredUser]]]:
    """Begin to read all pages, and give them in their order.

    Args:
        read: one of the store's, such as ``online``.
        pages: as many are read before they are asked for, at most: some 0.5 MB each.

    Raises:
        StoreError: where the pages are gone through, a page could not be read.
    """
    ready: asyncio.Queue[RowPage | Exception] = asyncio.Queue(pages)

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


async def adopt(
    tenants: Tenants,
    online: AsyncIterator[Sequence[StoredUser]],
    claimed: AsyncIterator[Sequence[StoredUser]],
    *,
    settings: Settings,
    last_beat_ms: int,
    began_s: float,
    is_wanted: Callable[[str | None], bool] = lambda tenant: True,
) -> int:
    """Let whoever a dead process left online linger until ``restart_grace``; claims live on.

    Args:
        tenants: the registries.
        online: pages of users, most recently active first.
        claimed: pages of users with a claim.
        settings: for the times.
        last_beat_ms: when that process was last known to live, Unix time.
        began_s: when this one has taken its place, by the steady clock.
        is_wanted: says of which tenants.

    Returns:
        How many were online.
    """
    adopted = 0
    async for page in online:
        adopted += len(page)
        ends_s = began_s + linger_after_restart_s(settings, adopted)
        await _take_over(tenants, page, is_wanted, last_beat_ms=last_beat_ms, ends_s=ends_s)
    ends_s = began_s + linger_after_restart_s(settings, 0)
    async for page in claimed:
        await _take_over(tenants, page, is_wanted, last_beat_ms=last_beat_ms, ends_s=ends_s)
    return adopted


async def _take_over(
    tenants: Tenants,
    rows: Sequence[StoredUser],
    is_wanted: Callable[[str | None], bool],
    *,
    last_beat_ms: int,
    ends_s: float,
) -> None:
    for tenant, theirs in rows_by_tenant(rows).items():
        if not is_wanted(tenant):
            continue
        grace_ms = max(1, round((ends_s - steady_s()) * 1000))
        await tenants.registry(tenant).adopt(theirs, last_beat_ms=last_beat_ms, grace_ms=grace_ms)


def linger_after_restart_s(settings: Settings, place: int) -> float:
    """Say how long after a start somebody lingers whom a dead process left online, in seconds.

    The bound runs from the start, and telling a crowd takes time: the ends are spread, so that the last is told and
    written at the bound. Whoever was active longest ago ends first, but nobody before the stock client, at its longest
    pause, has had the time to come back.

    Args:
        settings: their ``restart_grace_s`` is the bound.
        place: where in the order of last activity the user stands; 1 is the most recently active.
    """
    latest_s = settings.restart_grace_s - DISPATCH_BUDGET_S
    return max(latest_s - place / DECIDED_PER_S, settings.shortest_restart_grace_s - DISPATCH_BUDGET_S)
