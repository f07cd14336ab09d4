"""A shard: what a node asks of Redis. Each method is one trip; what fails is tried again until a time is over.

A commit is sent again with the stamp that it had, so that the script tells the first answer once more. What no further
try can mend is told apart: :class:`Fenced` and :class:`Skewed`.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from herenow.errors import RegistryUnavailable
from herenow.registry.redis.connecting import CLUSTER, AnotherProcess, Identity, connect
from herenow.registry.redis.keys import NO_TENANT, Keys
from herenow.registry.redis.proposal import Proposal
from herenow.registry.redis.refusals import FULL, is_passing, leads_elsewhere, word_of

LOG_LENGTH = 65_536
"""Entries that the log keeps, or a few more."""

PATIENCE_S = 5.0
"""How long something is tried again before it counts as failed."""

PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
"""Between two tries; it doubles with each, to the longest."""

TIMEOUT_S = 2.0
"""How long one answer may take."""

AT_ONCE = 16
"""Questions at a time, each over a connection of its own; the others wait."""

SCANNED = 500
"""Users that are gone through at a time."""


class Fenced(RegistryUnavailable):
    """This node is no member of the cluster as Redis has it: it must register anew before it may commit."""

    def __init__(self) -> None:
        super().__init__("this node was given up there, and has not come back yet")


class Full(RegistryUnavailable):
    """The memory of Redis is full: it takes nothing new."""

    def __init__(self) -> None:
        super().__init__("its memory is full (maxmemory)")


class Skewed(RegistryUnavailable):
    """This node's time is not that of the cluster: it must be looked at anew before it decides."""

    def __init__(self) -> None:
        super().__init__("its clock was set, and this node has not followed yet")


class Committed(NamedTuple):
    """What became of a commit.

    ``entry`` is what the log says of it (``None``: nothing was to be said). ``faster`` are the users with whom
    somebody else was faster, and what is there of each now.
    """

    entry: bytes | None
    faster: dict[str, bytes | None]


