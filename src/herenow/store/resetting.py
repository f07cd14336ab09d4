"""Setting users offline page by page, as every database has it done."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from herenow.errors import StoreRefused
from herenow.store.base import Progress, Spare
from herenow.tenancy import shown_key

T = TypeVar("T")


async def reset_pages(
    pages: AsyncIterator[Sequence[T]],
    write: Callable[[list[T]], Awaitable[tuple[int, Mapping[str, str]]]],
    *,
    key: Callable[[T], str],
    database: str,
    total: int,
    spare: Spare | None,
    on_progress: Progress | None,
) -> int:
    """Set all users of the pages offline who are not spared; returns how many it were.

    Args:
        pages: of users, in the form in which the database knows them.
        write: sets some of them offline; gives how many, and whom the database refuses, with its reason.
        key: the id of one of them.
        database: its name for people.
        total: how many are to be expected, for the progress.
        spare: whom to leave alone.
        on_progress: told after each page.

    Raises:
        StoreRefused: some of them; all others are offline.
    """
    done = changed = 0
    refused: dict[str, str] = {}
    async for page in pages:
        spared = await spare([key(each) for each in page]) if spare else ()
        written, refusals = await write([each for each in page if key(each) not in spared])
        changed += written
        refused.update(refusals)
        done += len(page)
        if on_progress:
            on_progress(done, max(total, done))
    if refused:
        raise _some_refused(database, changed, refused)
    return changed


def _some_refused(database: str, changed: int, refused: Mapping[str, str]) -> StoreRefused:
    """Say that some users could not be set offline, of whom one is named with the reason."""
    user, reason = next(iter(refused.items()))
    whom = f"refused, and online as before: {len(refused):,}, such as {shown_key(user)}: {reason}"
    return StoreRefused(database, f"set offline: {changed:,}; {whom}")
