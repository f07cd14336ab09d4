"""The registry of one process: the ledger, the event loop's clock, and one timer for all that falls due."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from herenow.model import Availability, Cause, Change, Claim, Closing, Connection, Evicted, StoredUser, UserPresence
from herenow.registry.base import Batch, Explanation, Page, RegistryStats, Snapshot, Subscriber
from herenow.registry.clock import AGAIN_MS, Alarm, Clock, LoopClock
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
from herenow.registry.crowds import UNFINISHED, USERS_AT_ONCE, Crowd
from herenow.registry.ledger import Ledger
from herenow.registry.recency import cursor_after, place_in
from herenow.registry.rules import Policy
from herenow.registry.subscribers import Subscribers
from herenow.supervision import OnFault, tell_loop

T = TypeVar("T")


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
        policy = Policy(grace_ms, idle_after_ms, last_active_granularity_ms)
        self._ledger = Ledger(policy, last_version=start, log_capacity=log_capacity)
        self._log = self._ledger.log
        self._subscribers = Subscribers(on_fault)
        self._pending: deque[tuple[Callable[[Now], Any], asyncio.Future[Any]]] = deque()
        self._is_scheduled = False
        self._changes: list[Change] = []
        self._rows: dict[str, StoredUser] = {}
        self._evicted: list[Evicted] = []
        self._alarm = Alarm(self._clock, self._run)
        self._closed = False

    # -- commands ---------------------------------------------------------------------------------------------------

    def connect(
        self, user_id: str, connection_id: str, *, node: str, transport: str | None = None, address: str | None = None
    ) -> asyncio.Future[None]:
        return self._submit(partial(self._command, Connect(user_id, connection_id, node, transport, address)))

    def disconnect(self, user_id: str, connection_id: str, closing: Closing) -> asyncio.Future[None]:
        return self._submit(partial(self._command, Disconnect(user_id, connection_id, closing)))

    def active(self, user_id: str, connection_id: str) -> asyncio.Future[None]:
        return self._submit(partial(self._command, Active(user_id, connection_id)))

    def idle(self, user_id: str, connection_id: str) -> asyncio.Future[None]:
        return self._submit(partial(self._command, Idle(user_id, connection_id)))

    def claim(self, user_id: str, claim: Claim | None) -> asyncio.Future[None]:
        return self._submit(partial(self._command, SetClaim(user_id, claim)))

    def evict(
        self, user_ids: Iterable[str] | None, *, disconnect: bool, cause: Cause = Cause.CLEANUP
    ) -> asyncio.Future[tuple[Evicted, ...]]:
        named = None if user_ids is None else tuple(user_ids)
        return self._submit_crowd(
            lambda: (
                Evict(user_id, disconnect, cause) for user_id in (self._ledger.user_ids() if named is None else named)
            )
        )

    def node_lost(
        self,
        node: str,
        *,
        last_beat_ms: int,
        grace_ms: int | None = None,
        cause: Cause = Cause.NODE_LOST,
        may_return: bool = False,
    ) -> asyncio.Future[None]:
        def plan() -> Iterable[Command]:
            return (
                NodeLost(user_id, node, last_beat_ms, grace_ms, cause, may_return)
                for user_id in self._ledger.user_ids()
            )

        return self._submit_crowd(plan)

    def leave(self, node: str) -> asyncio.Future[None]:
        # One process is the first and the last node. Whoever lingers has nobody left to end it.
        return self._submit_crowd(lambda: (Evict(user_id, True, Cause.RESTART) for user_id in self._ledger.user_ids()))

    def adopt(self, rows: Iterable[StoredUser], *, last_beat_ms: int, grace_ms: int) -> asyncio.Future[None]:
        known = tuple(rows)
        return self._submit_crowd(lambda: (Adopt(row, last_beat_ms, grace_ms) for row in known))

    def repair(self, rows: Iterable[StoredUser], *, cause: Cause = Cause.REPAIR) -> asyncio.Future[None]:
        wrong = tuple(rows)
        return self._submit_crowd(lambda: (Repair(row, cause) for row in self._recall(wrong)))

    # -- reads ------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        return self._log.version

    def now(self) -> Now:
        return self._ledger.believe(self._clock.now())

    @property
    def as_of_ms(self) -> int | None:
        return None

    def get(self, user_ids: Iterable[str]) -> asyncio.Future[Snapshot]:
        return self._submit(partial(self._get, tuple(user_ids)))

    def rows(self, user_ids: Iterable[str]) -> asyncio.Future[dict[str, StoredUser]]:
        return self._submit(partial(self._read_rows, tuple(user_ids)))

    def known(self, gone: int) -> asyncio.Future[tuple[str, ...]]:
        return self._submit(lambda _: (*self._ledger.user_ids(), *self._log.last_but(self._ledger.holds, gone)))

    def own_view(self, user_id: str) -> asyncio.Future[UserPresence | None]:
        return self._submit(lambda _: self._ledger.own_view(user_id))

    def online(self, limit: int, cursor: str | None = None) -> asyncio.Future[Page]:
        return self._submit(partial(self._online, limit, cursor))

    def connections_on(self, node: str) -> asyncio.Future[tuple[tuple[str, str], ...]]:
        return self._submit(lambda _: tuple(self._ledger.connections_on(node)))

    def connections_of(self, user_id: str) -> asyncio.Future[tuple[Connection, ...]]:
        return self._submit(lambda _: self._ledger.connections_of(user_id))

    def explain(self, user_id: str) -> asyncio.Future[Explanation | None]:
        return self._submit(partial(self._explain, user_id))

    def stats(self) -> asyncio.Future[RegistryStats]:
        return self._submit(self._stats)

    def changes_since(self, version: int) -> asyncio.Future[tuple[Change, ...] | None]:
        return self._submit(lambda _: self._log.since(version))

    def changes_of(self, user_id: str, limit: int) -> asyncio.Future[tuple[Change, ...]]:
        return self._submit(lambda _: self._log.of(user_id, limit))

    def stamp(self) -> asyncio.Future[int]:
        return self._submit(lambda _: self._ledger.stamp())

    # -- life -------------------------------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        self._refuse_if_closed()
        return self._subscribers.add(subscriber)

    async def close(self) -> None:
        self._run()
        while self._pending:
            self._run()
        self._closed = True
        self._alarm.cancel()

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
        return self._submit(Crowd(self._apply, plan))

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
        now = self._ledger.believe(self._clock.now())
        results: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        while self._pending:
            work, future = self._pending[0]
            try:
                result, error = work(now), None
            except Exception as failure:  # its caller's: the other commands of the tick must not suffer
                result, error = None, failure
            if result is UNFINISHED:
                break  # the rest of it is the next turn's, and whatever comes after it waits
            self._pending.popleft()
            results.append((future, result, error))
        is_well = bool(self._pending) or self._advance(now)
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
            self._set_timer(now, at_least_ms=0 if is_well else AGAIN_MS)

    def _advance(self, now: Now) -> bool:
        """Let take effect what fell due. A fault in it keeps neither the commands of this turn nor other users.

        Returns:
            Whether it is known what was due.
        """
        try:
            due = self._ledger.due(now, USERS_AT_ONCE)
        except Exception as error:
            self._on_fault("wheel", error)
            return False
        for user_id in due:
            try:
                self._apply(Advance(user_id), now)
            except Exception as error:
                self._ledger.put_off(user_id, now.steady_ms + AGAIN_MS)
                self._on_fault("wheel", error)
        return True

    def _command(self, command: Command, now: Now) -> None:
        self._apply(command, now)

    def _apply(self, command: Command, now: Now) -> Effects:
        effects = self._ledger.apply(command, now)
        if effects.changes:
            self._changes += effects.changes
        if effects.evicted:
            self._evicted += effects.evicted
        if effects.row is not None:
            self._rows[effects.row.user_id] = effects.row
        return effects

    def _deliver(self) -> None:
        if not self._rows and not self._evicted:  # every change comes with a row
            return
        batch = Batch(tuple(self._changes), tuple(self._rows.values()), tuple(self._evicted))
        self._changes.clear()
        self._rows.clear()
        self._evicted.clear()
        self._subscribers.tell(batch)

    def _set_timer(self, now: Now, *, at_least_ms: int) -> None:
        try:
            wait_ms = self._ledger.wait_ms(now)
        except Exception as error:
            self._on_fault("wheel", error)
            wait_ms = AGAIN_MS
        if wait_ms is not None:
            self._alarm.set(now, max(wait_ms, at_least_ms))

    def _get(self, user_ids: tuple[str, ...], _: Now) -> Snapshot:
        views = ((user_id, self._ledger.view(user_id)) for user_id in user_ids)
        return Snapshot(self._log.version, {user_id: view for user_id, view in views if view is not None})

    def _read_rows(self, user_ids: tuple[str, ...], _: Now) -> dict[str, StoredUser]:
        held = {user_id: row for user_id in user_ids if (row := self._ledger.row_of(user_id)) is not None}
        return self._log.rows_of(user_ids, held)

    def _recall(self, wrong: tuple[StoredUser, ...]) -> tuple[StoredUser, ...]:
        return self._log.recall(wrong, {row.user_id for row in wrong if self._ledger.view(row.user_id) is None})

    def _online(self, limit: int, cursor: str | None, _: Now) -> Page:
        before = None if cursor is None else place_in(cursor)
        users = self._ledger.online(limit + 1, before)  # one more than asked for tells whether there are more
        more = len(users) > limit
        del users[limit:]
        return Page(self._log.version, tuple(users), cursor_after(users[-1]) if more else None)

    def _explain(self, user_id: str, now: Now) -> Explanation | None:
        ledger = self._ledger
        own_view = ledger.own_view(user_id)
        if own_view is None:
            return None
        linger = ledger.linger_of(user_id)
        return Explanation(
            view=ledger.view(user_id),
            own_view=own_view,
            claim=ledger.claim_of(user_id),
            connections=ledger.connections_of(user_id),
            lingers_ms=None if linger is None else max(0, linger[0] - now.steady_ms),
            linger_cause=None if linger is None else linger[1],
        )

    def _stats(self, _: Now) -> RegistryStats:
        online, away, busy = map(self._ledger.count, (Availability.ONLINE, Availability.AWAY, Availability.BUSY))
        return RegistryStats(
            version=self._log.version,
            online=online,
            away=away,
            busy=busy,
            users=online + away + busy,
            connections=self._ledger.connections,
            held=self._ledger.held,
            lingers_saved=self._ledger.lingers_saved,
        )
