"""What goes out: net diffs in a flush window, one encoding for all who get the same, and no queue for slow readers.

The rules:

1. The first change after a quiet moment goes out at once. Then changes gather for ``flush_interval_s``; under load the
   window grows so that flushing takes at most a third of the time, but never past ``flush_longest_s``.
2. Of each user only the latest change waits for a watcher: a diff is the net change since the last one.
3. A change is encoded once, and watchers that wait for the same changes share one frame.
4. A slow watcher gets nothing until it drains, then the net of all it missed. One that stays slow for
   ``slow_reader_timeout_s`` is told so, for when it reads on, and closed. So what waits for a watcher is bounded by the
   users it watches.
"""

import asyncio
from collections.abc import Callable, Container, Iterable, Set

import msgspec

from herenow.gateway.events import DIFF, ERROR, WireError
from herenow.gateway.watches import Watches
from herenow.metering import Meters
from herenow.model import Change, Closing
from herenow.socketio_server import Message, Namespace, Socket
from herenow.supervision import OnFault
from herenow.wire import change_to_wire

FLUSH_SHARE = 3
"""Of so many parts of the time, flushing takes at most one."""


_TOO_SLOW = WireError("slow_reader", "this connection reads too slowly: connect again, and take a snapshot")


class Watcher:
    """One connection, as the outbox knows it.

    Attributes:
        socket: where its diffs go.
        user_id: whose it is.
        pending: the latest change of each user that it has not been sent.
        slow_since_s: since when it reads too slowly, by the loop's clock; ``None`` if it does not.
        closing: how its end counts, where that is not for the transport to say.
    """

    __slots__ = ("closing", "pending", "slow_since_s", "socket", "user_id")

    def __init__(self, socket: Socket, user_id: str) -> None:
        self.socket = socket
        self.user_id = user_id
        self.pending: dict[str, Change] = {}
        self.slow_since_s: float | None = None
        self.closing: Closing | None = None


class Pace:
    """How the outboxes of a server share the time: together, flushing takes at most its share of it.

    Args:
        interval_s: the flush window.
        longest_s: the longest one, under load.
    """

    def __init__(self, interval_s: float, longest_s: float) -> None:
        self._interval_s = interval_s
        self._longest_s = longest_s
        self._paid_s = 0.0  # until then, what was flushed has had its share

    def latest_s(self, start_s: float) -> float:
        """Say when an outbox that has not come to the end of its flush is to try again."""
        return start_s + self._longest_s

    def next_s(self, start_s: float, took_s: float) -> float:
        """Say when an outbox may flush again that has done so since ``start_s``, for ``took_s``."""
        longest_s = start_s + self._longest_s
        self._paid_s = min(max(self._paid_s, start_s) + FLUSH_SHARE * took_s, longest_s)
        return min(max(start_s + self._interval_s, self._paid_s), longest_s)


