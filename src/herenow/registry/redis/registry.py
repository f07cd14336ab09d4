"""The registry of one tenant in a cluster, as one node sees it.

What is asked waits for its turn (``turns.py``); commands are committed together (``committing.py``), reads go beside
each other (``reads.py``). What falls due of whom was committed here, this node looks after.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from herenow.errors import RegistryUnavailable
from herenow.model import Cause, Change, Claim, Closing, Connection, Evicted, StoredUser, UserPresence
from herenow.registry.base import Batch, Explanation, Page, RegistryStats, Snapshot, Subscriber
from herenow.registry.changelog import ChangeLog
from herenow.registry.clock import AGAIN_MS, Alarm, Clock, LoopClock
from herenow.registry.commands import (
    Active,
    Adopt,
    Advance,
    Command,
    Connect,
    Disconnect,
    Evict,
    Idle,
    NodeLost,
    Now,
    Repair,
    SetClaim,
)
from herenow.registry.crowds import USERS_AT_ONCE
from herenow.registry.redis.committing import Committer
from herenow.registry.redis.crowds import Crowds
from herenow.registry.redis.keys import NO_TENANT
from herenow.registry.redis.news import News
from herenow.registry.redis.reads import Reads
from herenow.registry.redis.serving import Serving, lost_changes, to_retell
from herenow.registry.redis.shard import Fenced, Shard
from herenow.registry.redis.standing import Alone, Place
from herenow.registry.redis.tail import Tail
from herenow.registry.redis.turns import Commands, Turns
from herenow.registry.rules import Policy
from herenow.registry.subscribers import Subscribers
from herenow.registry.wall import Wall
from herenow.supervision import OnFault, tell_loop

T = TypeVar("T")

REMEMBERED = 2_000
"""Entries of the log that a node reads back when it begins."""


class RedisRegistry:
    """A :class:`~herenow.registry.base.Registry` whose facts lie in Redis, to be made inside its event loop."""

    def __init__(
        self,
        shard: Shard,
        tail: Tail,
        *,
        grace_ms: int,
        return_grace_ms: int | None = None,
        tenant: str | None = None,
        last_version: int = 0,
        idle_after_ms: int | None = None,
        last_active_granularity_ms: int = 60_000,
        log_capacity: int = 65_536,
        clock: Clock | None = None,
        on_fault: OnFault = tell_loop,
        place: Place | None = None,
        missed: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to hear of a tenant.

        Args:
            shard: where the tenant's facts are.
            tail: the log of that shard.
            grace_ms: how long a user lingers, above 0.
            return_grace_ms: how long users linger of whom Redis has lost how they came to be; ``None``: as always.
            tenant: whose users they are; ``None``: of those without.
            last_version: the highest version in the store.
            idle_after_ms: a connection without activity for so long is idle; ``None``: only the client says so.
            last_active_granularity_ms: activity is told to others when it has moved `lastActive` by this much, above 0.
            log_capacity: changes kept for :meth:`changes_since`, at least 1; some 250 bytes each.
            clock: the time of the cluster.
            on_fault: told of a subscriber that raises, and of a fault of our own.
            place: this node's in the cluster.
            missed: called when the log was cut before it was read: nobody here knows what was said meanwhile.
        """
        self._shard = shard
        self._tail = tail
        self._tenant = NO_TENANT if tenant is None else tenant
        self._return_grace_ms = grace_ms if return_grace_ms is None else return_grace_ms
        self._policy = Policy(grace_ms, idle_after_ms, last_active_granularity_ms)
        self._clock: Clock = LoopClock() if clock is None else clock
        self._on_fault = on_fault
        start = max(last_version, self._clock.now().unix_us)
        self._wall = Wall(start)
        self._log = ChangeLog(log_capacity, start)
        self._subscribers = Subscribers(on_fault)
        self._place: Place = Alone(shard) if place is None else place
        self._returns, self._agreed = self._place.returns, self._place.agreed
        self._serving = Serving()
        self._missed = missed
        self._has_begun = False
        self._log_capacity = log_capacity
        self._turns = Turns(begin=self._begin, commit=self._do, rest=self._wait_for_dues)
        self._committer = Committer(
            shard,
            tail,
            self._tenant,
            self._policy,
            self._place,
            now=self.now,
            seen=lambda: self._log.version,
            begin=self._begin,
        )
        self._crowds = Crowds(self._committer)
        self._dues = self._committer.dues
        self._reads = Reads(shard, self._tenant, lambda: self._log, self.now, on_fault)
        self._alarm = Alarm(self._clock, self._ring)
        self._closed = False
        self._hear_no_more = tail.tell(self._tenant, self._hear, self._miss)

    # -- commands ---------------------------------------------------------------------------------------------------

    def connect(
        self, user_id: str, connection_id: str, *, node: str, transport: str | None = None, address: str | None = None
    ) -> asyncio.Future[None]:
        command = Connect(user_id, connection_id, node, transport, address)
        if node == self._place.name:
            self._serving.begin(command)
        return self._command(command)

    def disconnect(self, user_id: str, connection_id: str, closing: Closing) -> asyncio.Future[None]:
        self._serving.end(user_id, connection_id)
        return self._command(Disconnect(user_id, connection_id, closing))

    def active(self, user_id: str, connection_id: str) -> asyncio.Future[None]:
        self._serving.note_use(user_id, connection_id, is_idle=False)
        return self._command(Active(user_id, connection_id))

    def idle(self, user_id: str, connection_id: str) -> asyncio.Future[None]:
        self._serving.note_use(user_id, connection_id, is_idle=True)
        return self._command(Idle(user_id, connection_id))

    def claim(self, user_id: str, claim: Claim | None) -> asyncio.Future[None]:
        return self._command(SetClaim(user_id, claim))

    def evict(
        self, user_ids: Iterable[str] | None, *, disconnect: bool, cause: Cause = Cause.CLEANUP
    ) -> asyncio.Future[tuple[Evicted, ...]]:
        if user_ids is None:
            return self._alone(partial(self._evict_all, disconnect=disconnect, cause=cause))
        commands = [Evict(user_id, disconnect, cause) for user_id in user_ids]
        return self._alone(partial(self._crowds.do, commands))

    def node_lost(
        self,
        node: str,
        *,
        last_beat_ms: int,
        grace_ms: int | None = None,
        cause: Cause = Cause.NODE_LOST,
        may_return: bool = False,
    ) -> asyncio.Future[None]:
        return self._alone(partial(self._lose, node, last_beat_ms, grace_ms, cause, may_return))

    def hand_on(self, user_ids: Iterable[str], *, grace_ms: int) -> asyncio.Future[None]:
        """Let the connections of some users on this node end: as :meth:`node_lost`, of them alone, and now."""
        node, now_ms = self._place.node, self.now().unix_ms
        commands = [NodeLost(user_id, node, now_ms, grace_ms, Cause.RESTART, False) for user_id in user_ids]
        return self._alone(partial(self._crowds.do, commands))

    def leave(self, node: str) -> asyncio.Future[None]:
        # As of the last node. One of several hands its users on instead: ``node_lost``, with a longer grace.
        return self._alone(partial(self._evict_all, disconnect=True, cause=Cause.RESTART))

    def advance(self, user_ids: Iterable[str]) -> None:
        """Look at users of whom something is due; that whoever committed it has not done so."""
        for user_id in user_ids:
            self._turns.remind(Advance(user_id))

    @property
    def is_behind(self) -> bool:
        """Whether this node has registered anew, and has not said again what it serves."""
        return self._returns != self._place.returns

    def say_again(self) -> asyncio.Future[None]:
        """Say again what this node serves, if it has registered anew."""
        return self._alone(_nothing)

    def adopt(self, rows: Iterable[StoredUser], *, last_beat_ms: int, grace_ms: int) -> asyncio.Future[None]:
        commands = [Adopt(row, last_beat_ms, grace_ms) for row in rows]
        return self._alone(partial(self._crowds.do, commands))

    def repair(self, rows: Iterable[StoredUser], *, cause: Cause = Cause.REPAIR) -> asyncio.Future[None]:
        return self._alone(partial(self._repair, tuple(rows), cause))

    # -- reads ------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        return self._log.version

    def now(self) -> Now:
        return self._wall.believe(self._clock.now())

    @property
    def as_of_ms(self) -> int | None:
        return self._shard.as_of_ms()

    def get(self, user_ids: Iterable[str]) -> asyncio.Future[Snapshot]:
        return self._read(partial(self._reads.get, tuple(user_ids)))

    def rows(self, user_ids: Iterable[str]) -> asyncio.Future[dict[str, StoredUser]]:
        return self._read(partial(self._reads.rows, tuple(user_ids)))

    def known(self, gone: int) -> asyncio.Future[tuple[str, ...]]:
        return self._read(partial(self._reads.known, gone))

    def own_view(self, user_id: str) -> asyncio.Future[UserPresence | None]:
        return self._read(partial(self._reads.own_view, user_id))

    def online(self, limit: int, cursor: str | None = None) -> asyncio.Future[Page]:
        return self._read(partial(self._reads.online, limit, cursor))

    def connections_on(self, node: str) -> asyncio.Future[tuple[tuple[str, str], ...]]:
        return self._read(partial(self._connections_on, node))

    def connections_of(self, user_id: str) -> asyncio.Future[tuple[Connection, ...]]:
        return self._read(partial(self._reads.connections_of, user_id))

    def explain(self, user_id: str) -> asyncio.Future[Explanation | None]:
        return self._read(partial(self._reads.explain, user_id))

    def stats(self) -> asyncio.Future[RegistryStats]:
        return self._read(self._reads.stats)

    def changes_since(self, version: int) -> asyncio.Future[tuple[Change, ...] | None]:
        return self._read(partial(_at_once, self._log.since, version))

    def changes_of(self, user_id: str, limit: int) -> asyncio.Future[tuple[Change, ...]]:
        return self._read(partial(_at_once, self._log.of, user_id, limit))

    def stamp(self) -> asyncio.Future[int]:
        return self._read(self._reads.stamp)

    # -- life -------------------------------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        self._refuse_if_closed()
        return self._subscribers.add(subscriber)

    async def close(self) -> None:
        await self._turns.settle()
        self._closed = True
        self._hear_no_more()
        self._alarm.cancel()

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        await self._turns.settle()

    # -- how it works -----------------------------------------------------------------------------------------------

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the registry is closed")

    def _command(self, command: Command) -> asyncio.Future[None]:
        self._refuse_if_closed()
        return self._turns.command(command)

    def _alone(self, work: Callable[[], Awaitable[Any]]) -> asyncio.Future[Any]:
        self._refuse_if_closed()
        return self._turns.alone(work)

    def _read(self, read: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        self._refuse_if_closed()
        return self._turns.read(partial(self._read_what_is_known, read))

    async def _read_what_is_known(self, read: Callable[[], Awaitable[T]]) -> T:
        if self._place.is_returning:
            raise RegistryUnavailable("it has lost all, and is being told who is there")
        return await read()

    async def _begin(self) -> None:
        """Follow the log; and if this node has registered anew, say again what it serves, before all else."""
        await self._tail.begin()
        if not self._has_begun:
            await self._remember_changes()
            self._has_begun = True
        while self._returns != (returns := self._place.returns):
            registrations = self._place.registrations
            try:
                await self._say_again()
            except Fenced:
                await self._place.join_again(registrations)
            else:
                self._returns = returns

    async def _remember_changes(self) -> None:
        """Fill the log of changes with what others have said before: so a client finds here what it has not heard."""
        last, heard = await self._shard.version(self._tenant), self._log
        changes = [
            change
            for entry in await self._tail.before(REMEMBERED)
            if entry.tenant == self._tenant
            for news in entry.news
            for change in news.changes
        ]
        if changes:
            self._log = ChangeLog(self._log_capacity, changes[0].version)
            for change in (*changes[1:], *(heard.since(heard.start) or ())):
                if change.version > self._log.version:
                    self._log.append(change)
        elif last and not len(heard):
            self._log = ChangeLog(self._log_capacity, last)

    async def _say_again(self) -> None:
        """Say all that this node serves; and if Redis has lost something, see to those of whom the others were told."""
        self.forget_views()
        agreed, lost = self._place.agreed, dict[str, Change]()
        if agreed != self._agreed:
            lost = lost_changes(self._log, await self._kept(agreed))
        self._committer.told = lost
        for part in self._serving.all(lost):
            await self._say(part)
        users, heard = list(lost), self._log.version
        for start in range(0, len(users), USERS_AT_ONCE):
            there = await self._reads.find(users[start : start + USERS_AT_ONCE])
            await self._committer.hear(await self._shard.last_entry())  # of all that was committed before the look
            lost |= {each.user_id: each for each in self._log.since(heard) or ()}
            await self._say(to_retell(lost, there, now_ms=self.now().unix_ms, grace_ms=self._return_grace_ms))
        self._committer.told, self._agreed = {}, agreed  # by now Redis knows of them

    async def _kept(self, agreed: bytes) -> int:
        """Return the last version that Redis knew of when the nodes agreed on it; 0: that cannot be told.

        What was the last at any moment after that says nothing: whoever commits first raises it above what was lost.
        """
        news = [
            each
            for entry in await self._tail.before(REMEMBERED, agreed)
            if entry.tenant == self._tenant
            for each in entry.news
        ]
        return max((each.row.version for each in news if each.row is not None), default=0)

    async def _say(self, commands: Commands) -> None:
        _, faults = await self._committer.decide(commands, are_known=True)
        for fault in faults.values():
            if isinstance(fault, RegistryUnavailable):
                raise fault  # and all is said again
            self._on_fault("a user's state", fault)

    async def _do(self, commands: Commands) -> Mapping[str, Exception]:
        try:
            _, faults = await self._committer.commit(commands)
        except Exception as error:
            self._put_off(commands, dict.fromkeys(commands, error))
            raise
        self._put_off(commands, faults)
        return faults

    def _put_off(self, commands: Commands, faults: Mapping[str, Exception]) -> None:
        """Look again soon at users whose time came, where nothing could be done about it."""
        for user_id, fault in faults.items():
            if any(isinstance(each, Advance) for each in commands[user_id]):
                if not isinstance(fault, RegistryUnavailable):
                    self._on_fault("wheel", fault)
                self._dues.steady.set(user_id, self.now().steady_ms + AGAIN_MS)

    def _hear(self, news: tuple[News, ...]) -> None:
        """Hear of a commit, of this node or of another."""
        if not news:
            self.forget_views()
        evicted = tuple(gone for each in news for gone in each.evicted)
        for gone in evicted:
            self._serving.dropped(gone, self._place.node)
        changes = tuple(change for each in news for change in each.changes)
        views = tuple(each.view for each in news if each.view is not None)
        if views and self._place.is_unfilled:  # somebody may have been told meanwhile that they are not here
            changes += tuple(Change(**msgspec.structs.asdict(view), cause=Cause.RESTART) for view in views)
            self._begin_log_anew()
        self._reads.views.hear((*changes, *views))
        for change in changes:
            if change.version > self._log.version:
                self._log.append(change)
        rows = tuple(each.row for each in news if each.row is not None)
        if changes or rows or evicted:
            self._subscribers.tell(Batch(changes, rows, evicted))

    def _miss(self) -> None:
        """Nobody here knows what was said meanwhile."""
        self._begin_log_anew()
        self.forget_views()
        self._missed()

    def _begin_log_anew(self) -> None:
        """Let whoever comes with a ``since`` have a whole snapshot."""
        self._log = ChangeLog(self._log_capacity, self._log.version + 1)

    def forget_views(self) -> None:
        """Read anew how users are shown: what the log does not tell has changed it."""
        self._reads.views.forget()

    # -- time -------------------------------------------------------------------------------------------------------

    def _wait_for_dues(self) -> None:
        now = self.now()
        wait_ms = self._dues.wait_ms(now)
        if wait_ms is not None and not self._closed:
            self._alarm.set(now, wait_ms)

    def _ring(self) -> None:
        due = self._dues.pop(self.now(), USERS_AT_ONCE)
        for user_id in dict.fromkeys(due):
            self._turns.remind(Advance(user_id))
        if not due:
            self._wait_for_dues()

    # -- crowds -----------------------------------------------------------------------------------------------------

    def _id_of(self, node: str) -> str:
        """What a node is called in Redis: this one by its name."""
        return self._place.node if node == self._place.name else node

    async def _evict_all(self, *, disconnect: bool, cause: Cause) -> tuple[Evicted, ...]:
        return await self._crowds.do_all(
            self._shard.all(self._tenant), lambda user_id: Evict(user_id, disconnect, cause)
        )

    async def _lose(self, node: str, last_beat_ms: int, grace_ms: int | None, cause: Cause, may_return: bool) -> None:
        node = self._id_of(node)
        pages = self._shard.served(self._tenant, node)
        await self._crowds.do_all(
            pages, lambda user_id: NodeLost(user_id, node, last_beat_ms, grace_ms, cause, may_return)
        )

    async def _connections_on(self, node: str) -> tuple[tuple[str, str], ...]:
        node_id = self._id_of(node)
        found = await self._reads.connections_on(node_id)
        if node == self._place.name:
            await self._see_that_all_is_there(node_id)
        return found

    async def _see_that_all_is_there(self, node_id: str) -> None:
        """See that Redis has not just lost what it had of this node: who compares with it would take all for wrong.

        Raises:
            RegistryUnavailable: it has, and this node is to say it again.
        """
        is_settled = not (self._place.is_returning or self.is_behind)
        if self._shard.is_member and not (is_settled and await self._shard.is_known(node_id)):
            raise RegistryUnavailable("what this node serves is to be said again")

    async def _repair(self, wrong: tuple[StoredUser, ...], cause: Cause) -> None:
        node_id = self._place.node
        there = await self._reads.find(row.user_id for row in wrong)
        await self._see_that_all_is_there(node_id)
        gone = {row.user_id for row in wrong if there[row.user_id].user.shown is None}
        await self._crowds.do([Repair(row, cause) for row in self._log.recall(wrong, gone)])


async def _nothing() -> None:
    """What there is to do once the turn has begun."""


async def _at_once(read: Callable[..., T], *args: Any) -> T:
    return read(*args)
