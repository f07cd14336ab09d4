"""The registry of one process: the rules, the event loop's clock, and one timer for all deadlines."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from herenow.model import Availability, Cause, Change, Claim, Closing, Connection, StoredUser, UserPresence
from herenow.registry.base import Batch, Explanation, Page, Snapshot, Stats, Subscriber
from herenow.registry.changelog import ChangeLog
from herenow.registry.commands import (
    Active,
    Adopt,
    Advance,
    Command,
    Connect,
    Disconnect,
    Effects,
    Evict,
    Idle,
    NodeLost,
    Now,
    Repair,
    SetClaim,
)
from herenow.registry.recency import Entry
from herenow.registry.rules import Rules, place_of
from herenow.supervision import OnFault, tell_loop

T = TypeVar("T")

LONGEST_WAIT_MS = 60_000
"""The timer runs at least this often while anything is pending, so that a wall clock set forward is noticed."""

AGAIN_MS = 1_000
"""After a fault in what falls due, the timer rings again so much later."""

USERS_AT_ONCE = 500
"""A command for a crowd, and a crowd that falls due in the same moment, as all who do not come back after a restart,
take a turn of the event loop for so many users. A turn takes some 5 ms, with what the subscribers do; the loop serves
the others in between."""

_ADVANCE = Advance(USERS_AT_ONCE)

_UNFINISHED: Final = object()


class _Crowd:
    """A command for a crowd: each call does a part of it, all at the moment of the first.

    Args:
        apply: applies one command to the rules.
        plan: divides it, once it has its turn.
    """

    def __init__(self, apply: Callable[[Command, Now], Effects], plan: Callable[[], Iterable[Command]]) -> None:
        self._apply = apply
        self._plan = plan
        self._parts: deque[Command] = deque()
        self._now: Now | None = None
        self._evicted: list[Connection] = []

    def __call__(self, now: Now) -> Any:
        if self._now is None:
            self._now = now
            self._parts.extend(self._plan())
        if self._parts:
            self._evicted += self._apply(self._parts.popleft(), self._now).evicted
        return _UNFINISHED if self._parts else tuple(self._evicted)


class Timer(Protocol):
    """A call that was ordered and can be cancelled."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Where the registry reads the time and orders to be woken. Tests turn one by hand."""

    def now(self) -> Now:
        """Return the time on both clocks."""
        ...

    def call_at(self, steady_ms: int, callback: Callable[[], None]) -> Timer:
        """Order a call for when the steady clock has reached this."""
        ...


