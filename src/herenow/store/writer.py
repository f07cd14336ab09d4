"""Write-behind: carries the registry's changes into the store, merged and in batches, and keeps them while it fails.

The rules:

1. Of each user only the newest row waits: a user who comes and goes within a window costs one write, or none.
2. A row after a quiet window is written at once. Then rows gather for a window, or until they fill a batch.
3. One batch is under way at a time, and its rows stay here until the store has them; so no row is lost, and of one
   user no older row is written after a newer one.
4. When the store fails, rows go on merging, so that memory is bounded by the number of users, and the batch is tried
   again after a pause that grows to ``retry_max_s``: short enough that, once the database is back, the rest follows
   within two seconds.
5. A row that the store refuses for its own sake is dropped and reported, once a user; the others are written.
6. All rows of a batch, of one tenant, are written with the newest version among them, so that users who look alike can
   share one write. A registry gives out its versions in one order, so whatever it says of them later is newer still.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice

import msgspec

from herenow.errors import StoreError
from herenow.logs import get_logger
from herenow.model import StoredUser
from herenow.store.base import Applied, Store
from herenow.tenancy import shown_key, tenant_of

STALLED_MS = 2000
"""A store that has kept a row waiting for so long is not healthy, even if it has reported no error."""

_REPORTED_AT_MOST = 10_000

_log = get_logger(__name__)


class WriterState(msgspec.Struct, frozen=True):
    """How the writer does; for ``/readyz``, metrics and people.

    Attributes:
        healthy: the last write went well, and no row has waited longer than ``STALLED_MS``.
        pending: users whose newest row the store does not have yet.
        lag_ms: how long the oldest of those rows has waited; 0 with none.
        written: rows written, since the start like all that follow.
        skipped: rows that were not newer than the store's.
        unknown: rows of users whom the store does not have and does not create.
        refused: rows that the store would not take.
        flushes: batches that the store accepted.
        failures: attempts that failed.
        last_error: why the last attempt failed, as a sentence; ``None`` once one went well again.
    """

    healthy: bool
    pending: int
    lag_ms: int
    written: int
    skipped: int
    unknown: int
    refused: int
    flushes: int
    failures: int
    last_error: str | None


class _Waiting(msgspec.Struct, frozen=True):
    """The newest row of a user, and since when the store has lacked this user's news (on the writer's clock)."""

    row: StoredUser
    since_s: float


class Writer:
    """Writes rows behind the registry's back. ``run`` does the work; ``submit`` never waits and never fails.

    Args:
        store: where to.
        window_s: rows gather so long before they are written.
        batch_size: rows in one write; a full batch does not wait for the window to end.
        retry_min_s: the pause after a first failure; it doubles with each further one.
        retry_max_s: the longest pause.
        clock: seconds that only grow.
        sleep: waits some seconds of that clock.
        jitter: a number from 0 to 1: how much of the second half of a pause to wait.
    """

    def __init__(
        self,
        store: Store,
        *,
        window_s: float = 0.05,
        batch_size: int = 1000,
        retry_min_s: float = 0.05,
        retry_max_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._window_s = window_s
        self._batch_size = batch_size
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._waiting: dict[str, _Waiting] = {}
        self._under_way: dict[str, _Waiting] = {}
        self._has_rows = asyncio.Event()
        self._hurry = asyncio.Event()  # a batch is full, or all must out: do not wait for the window's end
        self._flushed = asyncio.Event()  # a new one after each batch
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._draining = False
        self._window_ends_s = clock()
        self._failures_in_a_row = 0
        self._failing_since_s = 0.0
        self._reported: set[str] = set()
        self._written = self._skipped = self._unknown = self._refused = self._flushes = self._failures = 0
        self._last_error: str | None = None

    def submit(self, rows: Iterable[StoredUser]) -> None:
        """Take rows to be written, in the order of their versions. Of one user the newest wins."""
        now_s = self._clock()
        for row in rows:
            earlier = self._waiting.get(row.user_id)
            if earlier is None:
                self._waiting[row.user_id] = _Waiting(row, now_s)
            elif earlier.row.version < row.version:
                self._waiting[row.user_id] = _Waiting(row, earlier.since_s)
        if self._waiting:
            self._is_empty.clear()
            self._has_rows.set()
        if len(self._waiting) >= self._batch_size:
            self._hurry.set()

    def is_pending(self, user_id: str) -> bool:
        """Say whether the store still lacks a row of this user that was submitted."""
        return user_id in self._waiting or user_id in self._under_way

    def pending(self, user_id: str) -> StoredUser | None:
        """Return the newest row of this user that the store still lacks; ``None`` if it lacks none."""
        waiting = self._waiting.get(user_id) or self._under_way.get(user_id)
        return None if waiting is None else waiting.row

    async def written(self, user_id: str) -> None:
        """Wait until the store has all that was submitted of a user; while it fails, for ever."""
        while self.is_pending(user_id):
            await self._flushed.wait()

    def state(self) -> WriterState:
        """Say how the writer does."""
        overlap = sum(user_id in self._waiting for user_id in self._under_way)
        lag_ms = self._lag_ms()
        return WriterState(
            healthy=self._failures_in_a_row == 0 and lag_ms <= STALLED_MS,
            pending=len(self._waiting) + len(self._under_way) - overlap,
            lag_ms=lag_ms,
            written=self._written,
            skipped=self._skipped,
            unknown=self._unknown,
            refused=self._refused,
            flushes=self._flushes,
            failures=self._failures,
            last_error=self._last_error,
        )

    async def run(self) -> None:
        """Write what is submitted, until cancelled. Call ``drain`` first, or what waits is lost.

        One at a time. Called again after it has raised, it goes on with the batch that was under way. A cancelled write
        may still reach the store.
        """
        while True:
            while self._under_way:
                await self._attempt()
            if not self._waiting:
                self._has_rows.clear()
                self._is_empty.set()
            await self._has_rows.wait()
            await self._gather()
            self._begin_batch()

    async def drain(self, timeout_s: float) -> int:
        """Write all that waits, without regard to windows, for as long as the timeout allows.

        ``run`` must be running, and goes on afterwards.

        Returns:
            How many users' rows the store still lacks; 0 is success.
        """
        self._draining = True
        self._hurry.set()
        await self._wait_for(self._is_empty, timeout_s)
        self._draining = False
        return self.state().pending

    async def _gather(self) -> None:
        """Wait for the end of the window that the last write began, for a full batch or for a drain."""
        remaining_s = self._window_ends_s - self._clock()
        if remaining_s > 0 and not self._draining and len(self._waiting) < self._batch_size:
            self._hurry.clear()
            await self._wait_for(self._hurry, remaining_s)
        self._window_ends_s = self._clock() + self._window_s

    def _begin_batch(self) -> None:
        """Move the rows that have waited longest under way."""
        user_ids = list(islice(self._waiting, self._batch_size))
        self._under_way = {user_id: self._waiting.pop(user_id) for user_id in user_ids}

    async def _attempt(self) -> None:
        """Try once to write the batch under way; after a failure, pause and bring it up to date."""
        try:
            applied = await self._store.apply(_of_one_version([waiting.row for waiting in self._under_way.values()]))
        except StoreError as error:
            self._note_failure(error)
            await self._sleep(self._pause_s())
            self._renew_batch()
        else:
            self._under_way = {}
            flushed, self._flushed = self._flushed, asyncio.Event()
            flushed.set()
            self._note_success(applied)

    def _pause_s(self) -> float:
        doublings = 0 if self._draining else min(self._failures_in_a_row - 1, 30)
        longest_s = min(self._retry_max_s, self._retry_min_s * float(2**doublings))
        return longest_s * (1 + self._jitter()) / 2

    def _renew_batch(self) -> None:
        """Put what came meanwhile for the users of the batch into it: the store need not see what is no longer so."""
        for user_id, old in self._under_way.items():
            new = self._waiting.pop(user_id, None)
            if new is not None and new.row.version > old.row.version:
                self._under_way[user_id] = _Waiting(new.row, old.since_s)

    def _note_failure(self, error: StoreError) -> None:
        self._failures += 1
        self._failures_in_a_row += 1
        self._last_error = str(error)
        if self._failures_in_a_row == 1:
            self._failing_since_s = self._clock()
            _log.warning("store failed", error=str(error), temporary=error.temporary, pending=self.state().pending)

    def _note_success(self, applied: Applied) -> None:
        if self._failures_in_a_row:
            outage_ms = round((self._clock() - self._failing_since_s) * 1000)
            _log.info("store is back", outage_ms=outage_ms, pending=len(self._waiting))
        self._failures_in_a_row = 0
        self._last_error = None
        self._flushes += 1
        self._written += applied.written
        self._skipped += applied.skipped
        self._unknown += len(applied.unknown)
        self._refused += len(applied.refused)
        _log.debug("flushed", written=applied.written, skipped=applied.skipped, pending=len(self._waiting))
        unknown = [shown_key(user_id) for user_id in applied.unknown if self._is_news(user_id)]
        if unknown:
            _log.warning("users not in the store", users=unknown)
        for user_id, reason in applied.refused.items():
            if self._is_news(user_id):
                _log.error("row refused", user=shown_key(user_id), reason=reason)

    def _is_news(self, user_id: str) -> bool:
        """Say whether trouble with this user is still to be reported; after ``_REPORTED_AT_MOST`` users it never is."""
        if user_id in self._reported or len(self._reported) >= _REPORTED_AT_MOST:
            return False
        self._reported.add(user_id)
        return True

    def _lag_ms(self) -> int:
        # both are in the order of since_s: rows are added at the end, and renewed in their place
        oldest = [next(iter(waiting.values())).since_s for waiting in (self._under_way, self._waiting) if waiting]
        return round((self._clock() - min(oldest)) * 1000) if oldest else 0

    async def _wait_for(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for an event, but no longer than so many seconds of the writer's clock."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._sleep(seconds))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _of_one_version(rows: list[StoredUser]) -> list[StoredUser]:
    """Give all rows of a tenant the newest version among them."""
    tenants = [tenant_of(row.user_id) for row in rows]
    newest: dict[str | None, int] = {}
    for tenant, row in zip(tenants, rows, strict=True):
        newest[tenant] = max(newest.get(tenant, 0), row.version)
    return [
        row if row.version == newest[tenant] else msgspec.structs.replace(row, version=newest[tenant])
        for tenant, row in zip(tenants, rows, strict=True)
    ]
