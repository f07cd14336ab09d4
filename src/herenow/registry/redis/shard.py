"""A shard: what a node asks of Redis. Each method is one trip; what fails is tried again until a time is over.

No try is left to the client library: it would repeat a commit that was done, and whose answer was lost. Here a commit
is sent again with the number that it had, so that the script tells the first answer once more.
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
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from herenow.errors import RegistryUnavailable
from herenow.registry.redis.keys import Keys
from herenow.registry.redis.proposal import Proposal

LOG_LENGTH = 65_536
"""Entries that the log keeps, or a few more."""

PATIENCE_S = 5.0
"""How long something is tried again before it counts as failed."""

PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
"""Between two tries; it doubles with each, to the longest."""

TIMEOUT_S = 2.0
"""How long one answer may take."""

_PASSING = (
    "READONLY", "UNBLOCKED", "MASTERDOWN", "LOADING", "MISCONF", "OOM", "BUSY", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN",
    "SKEWED",
)  # fmt: skip
"""How Redis begins an answer that says: not now."""

SCANNED = 500
"""Users that are gone through at a time."""


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
        url: where Redis is, as ``redis://user:password@host:6379/0``, ``rediss://…`` or ``unix:///…``.
        prefix: of all keys.
        node: the name of this node.
        slack_ms: how far this node's time may be from that of Redis; 0: that is not looked at.
        patience_s: how long something is tried again before it counts as failed.
    """

    def __init__(
        self, url: str, *, prefix: str, node: str, slack_ms: int = 1_000, patience_s: float = PATIENCE_S
    ) -> None:
        self.keys = Keys(prefix)
        self.node = node
        self.redis = connect(url, timeout_s=TIMEOUT_S)
        self._slack_us = slack_ms * 1000
        self._patience_s = patience_s
        self._commit = self.redis.register_script(_script("commit"))
        self._page = self.redis.register_script(_script("page"))
        self._stamp = self.redis.register_script(_script("stamp"))
        # No two commits have the same number, nor the same stamp: not those of a later life of this node either.
        self._life = secrets.token_bytes(4)
        self._commits = 0

    async def commit(self, tenant: str, proposals: Sequence[Proposal], *, now_us: int, seen: int) -> Committed:
        """Commit what was decided of users, of each at most one proposal.

        Args:
            tenant: whose users.
            proposals: what was decided.
            now_us: the time of it.
            seen: the highest version of the tenant that this node has seen.

        Raises:
            RegistryUnavailable: it may or may not have been done.
        """
        self._commits += 1
        keys = self.keys
        stamp = self._life + (self._commits & 0xFFFFFFFF).to_bytes(4)
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
            *(keys.on(tenant, node) for node in nodes),
        ]
        args: list[Any] = [tenant, stamp, now_us, self._slack_us, seen, LOG_LENGTH]
        for each in proposals:
            args += (each.user_id, each.revision, each.state, each.news, _numbers(each, nodes))
        entry, *outcomes = await self._try(lambda: self._commit(keys=names, args=args))
        faster = {
            proposal.user_id: outcome
            for proposal, outcome in zip(proposals, outcomes, strict=True)
            if not isinstance(outcome, int)
        }
        return Committed(entry, faster)

    async def read(self, tenant: str, user_ids: Sequence[str]) -> dict[str, bytes | None]:
        """Read what is there of users."""
        if not user_ids:
            return {}
        blobs = await self._try(lambda: self.redis.hmget(self.keys.users(tenant), list(user_ids)))
        return dict(zip(user_ids, blobs, strict=True))

    async def page(self, tenant: str, limit: int, after: tuple[int, str] | None) -> dict[str, bytes]:
        """Read who is online, most recently active first, after a place."""
        args: list[Any] = [limit] if after is None else [limit, *after]
        found = await self._try(
            lambda: self._page(keys=[self.keys.order(tenant), self.keys.users(tenant)], args=args),
        )
        return {user_id.decode(): blob for user_id, blob in zip(found[::2], found[1::2], strict=True)}

    async def counts(self, tenant: str) -> dict[str, int]:
        """Read how many there are, by what is counted."""
        counts = await self._try(lambda: self.redis.hgetall(self.keys.counts(tenant)))
        return {name.decode(): int(count) for name, count in counts.items()}

    async def stamp(self, tenant: str, *, now_us: int, seen: int) -> int:
        """Give out a version that no change has."""
        return int(await self._try(lambda: self._stamp(keys=[self.keys.version(tenant)], args=[now_us, seen])))

    async def all(self, tenant: str) -> AsyncIterator[dict[str, bytes]]:
        """Go through all users, some at a time. Who comes or goes meanwhile may be among them, and anybody twice."""
        cursor = 0
        while True:
            scan = partial(self.redis.hscan, self.keys.users(tenant), cursor, count=SCANNED)
            cursor, found = await self._try(scan)
            if found:
                yield {user_id.decode(): blob for user_id, blob in found.items()}
            if not int(cursor):
                return

    async def served(self, tenant: str, node: str) -> AsyncIterator[dict[str, bytes | None]]:
        """Go through the users whom a node serves, some at a time, as :meth:`all`."""
        cursor = 0
        while True:
            scan = partial(self.redis.sscan, self.keys.on(tenant, node), cursor, count=SCANNED)
            cursor, found = await self._try(scan)
            if found:
                yield await self.read(tenant, [user_id.decode() for user_id in found])
            if not int(cursor):
                return

    async def last_entry(self) -> bytes:
        """Return the id of the log's last entry."""
        found = await self._try(lambda: self.redis.xrevrange(self.keys.log, count=1))
        last: bytes = found[0][0] if found else b"0-0"
        return last

    async def close(self) -> None:
        """Let go of Redis."""
        await self.redis.aclose()

    async def _try(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        loop = asyncio.get_running_loop()
        ends_s, pause_s = loop.time() + self._patience_s, PAUSE_S
        while True:
            try:
                return await ask()
            except (RedisError, OSError) as error:
                if loop.time() + pause_s > ends_s or not is_passing(error):
                    raise RegistryUnavailable(describe(error)) from error
            await asyncio.sleep(pause_s * (0.5 + random.random() / 2))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def connect(url: str, *, timeout_s: float) -> Redis:
    """Make a client of Redis that tries nothing twice by itself."""
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        client_name="herenow",
    )


def is_passing(error: Exception) -> bool:
    """Say whether it may go well if it is tried again, with nothing changed."""
    return not isinstance(error, ResponseError) or str(error).startswith(_PASSING)


def describe(error: Exception) -> str:
    """Say in a clause what is wrong."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _script(name: str) -> str:
    return (files(__package__) / f"{name}.lua").read_text()


def _numbers(proposal: Proposal, nodes: dict[str, int]) -> bytes:
    """Put the numbers of a proposal into the form in which the script takes them: ``False`` for none, as in Lua."""
    dues = [due_ms for due_ms in (proposal.steady_due_ms, proposal.wall_due_ms) if due_ms is not None]
    numbers = (
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
    return msgspec.msgpack.encode(numbers)
