"""The registry of one tenant in a cluster, as one node sees it.

Commands are decided here by the rules, on what Redis holds, and committed together; whoever lost a race with another
node decides again. A command resolves when the node has read its own entry in the log, after all that came before it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

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
from herenow.registry.dues import Dues
from herenow.registry.recency import cursor_after, place_in
from herenow.registry.redis.blob import Held, UnreadableState, decode
from herenow.registry.redis.keys import NO_TENANT
from herenow.registry.redis.news import News
from herenow.registry.redis.proposal import Proposal, propose
from herenow.registry.redis.shard import Shard
from herenow.registry.redis.tail import Tail
from herenow.registry.redis.turns import Commands, Turns
from herenow.registry.rules import Policy
from herenow.registry.subscribers import Subscribers
from herenow.registry.wall import Wall
from herenow.supervision import OnFault, tell_loop

T = TypeVar("T")

HEARD_WITHIN_S = 5.0
"""After a commit the node hears of it from the log; later than this, nobody knows whether the log still has it."""


class RedisRegistry:
    """A :class:`~herenow.registry.base.Registry` whose facts lie in Redis, to be made inside its event loop."""

    def __init__(
        self,
        shard: Shard,
        tail: Tail,
        *,
        grace_ms: int,
        tenant: str | None = None,
        last_version: int = 0,
        idle_after_ms: int | None = None,
        last_active_granularity_ms: int = 60_000,
        log_capacity: int = 65_536,
        clock: Clock | None = None,
        on_fault: OnFault = tell_loop,
    ) -> None:
        """Begin to hear of a tenant.

        Args:
            shard: where the tenant's facts are.
            tail: the log of that shard.
            grace_ms: how long a user lingers, above 0.
            tenant: whose users they are; ``None``: of those without.
            last_version: the highest version in the store.
            idle_after_ms: a connection without activity for so long is idle; ``None``: only the client says so.
            last_active_granularity_ms: activity is told to others when it has moved `lastActive` by this much, above 0.
            log_capacity: changes kept for :meth:`changes_since`, at least 1; some 250 bytes each.
            clock: the time of the cluster.
            on_fault: told of a subscriber that raises, and of a fault of our own.
        """
        self._shard = shard
        self._tail = tail
        self._tenant = NO_TENANT if tenant is None else tenant
        self._policy = Policy(grace_ms, idle_after_ms, last_active_granularity_ms)
        self._clock: Clock = LoopClock() if clock is None else clock
        self._on_fault = on_fault
        start = max(last_version, self._clock.now().unix_us)
        self._wall = Wall(start)
        self._log = ChangeLog(log_capacity, start)
        self._subscribers = Subscribers(on_fault)
        self._turns = Turns(begin=tail.begin, commit=self._do, rest=self._wait_for_dues)
        self._dues = Dues()  # of those who were committed here last
        self._alarm = Alarm(self._clock, self._ring)
        self._closed = False
        self._hear_no_more = tail.tell(self._tenant, self._hear)

    # -- commands ---------------------------------------------------------------------------------------------------

    def connect(
        self, user_id: str, connection_id: str, *, node: str, transport: str | None = None, address: str | None = None
    ) -> asyncio.Future[None]:
        return self._command(Connect(user_id, connection_id, node, transport, address))

    def disconnect(self, user_id: str, connection_id: str, closing: Closing) -> asyncio.Future[None]:
        return self._command(Disconnect(user_id, connection_id, closing))

    def active(self, user_id: str, connection_id: str) -> asyncio.Future[None]:
        return self._command(Active(user_id, connection_id))

    def idle(self, user_id: str, connection_id: str) -> asyncio.Future[None]:
        return self._command(Idle(user_id, connection_id))

    def claim(self, user_id: str, claim: Claim | None) -> asyncio.Future[None]:
        return self._command(SetClaim(user_id, claim))

    def evict(
        self, user_ids: Iterable[str] | None, *, disconnect: bool, cause: Cause = Cause.CLEANUP
    ) -> asyncio.Future[tuple[Evicted, ...]]:
        if user_ids is None:
            return self._alone(partial(self._evict_all, disconnect=disconnect, cause=cause))
        commands = [Evict(user_id, disconnect, cause) for user_id in user_ids]
        return self._alone(partial(self._do_crowd, commands))

    def node_lost(self, node: str, *, last_beat_ms: int) -> asyncio.Future[None]:
        return self._alone(partial(self._lose, node, last_beat_ms))

    def leave(self, node: str) -> asyncio.Future[None]:
        # As of the last node. Of one of several, only its own connections are over, and their users linger: that is to
        # come, with the nodes.
        return self._alone(partial(self._evict_all, disconnect=True, cause=Cause.RESTART))

    def adopt(self, rows: Iterable[StoredUser], *, last_beat_ms: int, grace_ms: int) -> asyncio.Future[None]:
        commands = [Adopt(row, last_beat_ms, grace_ms) for row in rows]
        return self._alone(partial(self._do_crowd, commands))

    def repair(self, rows: Iterable[StoredUser], *, cause: Cause = Cause.REPAIR) -> asyncio.Future[None]:
        return self._alone(partial(self._repair, tuple(rows), cause))

    # -- reads ------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        return self._log.version

    def now(self) -> Now:
        return self._wall.believe(self._clock.now())

    def get(self, user_ids: Iterable[str]) -> asyncio.Future[Snapshot]:
        return self._read(partial(self._get, tuple(user_ids)))

    def rows(self, user_ids: Iterable[str]) -> asyncio.Future[dict[str, StoredUser]]:
        return self._read(partial(self._rows, tuple(user_ids)))

    def known(self, gone: int) -> asyncio.Future[tuple[str, ...]]:
        return self._read(partial(self._known, gone))

    def own_view(self, user_id: str) -> asyncio.Future[UserPresence | None]:
        return self._read(partial(self._of, user_id, Held.own_view))

    def online(self, limit: int, cursor: str | None = None) -> asyncio.Future[Page]:
        return self._read(partial(self._online, limit, cursor))

    def connections_on(self, node: str) -> asyncio.Future[tuple[tuple[str, str], ...]]:
        return self._read(partial(self._connections_on, node))

    def connections_of(self, user_id: str) -> asyncio.Future[tuple[Connection, ...]]:
        return self._read(partial(self._connections_of, user_id))

    def explain(self, user_id: str) -> asyncio.Future[Explanation | None]:
        return self._read(partial(self._of, user_id, self._explain))

    def stats(self) -> asyncio.Future[RegistryStats]:
        return self._read(self._stats)

    def changes_since(self, version: int) -> asyncio.Future[tuple[Change, ...] | None]:
        return self._read(partial(_at_once, self._log.since, version))

    def changes_of(self, user_id: str, limit: int) -> asyncio.Future[tuple[Change, ...]]:
        return self._read(partial(_at_once, self._log.of, user_id, limit))

    def stamp(self) -> asyncio.Future[int]:
        return self._read(self._stamp)

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
        return self._turns.read(read)

    async def _do(self, commands: Commands) -> Mapping[str, Exception]:
        try:
            _, faults = await self._commit(commands)
        except Exception as error:
            self._put_off(commands, dict.fromkeys(commands, error))
            raise
        self._put_off(commands, faults)
        return faults

    def _put_off(self, commands: Commands, faults: Mapping[str, Exception]) -> None:
        """Look again soon at users whose time came, where nothing could be done about it."""
        for user_id, fault in faults.items():
            if any(isinstance(each, Advance) for each in commands[user_id]):
                self._on_fault("wheel", fault)
                self._dues.steady.set(user_id, self.now().steady_ms + AGAIN_MS)

    async def _commit(
        self, commands: Commands, known: Mapping[str, bytes | None] | None = None
    ) -> tuple[list[Evicted], dict[str, Exception]]:
        """Decide commands and commit them, again with whomever another node was faster; then hear of it.

        Args:
            commands: by user.
            known: what is there of users, as read before.

        Returns:
            Whom they evicted, and what kept those of a user from being decided: it keeps nobody else's.
        """
        there: dict[str, bytes | None] = dict(known or {})
        # Of who connects it is guessed that they are not there: where that is wrong, the commit says what is.
        unread = [user for user, asked in commands.items() if user not in there and type(asked[0]) is not Connect]
        there.update(await self._shard.read(self._tenant, unread))
        evicted: list[Evicted] = []
        faults: dict[str, Exception] = {}
        left: Iterable[str] = commands
        while left:
            now = self.now()
            proposals: list[Proposal] = []
            for user in left:
                try:
                    proposals.append(propose(decode(user, there.get(user)), commands[user], now, self._policy))
                except Exception as error:
                    faults[user] = error
            there = await self._propose(proposals, now)
            for proposal in proposals:
                if proposal.user_id not in there:
                    self._note(proposal)
                    evicted += proposal.evicted
            left = there
        return evicted, faults

    async def _propose(self, proposals: list[Proposal], now: Now) -> dict[str, bytes | None]:
        """Have proposals committed; returns with whom another node was faster, and what is there of them."""
        written = [each for each in proposals if each.state is not None]
        if not written:
            return {}
        committed = await self._shard.commit(self._tenant, written, now_us=now.unix_us, seen=self._log.version)
        if committed.entry is not None:
            try:
                async with asyncio.timeout(HEARD_WITHIN_S):
                    await self._tail.reached(committed.entry)
            except TimeoutError:
                raise RegistryUnavailable("its log cannot be followed") from None
        return committed.faster

    def _note(self, proposal: Proposal) -> None:
        """Remember when something falls due of a user."""
        self._dues.steady.set(proposal.user_id, proposal.steady_due_ms)
        self._dues.wall.set(proposal.user_id, proposal.wall_due_ms)

    def _hear(self, news: tuple[News, ...]) -> None:
        """Hear of a commit, of this node or of another."""
        changes = tuple(change for each in news for change in each.changes)
        for change in changes:
            if change.version > self._log.version:
                self._log.append(change)
        rows = tuple(each.row for each in news if each.row is not None)
        self._subscribers.tell(Batch(changes, rows, tuple(gone for each in news for gone in each.evicted)))

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

    async def _do_crowd(self, commands: Sequence[Command]) -> tuple[Evicted, ...]:
        async def parts() -> AsyncIterator[tuple[Commands, None]]:
            for start in range(0, len(commands), USERS_AT_ONCE):
                part: Commands = {}
                for command in commands[start : start + USERS_AT_ONCE]:
                    part.setdefault(command.user_id, []).append(command)
                yield part, None

        return await self._do_parts(parts())

    async def _do_all(
        self, pages: AsyncIterator[Mapping[str, bytes | None]], make: Callable[[str], Command]
    ) -> tuple[Evicted, ...]:
        return await self._do_parts(({user: [make(user)] for user in page}, page) async for page in pages)

    async def _do_parts(
        self, parts: AsyncIterator[tuple[Commands, Mapping[str, bytes | None] | None]]
    ) -> tuple[Evicted, ...]:
        """Do something to a crowd. What keeps it from one keeps it from no other, and is raised at the end."""
        evicted: list[Evicted] = []
        faults: dict[str, Exception] = {}
        async for commands, known in parts:
            some, failed = await self._commit(commands, known)
            evicted += some
            faults |= failed
        for fault in faults.values():
            raise fault
        return tuple(evicted)

    async def _evict_all(self, *, disconnect: bool, cause: Cause) -> tuple[Evicted, ...]:
        return await self._do_all(self._shard.all(self._tenant), lambda user_id: Evict(user_id, disconnect, cause))

    async def _lose(self, node: str, last_beat_ms: int) -> None:
        pages = self._shard.served(self._tenant, node)
        await self._do_all(pages, lambda user_id: NodeLost(user_id, node, last_beat_ms))

    async def _repair(self, wrong: tuple[StoredUser, ...], cause: Cause) -> None:
        there = await self._find(row.user_id for row in wrong)
        gone = {row.user_id for row in wrong if there[row.user_id].user.shown is None}
        await self._do_crowd([Repair(row, cause) for row in self._log.recall(wrong, gone)])

    # -- what it can be asked ---------------------------------------------------------------------------------------

    async def _find(self, user_ids: Iterable[str]) -> dict[str, Held]:
        blobs = await self._shard.read(self._tenant, list(dict.fromkeys(user_ids)))
        return {user_id: self._decode(user_id, blob) for user_id, blob in blobs.items()}

    def _decode(self, user_id: str, blob: bytes | None) -> Held:
        """Read a user's state; one that cannot be read is told, and keeps no read from telling of the others."""
        try:
            return decode(user_id, blob)
        except UnreadableState as error:
            self._on_fault("a user's state", error)
            return decode(user_id, None)

    async def _of(self, user_id: str, tell: Callable[[Held], T]) -> T | None:
        held = (await self._find([user_id]))[user_id]
        return tell(held) if held.revision else None

    async def _get(self, user_ids: tuple[str, ...]) -> Snapshot:
        version = self._log.version  # before the look: so all up to it is in what is seen
        views = {user_id: held.view() for user_id, held in (await self._find(user_ids)).items()}
        return Snapshot(version, {user_id: view for user_id, view in views.items() if view is not None})

    async def _rows(self, user_ids: tuple[str, ...]) -> dict[str, StoredUser]:
        there = await self._find(user_ids)
        held = {user_id: each.user.row(each.version) for user_id, each in there.items() if each.revision}
        return self._log.rows_of(user_ids, held)

    async def _known(self, gone: int) -> tuple[str, ...]:
        held = dict.fromkeys([user_id async for page in self._shard.all(self._tenant) for user_id in page])
        return (*held, *self._log.last_but(held.__contains__, gone))

    async def _online(self, limit: int, cursor: str | None) -> Page:
        after = None if cursor is None else place_in(cursor)
        version = self._log.version
        found = await self._shard.page(self._tenant, limit + 1, after)
        users = [view for user_id, blob in found.items() if (view := self._decode(user_id, blob).view()) is not None]
        more = len(users) > limit
        del users[limit:]
        return Page(version, tuple(users), cursor_after(users[-1]) if more else None)

    async def _connections_on(self, node: str) -> tuple[tuple[str, str], ...]:
        found: dict[tuple[str, str], None] = {}
        async for page in self._shard.served(self._tenant, node):
            for user_id, blob in page.items():
                for connection in self._decode(user_id, blob).user.connections.values():
                    if connection.node == node:
                        found[user_id, connection.connection_id] = None
        return tuple(found)

    async def _connections_of(self, user_id: str) -> tuple[Connection, ...]:
        return (await self._find([user_id]))[user_id].user.describe_connections()

    def _explain(self, held: Held) -> Explanation:
        user = held.user
        linger = user.linger
        return Explanation(
            view=held.view(),
            own_view=held.own_view(),
            claim=user.claim,
            connections=user.describe_connections(),
            lingers_ms=None if linger is None else max(0, linger.due_ms - self.now().steady_ms),
            linger_cause=None if linger is None else linger.cause,
        )

    async def _stamp(self) -> int:
        return await self._shard.stamp(self._tenant, now_us=self.now().unix_us, seen=self._log.version)

    async def _stats(self) -> RegistryStats:
        counts = await self._shard.counts(self._tenant)
        online, away, busy = (counts.get(name, 0) for name in ("online", "away", "busy"))
        return RegistryStats(
            version=self._log.version,
            online=online,
            away=away,
            busy=busy,
            users=online + away + busy,
            connections=counts.get("connections", 0),
            held=counts.get("held", 0),
            lingers_saved=counts.get("lingers_saved", 0),
        )


async def _at_once(read: Callable[..., T], *args: Any) -> T:
    return read(*args)
