"""The registries that must keep the contract, each with a clock that the test turns."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import redis_server
from herenow.model import Change, StoredUser, UserPresence
from herenow.registry.base import Batch, Registry
from herenow.registry.local import LocalRegistry
from herenow.registry.redis.registry import RedisRegistry
from herenow.registry.redis.shard import Shard
from herenow.registry.redis.tail import Tail
from herenow.supervision import tell_loop
from registry.manual_clock import ManualClock

GRACE_MS = 2000
LOG_CAPACITY = 50


class Turnable(Protocol):
    """The clock of a registry under test."""

    @property
    def unix_ms(self) -> int: ...

    def advance(self, ms: int) -> Awaitable[None]:
        """Let time go by, with all that it brings, until every change of it is delivered."""
        ...

    def set_wall_clock(self, by_ms: int) -> None:
        """Set the wall clock forward or back."""
        ...


class Opened:
    """A registry under test, its clock, and all that it has delivered."""

    def __init__(self, registry: Registry, clock: Turnable) -> None:
        self.registry = registry
        self.clock = clock
        self.batches: list[Batch] = []
        registry.subscribe(self.batches.append)

    @property
    def changes(self) -> list[Change]:
        return [change for batch in self.batches for change in batch.changes]

    def rows(self) -> dict[str, StoredUser]:
        """Return the latest row of each user."""
        return {row.user_id: row for batch in self.batches for row in batch.rows}

    async def view(self, user_id: str) -> UserPresence | None:
        return (await self.registry.get([user_id])).users.get(user_id)


class LocalClock:
    """A :class:`ManualClock` for a registry that runs in this loop."""

    def __init__(self) -> None:
        self.manual = ManualClock()

    @property
    def unix_ms(self) -> int:
        return self.manual.unix_ms

    async def advance(self, ms: int) -> None:
        self.manual.advance(ms)

    def set_wall_clock(self, by_ms: int) -> None:
        self.manual.set_wall_clock(by_ms)


Factory = Callable[[int | None], Opened]
"""Opens a registry with this ``idle_after_ms``, ``GRACE_MS`` and ``LOG_CAPACITY``, in the running event loop."""


def local(idle_after_ms: int | None) -> Opened:
    clock = LocalClock()
    registry = LocalRegistry(
        grace_ms=GRACE_MS, log_capacity=LOG_CAPACITY, idle_after_ms=idle_after_ms, clock=clock.manual
    )
    return Opened(registry, clock)


class RedisClock:
    """A :class:`ManualClock` for a registry that needs a while: each call that falls due is waited for."""

    def __init__(self) -> None:
        self.manual = ManualClock()
        self.registry: RedisRegistry | None = None

    @property
    def unix_ms(self) -> int:
        return self.manual.unix_ms

    async def advance(self, ms: int) -> None:
        assert self.registry is not None
        await self.registry.settle()
        left_ms = ms
        while (step_ms := self.manual.until_next()) is not None and step_ms <= left_ms:
            self.manual.advance(step_ms)
            left_ms -= step_ms
            await self.registry.settle()
        self.manual.advance(left_ms)

    def set_wall_clock(self, by_ms: int) -> None:
        self.manual.set_wall_clock(by_ms)


class _Alone(RedisRegistry):
    """A registry that lets go of Redis at its end."""

    async def close(self) -> None:
        await super().close()
        await self._tail.close()
        await self._shard.close()


def on_redis(kind: str, idle_after_ms: int | None) -> Opened:
    url = redis_server.shared(kind).url
    shard = Shard(url, prefix=redis_server.fresh_prefix(), node="n", slack_ms=0)  # the clock is turned by the test
    clock = RedisClock()
    registry = clock.registry = _Alone(
        shard,
        Tail(url, shard, tell_loop),
        grace_ms=GRACE_MS,
        log_capacity=LOG_CAPACITY,
        idle_after_ms=idle_after_ms,
        clock=clock.manual,
    )
    return Opened(registry, clock)


FACTORIES: dict[str, Factory] = {
    "local": local,
    "redis": partial(on_redis, "redis"),
    "valkey": partial(on_redis, "valkey"),
}