class Outbox:
    """Sends the changes to whoever watches.

    Args:
        namespace: that of the watchers' sockets.
        watches: who wants to hear of whom.
        version: gives the registry's version.
        pace: when it may flush again.
        slow_timeout_s: how long a watcher may be slow.
        meters: where flushes are counted.
        on_fault: told of what raises.
        told: called after each flush with the changes that were sent in it.
    """

    def __init__(
        self,
        namespace: Namespace,
        watches: Watches[Watcher],
        version: Callable[[], int],
        *,
        pace: Pace,
        slow_timeout_s: float,
        meters: Meters,
        on_fault: OnFault,
        told: Callable[[Iterable[Change]], None],
    ) -> None:
        self._namespace = namespace
        self._watches = watches
        self._version = version
        self._pace = pace
        self._slow_timeout_s = slow_timeout_s
        self._meters = meters
        self._on_fault = on_fault
        self._told = told
        self.flushes = 0
        """How many there have been."""
        self._merged = 0
        self._for_all: dict[str, Change] = {}
        self._hidden: set[str] = set()
        self._dirty: dict[Watcher, None] = {}
        self._slow: set[Watcher] = set()
        self._encoded: dict[int, tuple[Change, msgspec.Raw | None]] = {}
        self._next_flush_s = 0.0
        self._timer: asyncio.Handle | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    def publish(self, changes: Iterable[Change], *, invisible: Container[str] = ()) -> None:
        """Queue changes, oldest first, for those who watch their users.

        ``invisible`` are users who must not be told of themselves what others are told.
        """
        for_all = self._watches.of_all
        for change in changes:
            if for_all:
                self._merged += change.user_id in self._for_all
                self._for_all[change.user_id] = change
                if change.user_id in invisible:
                    self._hidden.add(change.user_id)
                else:
                    self._hidden.discard(change.user_id)  # visible again within the window: the last word counts
            self._queue_for(self._watches.of(change.user_id), change, invisible)
        if self._for_all or self._dirty:
            self._schedule()

    def _queue_for(self, watchers: Set[Watcher], change: Change, invisible: Container[str]) -> None:
        # A loop of its own: this is done for each delivery.
        user_id, for_all, dirty, merged = change.user_id, self._watches.of_all, self._dirty, 0
        is_hidden = user_id in invisible
        for watcher in watchers:
            if (for_all and watcher in for_all) or (is_hidden and watcher.user_id == user_id):
                continue
            pending = watcher.pending
            merged += user_id in pending
            pending[user_id] = change
            dirty[watcher] = None
        self._merged += merged

    def queue(self, watcher: Watcher, change: Change) -> None:
        """Queue a change for one watcher."""
        self._merged += change.user_id in watcher.pending
        watcher.pending[change.user_id] = change
        self._dirty[watcher] = None
        self._schedule()

    def became_slow(self, watcher: Watcher) -> None:
        """The watcher's socket refuses more."""
        loop = asyncio.get_running_loop()
        watcher.slow_since_s = loop.time()
        self._slow.add(watcher)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._slow_timeout_s / 4, self._sweep)

    def drained(self, watcher: Watcher) -> None:
        """The watcher's socket takes events again: send the net of what it missed."""
        watcher.slow_since_s = None
        self._slow.discard(watcher)
        if watcher.pending:
            self._dirty[watcher] = None
            self._schedule()

    def forget(self, watcher: Watcher) -> None:
        """The watcher is gone."""
        watcher.pending = {}
        self._dirty.pop(watcher, None)
        self._slow.discard(watcher)

    def close(self) -> None:
        """Send nothing more."""
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()

    # -- the flush window --------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            wait_s = self._next_flush_s - loop.time()
            # Even the first one waits for the end of the tick, so that a burst goes out as one diff.
            self._timer = loop.call_later(wait_s, self._flush) if wait_s > 0 else loop.call_soon(self._flush)

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        self._timer = None
        self.flushes += 1
        for_all, self._for_all = self._for_all, {}
        hidden, self._hidden = self._hidden, set()
        dirty, self._dirty = self._dirty, {}
        try:
            sent = self._send(for_all, hidden, dirty)
        except Exception as error:
            # What was not told waits for the next window, a long one. Who has it already is told it twice.
            self._for_all, self._hidden = {**for_all, **self._for_all}, hidden | self._hidden
            self._dirty = dirty | self._dirty
            self._encoded = {}
            self._next_flush_s = self._pace.latest_s(loop.time())
            self._schedule()
            self._on_fault("outbox", error)
            return
        took_s = loop.time() - start_s
        self._next_flush_s = self._pace.next_s(start_s, took_s)
        told, self._encoded = [change for change, data in self._encoded.values() if data is not None], {}
        try:
            self._measure(told, *sent, took_s)
        except Exception as error:
            self._on_fault("outbox", error)

    def _send(self, for_all: dict[str, Change], hidden: set[str], dirty: dict[Watcher, None]) -> tuple[int, int]:
        """Send what waits; return how many frames that were, and how many deliveries."""
        frames = deliveries = 0
        if for_all:
            message = self._message(for_all)
            frames += 1
            deliveries += len(self._watches.of_all)
            for watcher in tuple(self._watches.of_all):
                # One that has something left from before gets all of it in one piece, below or when it drains.
                try:
                    if watcher.pending or watcher.user_id in hidden or not watcher.socket.send(message):
                        deliveries -= 1
                        self._keep(watcher, for_all, hidden)
                        if watcher.slow_since_s is None:
                            dirty[watcher] = None
                except Exception as error:
                    self._broke(watcher, error)
        shared: dict[int | tuple[int, ...], Message] = {}
        for watcher in dirty:
            pending = watcher.pending
            if pending and watcher.slow_since_s is None:
                key = tuple(map(id, pending.values())) if len(pending) > 1 else id(*pending.values())
                message = shared.get(key) or shared.setdefault(key, self._message(pending))
                try:
                    if watcher.socket.send(message):
                        watcher.pending = {}
                        deliveries += 1
                except Exception as error:
                    self._broke(watcher, error)
        return frames + len(shared), deliveries

    def _keep(self, watcher: Watcher, for_all: dict[str, Change], hidden: Container[str]) -> None:
        """Let what goes to all wait for one watcher, but for what it must not be told of its own user."""
        own = watcher.pending.get(watcher.user_id)
        watcher.pending.update(for_all)
        if watcher.user_id in hidden:
            del watcher.pending[watcher.user_id]
            if own is not None:
                watcher.pending[watcher.user_id] = own

    def _broke(self, watcher: Watcher, error: Exception) -> None:
        """A watcher cannot be told. It is closed, so that its client comes back and takes a snapshot: it would go on to
        show what is no longer so. But not at once: the caller is in a loop over all of them.
        """
        self._on_fault("a watcher", error)
        watcher.closing = Closing.ERROR
        asyncio.get_running_loop().call_soon(lambda: watcher.socket.disconnect(close=True))

    def _measure(self, changes: list[Change], frames: int, deliveries: int, took_s: float) -> None:
        meters = self._meters
        meters.frames.inc(frames)
        meters.deliveries.inc(deliveries)
        meters.merged.inc(self._merged)
        self._merged = 0
        meters.flush_changes.observe(len(changes))
        meters.flush_seconds.observe(took_s)
        self._told(changes)

    def _message(self, pending: dict[str, Change]) -> Message:
        changes = sorted(pending.values(), key=lambda change: change.version)
        encoded = [data for change in changes if (data := self._encode(change)) is not None]
        return self._namespace.message(DIFF, {"version": self._version(), "changes": encoded})

    def _encode(self, change: Change) -> msgspec.Raw | None:
        # By identity, for of one version there are two changes where a user is invisible: the others' and their own.
        # The change is kept beside its encoding, so that no other can get its id before the flush is over.
        known = self._encoded.get(id(change))
        if known is None:
            data = None
            try:
                data = msgspec.Raw(msgspec.json.encode(change_to_wire(change)))
            except Exception as error:  # one that cannot be written must not cost all the others of the window
                self._on_fault("encoding", error)
            known = self._encoded[id(change)] = change, data
        return known[1]

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self._slow_timeout_s / 4, self._sweep) if self._slow else None
        for watcher in list(self._slow):
            if watcher.slow_since_s is not None and loop.time() - watcher.slow_since_s >= self._slow_timeout_s:
                try:
                    self._end(watcher)
                except Exception as error:  # of one; at the next sweep again
                    self._on_fault("slow readers", error)

    def _end(self, watcher: Watcher) -> None:
        watcher.closing = Closing.ERROR  # it may come back, within the grace
        try:
            watcher.socket.answer(self._namespace.message(ERROR, _TOO_SLOW.body()))
        finally:
            watcher.socket.disconnect(close=True)
        self._slow.discard(watcher)
        self._meters.slow_closed.inc()
