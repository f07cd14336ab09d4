"""Write-behind: carries the registry's changes into the store, merged and in batches, and keeps them while it fails.

The rules:

1. Of each user only the newest row waits: a user who comes and goes within a window costs one write, or none.
2. A row after a quiet window is written at once. Then rows gather for a window, or until they fill a batch.
3. One batch is under way at a time, and its rows stay here until the store has them; so no row is lost, and of one
   user no older row is written after a newer one.
4. When the store fails, rows go on merging, so that memory is bounded by the number of users, and the batch is tried
   again after a pause that grows to ``retry_max_s``: short enough that, once the database is back, the rest follows
   within two seconds.
5. A row that the store refuses for its own sake is dropped and reported, once a user; the others are written. It is the
   row's own sake if the store took most of the batch or, of a row that is alone, if it takes one of the same look.
6. Where it refuses most of a batch, or fails in a way that nobody foresaw, nobody can tell whether a row or the store
   is the cause. Such rows are kept apart in *doubt*, so that they hold nobody else up, and are offered again in ever
   fewer at a time, until it takes them; until it has taken all, it counts as failing.
7. No exception ends the writer, and what it holds outlives it: ``run`` may be started again, and goes on.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from itertools import islice

import msgspec

from herenow.errors import StoreError, StoreUnavailable, StoreUnforeseen
from herenow.logs import get_logger
from herenow.model import StoredUser
from herenow.store.base import Applied, Store
from herenow.store.rows import is_storable
from herenow.tenancy import shown_key, tenant_of

STALLED_MS = 2000
"""A store that has kept a row waiting for so long is not healthy, even if it has reported no error."""

_REPORTED_AT_MOST = 10_000

_log = get_logger(__name__)


class WriterState(msgspec.Struct, frozen=True):
    """How the writer does; for ``/readyz``, metrics and people.

    Attributes:
        healthy: the last write went well, no row is in doubt, and none has waited longer than ``STALLED_MS``.
        pending: users whose newest row the store does not have yet.
        lag_ms: how long the oldest of those rows has waited; 0 with none.
        written: rows written, since the start like all that follow.
        skipped: rows that were not newer than the store's.
        unknown: rows of users whom the store does not have and does not create.
        refused: rows that the store would not take.
        flushes: batches that the store accepted.
        failures: attempts that failed.
        last_error: why the last attempt failed, as a sentence; ``None`` once all is well again.
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
        self._doubtful: dict[str, _Waiting] = {}
        self._doubted_at_once = batch_size  # how many of them are offered at a time
        self._doubt_due_s = 0.0
        self._doubt_failures = 0
        self._tries_doubtful = False  # those under way were in doubt
        self._has_rows = asyncio.Event()
        self._hurry = asyncio.Event()  # a batch is full, or all must out: do not wait for the window's end
        self._flushed = asyncio.Event()  # a new one after each batch
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._draining = False
        self._window_ends_s = clock()
        self._failures_in_a_row = 0
        self._failing_since_s: float | None = None
        self._witnesses: dict[Hashable, StoredUser] = {}  # a row of each look that the store took
        self._refused_before: set[str] = set()
        self._reported: set[str] = set()
        self._written = self._skipped = self._unknown = self._refused = self._flushes = self._failures = 0
        self._last_error: str | None = None

    def submit(self, rows: Iterable[StoredUser]) -> None:
        """Take rows to be written, in the order of their versions. Of one user the newest wins."""
        now_s = self._clock()
        for row in rows:
            held = self._doubtful if row.user_id in self._doubtful else self._waiting
            earlier = held.get(row.user_id)
            if earlier is None:
                held[row.user_id] = _Waiting(row, now_s)
            elif earlier.row.version < row.version:
                held[row.user_id] = _Waiting(row, earlier.since_s)
        if self._waiting or self._doubtful:
            self._is_empty.clear()
        if self._waiting:
            self._has_rows.set()
        if len(self._waiting) >= self._batch_size:
            self._hurry.set()

    def is_pending(self, user_id: str) -> bool:
        """Say whether the store still lacks a row of this user that was submitted."""
        return user_id in self._waiting or user_id in self._under_way or user_id in self._doubtful

    def oldest_s(self) -> float | None:
        """Since when (by the writer's clock) the store has lacked something that was submitted; ``None``: nothing."""
        # those waiting are in the order of since_s: rows are added at the end, and renewed in their place
        oldest = [row.since_s for row in islice(self._waiting.values(), 1)]
        oldest += [row.since_s for rows in (self._under_way, self._doubtful) for row in rows.values()]
        return min(oldest) if oldest else None

    def pending(self, user_id: str) -> StoredUser | None:
        """Return the newest row of this user that the store still lacks; ``None`` if it lacks none."""
        waiting = self._waiting.get(user_id) or self._under_way.get(user_id) or self._doubtful.get(user_id)
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
            healthy=self._failing_since_s is None and lag_ms <= STALLED_MS,
            pending=len(self._waiting) + len(self._under_way) + len(self._doubtful) - overlap,
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

        One at a time; after its end it may be started again. A cancelled write may still reach the store.
        """
        while True:
            if not self._under_way:
                await self._begin_batch()
            await self._attempt()
            if not (self._waiting or self._under_way or self._doubtful):
                self._is_empty.set()

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

    async def _begin_batch(self) -> None:
        """Move the rows that have waited longest under way, as soon as it is their time."""
        while True:
            remaining_s = self._doubt_due_s - self._clock()
            if self._doubtful and remaining_s <= 0:
                self._take(self._doubtful, self._doubted_at_once, are_doubtful=True)
                return
            if self._waiting:
                await self._gather()
                self._take(self._waiting, self._batch_size, are_doubtful=False)
                return
            self._has_rows.clear()
            await (self._wait_for(self._has_rows, remaining_s) if self._doubtful else self._has_rows.wait())

    def _take(self, rows: dict[str, _Waiting], number: int, *, are_doubtful: bool) -> None:
        user_ids = list(islice(rows, number))
        self._under_way = {user_id: rows.pop(user_id) for user_id in user_ids}
        self._tries_doubtful = are_doubtful

    async def _attempt(self) -> None:
        """Try once to write the batch under way; after a failure, keep its rows and pause."""
        try:
            applied = await self._store.apply([waiting.row for waiting in self._under_way.values()])
            doubted: set[str] = set()
            if applied.refused:
                applied, doubted = await self._judge(applied)
        except Exception as error:  # whatever it is: it must not end the writer, and no row is lost over it
            await self._keep(error)
        else:
            await self._settle(applied, doubted)

    async def _judge(self, applied: Applied) -> tuple[Applied, set[str]]:
        """Tell rows that were refused for their own sake from those over which the store itself may be the cause.

        Returns:
            What became of the batch in the end, and whose rows are in doubt.
        """
        doubted = self._doubted(applied)
        if len(doubted) > 1 or not doubted or applied.written or self._doubtful:
            return applied, doubted
        row = self._under_way[next(iter(doubted))].row
        witness = self._witnesses.get(_look(row))
        if witness is None or self.is_pending(witness.user_id) or tenant_of(witness.user_id) != tenant_of(row.user_id):
            return applied, doubted  # of another tenant its version would not compare
        again = msgspec.structs.replace(witness, version=row.version)  # or it would not be newer
        second = await self._store.apply([row, again])
        refused = {**applied.refused, **second.refused}
        if row.user_id not in second.refused:
            del refused[row.user_id]
        refused.pop(witness.user_id, None)
        together = Applied(applied.written + second.written, applied.skipped, applied.unknown, refused)
        return together, self._doubted(together)

    def _doubted(self, applied: Applied) -> set[str]:
        suspects = {
            user_id
            for user_id in applied.refused
            if user_id not in self._refused_before and is_storable(self._under_way[user_id].row)
        }
        return suspects if len(suspects) > applied.written else set()

    async def _settle(self, applied: Applied, doubted: set[str]) -> None:
        """The store has answered for the batch under way: let go of its rows, but for those in doubt."""
        rows = self._under_way
        self._keep_in_doubt(doubted)
        self._under_way = {}
        if not applied.refused and not applied.unknown:
            row = next(iter(rows.values())).row
            self._witnesses[_look(row)] = row
        flushed, self._flushed = self._flushed, asyncio.Event()
        flushed.set()
        if not doubted:
            self._note_success()
            self._note_rows(applied)
        else:
            refused = {user_id: why for user_id, why in applied.refused.items() if user_id not in doubted}
            self._note_rows(msgspec.structs.replace(applied, refused=refused))
            user_id = min(doubted)
            reason = f"it refuses {len(doubted)} of {len(rows)} rows, such as {shown_key(user_id)}'s: "
            self._note_failure(StoreUnavailable(self._store.name, reason + applied.refused[user_id].rstrip(".")))
            await self._pause()

    async def _keep(self, error: Exception) -> None:
        """The store has failed: keep the rows under way, and bring them up to date."""
        self._note_failure(error)
        if isinstance(error, StoreError) and not isinstance(error, StoreUnforeseen):
            await self._pause()
            self._renew_batch()
            return
        self._keep_in_doubt(set(self._under_way))
        self._under_way = {}
        await self._pause()

    def _keep_in_doubt(self, user_ids: set[str]) -> None:
        """Put rows under way behind those in doubt. The next of these are offered after a pause, and fewer at once."""
        if not user_ids:
            return
        for user_id in self._under_way.keys() & user_ids:
            self._doubtful[user_id] = self._newer(user_id)
        self._doubted_at_once = min(self._doubted_at_once, max(1, len(self._under_way) // 2))
        self._doubt_failures += 1
        self._doubt_due_s = self._clock() + self._pause_s(self._doubt_failures)

    async def _pause(self) -> None:
        """Wait after a failure. Rows in doubt have a moment of their own, and hold nobody up."""
        if not self._tries_doubtful or self._under_way:
            await self._sleep(self._pause_s(self._failures_in_a_row))

    def _pause_s(self, failures: int) -> float:
        doublings = 0 if self._draining else min(failures - 1, 30)
        longest_s = min(self._retry_max_s, self._retry_min_s * float(2**doublings))
        return longest_s * (1 + self._jitter()) / 2

    def _renew_batch(self) -> None:
        """Put what came meanwhile for the users of the batch into it: the store need not see what is no longer so."""
        self._under_way = {user_id: self._newer(user_id) for user_id in self._under_way}

    def _newer(self, user_id: str) -> _Waiting:
        """Take the newest row of somebody whose row is under way out of those that wait."""
        old, new = self._under_way[user_id], self._waiting.pop(user_id, None)
        return old if new is None or new.row.version <= old.row.version else _Waiting(new.row, old.since_s)

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        self._failures_in_a_row += 1
        told, temporary, traceback = str(error), True, None
        if isinstance(error, StoreError):
            temporary = error.temporary
        else:
            told, traceback = f"Writing to {self._store.name} failed: {type(error).__name__}: {error}", error
        is_news = self._failing_since_s is None or (traceback is not None and told != self._last_error)
        self._last_error = told
        if self._failing_since_s is None:
            self._failing_since_s = self._clock()
        if is_news:
            pending = self.state().pending
            _log.warning("store failed", error=told, temporary=temporary, pending=pending, exc_info=traceback)

    def _note_success(self) -> None:
        self._failures_in_a_row = 0
        if self._tries_doubtful:
            self._doubt_failures = 0
            self._doubted_at_once = min(2 * self._doubted_at_once, self._batch_size)
        if self._doubtful:
            return
        since_s, self._failing_since_s = self._failing_since_s, None
        self._last_error = None
        if since_s is not None:
            _log.info("store is back", outage_ms=round((self._clock() - since_s) * 1000), pending=len(self._waiting))

    def _note_rows(self, applied: Applied) -> None:
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
            if len(self._refused_before) < _REPORTED_AT_MOST:
                self._refused_before.add(user_id)
            if self._is_news(user_id):
                _log.error("row refused", user=shown_key(user_id), reason=reason)

    def _is_news(self, user_id: str) -> bool:
        """Say whether trouble with this user is still to be reported; after ``_REPORTED_AT_MOST`` users it never is."""
        if user_id in self._reported or len(self._reported) >= _REPORTED_AT_MOST:
            return False
        self._reported.add(user_id)
        return True

    def _lag_ms(self) -> int:
        oldest_s = self.oldest_s()
        return 0 if oldest_s is None else round((self._clock() - oldest_s) * 1000)

    async def _wait_for(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for an event, but no longer than so many seconds of the writer's clock."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._sleep(seconds))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _look(row: StoredUser) -> Hashable:
    """Equal in rows of which a rule of the database that refuses one is likely to refuse the other."""
    return row.availability, row.claim is not None