class LoopClock:
    """The wall clock of the machine, and the steady clock of the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> Now:
        return Now(time.time_ns() // 1000, int(self._loop.time() * 1000))

    def call_at(self, steady_ms: int, callback: Callable[[], None]) -> Timer:
        return self._loop.call_at(steady_ms / 1000, callback)


class LocalRegistry:
    """A :class:`~herenow.registry.base.Registry` in the memory of this process, to be made inside its event loop.

    Commands and reads of one tick are collected and worked off in one go, at one moment: so subscribers get a burst as
    one batch, and nothing runs in between. Only a command for a crowd is worked off in parts, a batch each, while all
    that was issued after it waits; it too happens at one moment.
    """

    def __init__(
        self,
        *,
        grace_ms: int,
        last_version: int = 0,
        idle_after_ms: int | None = None,
        last_active_granularity_ms: int = 60_000,
        log_capacity: int = 65_536,
        clock: Clock | None = None,
        on_fault: OnFault = tell_loop,
    ) -> None:
        """Begin with nobody.

        Args:
            grace_ms: how long a user lingers, above 0.
            last_version: the highest version in the store; all that come are above it.
            idle_after_ms: a connection without activity for so long is idle; ``None``: only the client says so.
            last_active_granularity_ms: activity is told to others when it has moved `lastActive` by this much, above 0.
            log_capacity: changes kept for :meth:`changes_since`, at least 1; some 250 bytes each.
            clock: the time; by default that of the machine and the event loop.
            on_fault: told of a subscriber that raises, and of a fault of our own.
        """
        self._loop = asyncio.get_running_loop()
        self._clock: Clock = LoopClock() if clock is None else clock
        self._on_fault = on_fault
        # An earlier process may have announced changes that never reached the store. So this one begins not at the
        # highest stored version but at its own start: no version from before is then taken for one of its own.
        start = max(last_version, self._clock.now().unix_us)
        self._rules = Rules(
            grace_ms,
            last_version=start,
            idle_after_ms=idle_after_ms,
            last_active_granularity_ms=last_active_granularity_ms,
        )
        self._log = ChangeLog(log_capacity, start)
        self._subscribers: list[Subscriber] = []
        self._pending: deque[tuple[Callable[[Now], Any], asyncio.Future[Any]]] = deque()
        self._is_scheduled = False
        self._changes: list[Change] = []
        self._rows: dict[str, StoredUser] = {}
        self._timer: Timer | None = None
        self._timer_due_ms = 0
        self._advances_ms = 0  # not before, after a fault
        self._closed = False

    # -- commands ---------------------------------------------------------------------------------------------------

    def connect(
        self, user_id: str, connection_id: str, *, node: str, transport: str | None = None, address: str | None = None
    ) -> asyncio.Future[None]:
        return self._submit(partial(self._command, Connect(user_id, connection_id, node, transport, address)))

    def disconnect(self, connection_id: str, closing: Closing) -> asyncio.Future[None]:
        return self._submit(partial(self._command, Disconnect(connection_id, closing)))

    def active(self, connection_id: str) -> asyncio.Future[None]:
        return self._submit(partial(self._command, Active(connection_id)))

    def idle(self, connection_id: str) -> asyncio.Future[None]:
        return self._submit(partial(self._command, Idle(connection_id)))

    def claim(self, user_id: str, claim: Claim | None) -> asyncio.Future[None]:
        return self._submit(partial(self._command, SetClaim(user_id, claim)))

    def evict(
        self, user_ids: Iterable[str] | None, *, disconnect: bool, cause: Cause = Cause.CLEANUP
    ) -> asyncio.Future[tuple[Connection, ...]]:
        named = None if user_ids is None else tuple(user_ids)
        return self._submit_crowd(
            lambda: (
                Evict(some, disconnect, cause) for some in _parts(self._rules.user_ids() if named is None else named)
            )
        )

    def node_lost(self, node: str, *, last_beat_ms: int) -> asyncio.Future[None]:
        return self._submit_crowd(
            lambda: (NodeLost(node, last_beat_ms, some) for some in _parts(self._rules.user_ids()))
        )

    def adopt(self, rows: Iterable[StoredUser], *, last_beat_ms: int, grace_ms: int) -> asyncio.Future[None]:
        known = tuple(rows)
        return self._submit_crowd(lambda: (Adopt(some, last_beat_ms, grace_ms) for some in _parts(known)))

    def repair(self, rows: Iterable[StoredUser], *, cause: Cause = Cause.REPAIR) -> asyncio.Future[None]:
        wrong = tuple(rows)
        return self._submit_crowd(lambda: (Repair(some, cause) for some in _parts(wrong)))

    # -- reads ------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        return self._log.version

    def get(self, user_ids: Iterable[str]) -> asyncio.Future[Snapshot]:
        return self._submit(partial(self._get, tuple(user_ids)))

    def own_view(self, user_id: str) -> asyncio.Future[UserPresence | None]:
        return self._submit(lambda _: self._rules.own_view(user_id))

    def online(self, limit: int, cursor: str | None = None) -> asyncio.Future[Page]:
        return self._submit(partial(self._online, limit, cursor))

    def connection_ids(self) -> asyncio.Future[tuple[str, ...]]:
        return self._submit(lambda _: self._rules.connection_ids())

    def connections_of(self, user_id: str) -> asyncio.Future[tuple[Connection, ...]]:
        return self._submit(lambda _: self._rules.connections_of(user_id))

    def explain(self, user_id: str) -> asyncio.Future[Explanation | None]:
        return self._submit(partial(self._explain, user_id))

    def stats(self) -> asyncio.Future[Stats]:
        return self._submit(self._stats)

    def changes_since(self, version: int) -> asyncio.Future[tuple[Change, ...] | None]:
        return self._submit(lambda _: self._log.since(version))

    def changes_of(self, user_id: str, limit: int) -> asyncio.Future[tuple[Change, ...]]:
        return self._submit(lambda _: self._log.of(user_id, limit))

    def stamp(self) -> asyncio.Future[int]:
        return self._submit(self._rules.stamp)

    # -- life -------------------------------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        self._refuse_if_closed()
        # A wrapper of its own for each subscription: the same function subscribed twice is called twice, and each
        # unsubscribe ends its own.
        subscription = partial(subscriber)
        self._subscribers.append(subscription)

        def unsubscribe() -> None:
            if subscription in self._subscribers:
                self._subscribers.remove(subscription)

        return unsubscribe

    async def close(self) -> None:
        self._run()
        while self._pending:
            self._run()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    # -- how it works -----------------------------------------------------------------------------------------------

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the registry is closed")

    def _submit(self, work: Callable[[Now], T]) -> asyncio.Future[T]:
        self._refuse_if_closed()
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending.append((work, future))
        self._schedule()
        return future

    def _submit_crowd(self, plan: Callable[[], Iterable[Command]]) -> asyncio.Future[Any]:
        return self._submit(_Crowd(self._apply, plan))

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._is_scheduled = False
        self._run()

    def _run(self) -> None:
        """Work off what is pending and what fell due, in this order: whoever came back in time must not be late."""
        if self._closed:
            return
        now = self._clock.now()
        results: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        while self._pending:
            work, future = self._pending[0]
            try:
                result, error = work(now), None
            except Exception as failure:  # its caller's: the other commands of the tick must not suffer
                result, error = None, failure
            if result is _UNFINISHED:
                break  # the rest of it is the next turn's, and whatever comes after it waits
            self._pending.popleft()
            results.append((future, result, error))
        else:
            self._advance(now)
        self._deliver()
        for future, result, error in results:
            if future.done():  # its awaiter was cancelled; the command was applied all the same
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        if self._pending:
            self._schedule()
        else:
            self._set_timer(now)

    def _advance(self, now: Now) -> None:
        """Let take effect what fell due. A fault in it must not keep the commands of this turn, nor all later ones."""
        if now.steady_ms < self._advances_ms:
            return
        try:
            if self._rules.wait_ms(now) == 0:
                self._command(_ADVANCE, now)
        except Exception as error:
            self._advances_ms = now.steady_ms + AGAIN_MS
            self._on_fault("wheel", error)

    def _command(self, command: Command, now: Now) -> None:
        self._apply(command, now)

    def _apply(self, command: Command, now: Now) -> Effects:
        effects = self._rules.apply(command, now)
        for change in effects.changes:
            self._log.append(change)
            self._changes.append(change)
        for row in effects.rows:
            self._rows[row.user_id] = row
        return effects

    def _deliver(self) -> None:
        if not self._rows:  # every change comes with a row
            return
        batch = Batch(tuple(self._changes), tuple(self._rows.values()))
        self._changes.clear()
        self._rows.clear()
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(batch)
            except Exception as error:  # the subscriber's own: reported, and no harm to the others
                self._on_fault("a subscriber of the registry", error)

    def _set_timer(self, now: Now) -> None:
        try:
            wait_ms = self._rules.wait_ms(now)
        except Exception as error:
            self._on_fault("wheel", error)
            wait_ms = AGAIN_MS
        if wait_ms is None:
            return
        wait_ms = max(wait_ms, self._advances_ms - now.steady_ms)
        # A timer that rings too early finds nothing due and is set again: cheaper than moving it at each command.
        due_ms = now.steady_ms + min(wait_ms, LONGEST_WAIT_MS)
        if self._timer is not None:
            if self._timer_due_ms <= due_ms:
                return
            self._timer.cancel()
        self._timer = self._clock.call_at(due_ms, self._ring)
        self._timer_due_ms = due_ms

    def _ring(self) -> None:
        self._timer = None
        self._run()

    def _get(self, user_ids: tuple[str, ...], _: Now) -> Snapshot:
        views = ((user_id, self._rules.view(user_id)) for user_id in user_ids)
        return Snapshot(self._log.version, {user_id: view for user_id, view in views if view is not None})

    def _online(self, limit: int, cursor: str | None, _: Now) -> Page:
        before = None if cursor is None else _place_in(cursor)
        users = self._rules.online(limit + 1, before)  # one more than asked for tells whether there are more
        more = len(users) > limit
        del users[limit:]
        return Page(self._log.version, tuple(users), _cursor_after(users[-1]) if more else None)

    def _explain(self, user_id: str, now: Now) -> Explanation | None:
        rules = self._rules
        own_view = rules.own_view(user_id)
        if own_view is None:
            return None
        linger = rules.linger_of(user_id)
        return Explanation(
            view=rules.view(user_id),
            own_view=own_view,
            claim=rules.claim_of(user_id),
            connections=rules.connections_of(user_id),
            lingers_ms=None if linger is None else max(0, linger[0] - now.steady_ms),
            linger_cause=None if linger is None else linger[1],
        )

    def _stats(self, _: Now) -> Stats:
        online, away, busy = map(self._rules.count, (Availability.ONLINE, Availability.AWAY, Availability.BUSY))
        return Stats(
            version=self._log.version,
            online=online,
            away=away,
            busy=busy,
            users=online + away + busy,
            connections=self._rules.connections,
            held=self._rules.held,
            lingers_saved=self._rules.lingers_saved,
        )


def _parts(crowd: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    return (crowd[start : start + USERS_AT_ONCE] for start in range(0, len(crowd), USERS_AT_ONCE))


def _cursor_after(presence: UserPresence) -> str:
    last_active_ms, user_id = place_of(presence)
    return f"{last_active_ms}:{user_id}"


def _place_in(cursor: str) -> Entry:
    last_active_ms, separator, user_id = cursor.partition(":")
    if not separator or not last_active_ms.isdecimal():
        raise ValueError(f"not a cursor that a page of online users gave: {cursor!r}")
    return int(last_active_ms), user_id