class Shard:
    """One shard of one cluster, as one node uses it.

    Args:
        url: where Redis is (``connecting.py``).
        prefix: of all keys.
        node: the name of this node.
        number: of this shard.
        shards: how many there are.
        slack_ms: how far this node's time may be from that of Redis; 0: that is not looked at.
        patience_s: how long something is tried again before it counts as failed.

    Attributes:
        node: what this node is called there: its name, until it is a member.
        is_member: whether it commits as a member only.
        identity: which Redis it is.
        is_address_of_cluster: whether the way there is one that finds its keys in a Redis Cluster.
        is_agreeing: whether another Redis answers than before, and the nodes have not agreed on it yet.
        as_of_ms: says when Redis has last answered (Unix time), where it does not: to try again would only keep others
            waiting. ``None``: it does.
        control: a way of its own for what the nodes agree on, which nobody's questions keep waiting.
        commits: how many were sent.
        conflicts: in how many cases another node was faster with a user.
        pages: how many pages of users were read.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        node: str,
        number: int = 0,
        shards: int = 1,
        slack_ms: int = 1_000,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.keys = Keys(prefix, number, shards)
        self.node = node
        self.is_member = False
        self.identity = Identity()
        self.is_agreeing = False
        self.as_of_ms: Callable[[], int | None] = lambda: None
        self.is_address_of_cluster = url.startswith(CLUSTER)
        self.redis = self.connect(url, timeout_s=TIMEOUT_S)
        self.control = self.connect(url, timeout_s=TIMEOUT_S)
        self._room = asyncio.Semaphore(AT_ONCE)
        self._slack_us = slack_ms * 1000
        self._patience_s = patience_s
        self._commit = script(self.redis, "commit")
        self._page = script(self.redis, "page")
        self._stamp = script(self.redis, "stamp")
        # No two commits have the same number, nor the same stamp: not those of a later life of this node either.
        self._life = secrets.token_bytes(4)
        self.commits = self.conflicts = self.pages = 0

    def connect(self, url: str, *, timeout_s: float) -> Redis:
        """Make another way to the same Redis."""
        return connect(url, self.keys.log, timeout_s=timeout_s, check=self.identity.check)

    async def commit(self, tenant: str, proposals: Sequence[Proposal], *, now_us: int, seen: int) -> Committed:
        """Commit what was decided of users, of each at most one proposal.

        Args:
            tenant: whose users.
            proposals: what was decided.
            now_us: the time of it.
            seen: the highest version of the tenant that this node has seen.

        Raises:
            Fenced: it was not done, for this node is no member.
            Skewed: it was not done, for the time is wrong.
            Full: it was not done, for there is no room for what it brings.
            RegistryUnavailable: it may or may not have been done.
        """
        self.commits += 1
        keys = self.keys
        stamp = self._life + (self.commits & 0xFFFFFFFF).to_bytes(4)
        nodes: dict[str, int] = {}
        for proposal in proposals:
            for node in (*proposal.joins, *proposal.leaves):
                nodes.setdefault(node, len(nodes) + 1)
        names = [
            keys.users(tenant),
            keys.due(tenant),
            keys.order(tenant),
            keys.counts(tenant),
            keys.version(tenant),
            keys.log,
            keys.outcomes(self.node),
            keys.sequence,
            keys.skew,
            keys.nodes,
            keys.tenants,
            *(keys.on(tenant, node) for node in nodes),
        ]
        if self.is_agreeing:
            raise Fenced
        brings = any(proposal.brings for proposal in proposals)
        member = self.node if self.is_member else ""
        numbers = msgspec.msgpack.encode([_numbers(each, nodes) for each in proposals])
        args: list[Any] = [tenant, stamp, now_us, self._slack_us, seen, LOG_LENGTH, member, 0 if brings else 1, numbers]
        for each in proposals:
            args += (each.user_id, each.revision, each.state, each.news)
        entry, *outcomes = await self.trying(lambda: self._commit(keys=names, args=args))
        faster = {
            proposal.user_id: outcome
            for proposal, outcome in zip(proposals, outcomes, strict=True)
            if not isinstance(outcome, int)
        }
        self.conflicts += len(faster)
        return Committed(entry, faster)

    async def read(self, tenant: str, user_ids: Sequence[str], *, is_told: bool = False) -> dict[str, bytes | None]:
        """Read what is there of users.

        Args:
            tenant: whose they are.
            user_ids: theirs.
            is_told: somebody will be told of it: a Redis that has lost all must not be taken for one that has nobody.

        Raises:
            Fenced: it may have lost all: this node is no member there any more.
        """
        if not user_ids:
            return {}
        key = self.keys.users(tenant)
        if not (is_told and self.is_member):
            blobs = await self.trying(lambda: self.redis.hmget(key, list(user_ids)))
            return dict(zip(user_ids, blobs, strict=True))

        async def ask() -> list[Any]:
            async with self.redis.pipeline(transaction=False) as asked:
                asked.hmget(key, list(user_ids))
                asked.hexists(self.keys.nodes, self.node)  # behind it, so that it holds of what was read
                return list(await asked.execute())

        blobs, is_member = await self.trying(ask)
        if not is_member:
            raise Fenced
        return dict(zip(user_ids, blobs, strict=True))

    async def page(self, tenant: str, limit: int, after: tuple[int, str] | None) -> dict[str, bytes]:
        """Read who is online, most recently active first, after a place.

        Raises:
            Fenced: it may have lost all: this node is no member there any more.
        """
        self.pages += 1
        keys = [self.keys.order(tenant), self.keys.users(tenant), self.keys.nodes]
        args: list[Any] = [self.node if self.is_member else "", limit, *(after or ())]
        found = await self.trying(lambda: self._page(keys=keys, args=args))
        return {user_id.decode(): blob for user_id, blob in zip(found[::2], found[1::2], strict=True)}

    async def counts(self, tenant: str) -> dict[str, int]:
        """Read how many there are, by what is counted."""
        counts = await self.trying(lambda: self.redis.hgetall(self.keys.counts(tenant)))
        return {name.decode(): int(count) for name, count in counts.items()}

    async def version(self, tenant: str) -> int:
        """Read the last version that was given out; 0: none."""
        return int(await self.trying(lambda: self.redis.get(self.keys.version(tenant))) or 0)

    async def stamp(self, tenant: str, *, now_us: int, seen: int) -> int:
        """Give out a version that no change has."""
        keys, args = [self.keys.version(tenant), self.keys.tenants], [now_us, seen, tenant]
        return int(await self.trying(lambda: self._stamp(keys=keys, args=args)))

    async def all(self, tenant: str) -> AsyncIterator[dict[str, bytes]]:
        """Go through all users, some at a time. Who comes or goes meanwhile may be among them, and anybody twice."""
        cursor = 0
        while True:
            scan = partial(self.redis.hscan, self.keys.users(tenant), cursor, count=SCANNED)
            cursor, found = await self.trying(scan)
            if found:
                yield {user_id.decode(): blob for user_id, blob in found.items()}
            if not int(cursor):
                return

    async def served(self, tenant: str, node: str) -> AsyncIterator[dict[str, bytes | None]]:
        """Go through the users whom a node serves, some at a time, as :meth:`all`."""
        cursor = 0
        while True:
            scan = partial(self.redis.sscan, self.keys.on(tenant, node), cursor, count=SCANNED)
            cursor, found = await self.trying(scan)
            if found:
                yield await self.read(tenant, [user_id.decode() for user_id in found])
            if not int(cursor):
                return

    async def is_known(self, node: str) -> bool:
        """Say whether a node is a member, as Redis has it."""
        return bool(await self.trying(lambda: self.redis.hexists(self.keys.nodes, node)))

    async def tenants(self) -> list[str]:
        """Read which tenants have ever had a user here."""
        return sorted(name.decode() for name in await self.trying(lambda: self.redis.smembers(self.keys.tenants)))

    async def served_by(self, nodes: Sequence[str], tenants: Sequence[str]) -> dict[str, int]:
        """Count whom each node serves."""

        async def ask() -> list[int]:
            async with self.redis.pipeline(transaction=False) as asked:
                for node in nodes:
                    for tenant in tenants:
                        asked.scard(self.keys.on(tenant, node))
                return list(await asked.execute())

        found = await self.trying(ask) if nodes and tenants else []
        many = len(tenants)
        return {node: sum(found[at * many : (at + 1) * many]) for at, node in enumerate(nodes)}

    async def due(self, tenants: Sequence[str], now_ms: int, limit: int) -> dict[str, list[str]]:
        """Read of whom something is due, by tenant: of each at most ``limit`` users."""

        async def ask() -> list[list[bytes]]:
            async with self.redis.pipeline(transaction=False) as asked:
                for tenant in tenants:
                    asked.zrange(self.keys.due(tenant), "-inf", now_ms, byscore=True, offset=0, num=limit)
                return list(await asked.execute())

        if not tenants:
            return {}
        found = zip(tenants, await self.trying(ask), strict=True)
        return {tenant: [user.decode() for user in users] for tenant, users in found if users}

    async def lacking(self, tenants: Sequence[str]) -> list[str]:
        """Read which of some tenants have fewer users than are counted: they were lost (``lost.lua``)."""

        async def ask() -> list[Any]:
            async with self.redis.pipeline(transaction=False) as asked:
                for tenant in tenants:
                    asked.hlen(self.keys.users(tenant))
                    asked.hget(self.keys.counts(tenant), "held")
                return list(await asked.execute())

        found = await self.trying(ask) if tenants else []
        each = zip(tenants, found[::2], found[1::2], strict=True)
        return [tenant for tenant, there, held in each if there < int(held or 0)]

    async def last_entry(self) -> bytes:
        """Return the id of the log's last entry."""
        found = await self.trying(lambda: self.redis.xrevrange(self.keys.log, count=1))
        last: bytes = found[0][0] if found else b"0-0"
        return last

    async def cursor(self) -> str:
        """Return up to which entry of the log the store has all; empty: that is not known."""
        return _text(await self.trying(lambda: self.redis.get(self.keys.cursor)))

    async def filled(self) -> str:
        """Return whether the users whom the store had are here, as ``keys.py`` says it; empty: not yet."""
        return _text(await self.trying(lambda: self.redis.get(self.keys.filled)))

    async def leave_if_elsewhere(self, error: Exception) -> None:
        """Let go of all connections, where one has found that it does not lead to the master: the next ones may.

        But for those in use: they find it out themselves, or are new, and would fail in the middle of their greeting.
        """
        if leads_elsewhere(error):
            for redis in (self.redis, self.control):
                await redis.connection_pool.disconnect(inuse_connections=False)

    async def reconnect(self) -> None:
        """Ask over new connections: old ones may lead to a Redis that has been replaced, and goes on for a while."""
        for redis in (self.redis, self.control):
            await redis.connection_pool.disconnect()

    async def close(self) -> None:
        """Let go of Redis."""
        await self.redis.aclose()
        await self.control.aclose()

    async def trying(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask, and again while it may still go well.

        Raises:
            Fenced: this node, or the Redis that answers, is not what it was.
            Skewed: the time is not.
            Full: there is no room.
            RegistryUnavailable: it did not go well in time; it may or may not have been done.
        """
        loop = asyncio.get_running_loop()
        ends_s, pause_s = loop.time() + self._patience_s, PAUSE_S
        while True:
            try:
                async with self._room:
                    return await ask()
            except AnotherProcess as error:
                raise Fenced from error
            except (RedisError, OSError) as error:
                word = word_of(error)
                if word == "FENCED":
                    raise Fenced from error
                if word == "SKEWED":
                    raise Skewed from error
                if word == FULL:
                    raise Full from error
                await self.leave_if_elsewhere(error)
                if self.as_of_ms() is not None or loop.time() + pause_s > ends_s or not is_passing(error):
                    raise RegistryUnavailable(describe(error)) from error
            await asyncio.sleep(pause_s * (0.5 + random.random() / 2))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def script(redis: Redis, name: str) -> Callable[..., Awaitable[Any]]:
    """Make one of the scripts beside this file callable."""
    return redis.register_script((files(__package__) / f"{name}.lua").read_text())


def describe(error: Exception) -> str:
    """Say in a clause what is wrong."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _text(found: bytes | None) -> str:
    return "" if found is None else found.decode()


def tenant_of(name: str) -> str | None:
    """Say which tenant is written so in Redis."""
    return None if name == NO_TENANT else name


def _numbers(proposal: Proposal, nodes: dict[str, int]) -> tuple[Any, ...]:
    """Put the numbers of a proposal into the order in which the script takes them: ``False`` for none, as in Lua."""
    dues = [due_ms for due_ms in (proposal.steady_due_ms, proposal.wall_due_ms) if due_ms is not None]
    return (
        proposal.versions,
        proposal.shown_at,
        proposal.version,
        proposal.above,
        min(dues) if dues else False,
        False if proposal.place_ms is None else proposal.place_ms,
        proposal.counts,
        [nodes[node] for node in proposal.joins],
        [nodes[node] for node in proposal.leaves],
    )
