"""Nodes that have one Redis and one clock between them, in one process: only their registries."""

import redis_server
from contract.registries import GRACE_MS, LOG_CAPACITY, Opened, RedisClock
from herenow.registry.redis.registry import RedisRegistry
from herenow.registry.redis.shard import Shard
from herenow.registry.redis.tail import Tail
from herenow.supervision import tell_loop
from registry.manual_clock import ManualClock


class Node(Opened):
    """One node: its registry, its way to Redis, and a clock that it has in common with the others."""

    def __init__(self, url: str, prefix: str, name: str, manual: ManualClock, *, patience_s: float = 5.0) -> None:
        self.name = name
        self.shard = Shard(url, prefix=prefix, node=name, slack_ms=0, patience_s=patience_s)
        self.tail = Tail(url, self.shard, tell_loop)
        clock = RedisClock()
        clock.manual = manual
        self.redis = clock.registry = RedisRegistry(
            self.shard, self.tail, grace_ms=GRACE_MS, log_capacity=LOG_CAPACITY, clock=manual
        )
        super().__init__(self.redis, clock)

    async def begin(self) -> None:
        """Hear of what the others do from now on."""
        await self.registry.stats()

    async def close(self) -> None:
        """End."""
        await self.registry.close()
        await self.tail.close()
        await self.shard.close()


class Cluster:
    """Nodes on one Redis, or ways to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = redis_server.fresh_prefix()
        self.clock = ManualClock()
        self.nodes: list[Node] = []

    async def node(self, url: str | None = None, *, patience_s: float = 5.0) -> Node:
        """Start another one."""
        name = f"n{len(self.nodes) + 1}"
        node = Node(url or self.url, self.prefix, name, self.clock, patience_s=patience_s)
        self.nodes.append(node)
        await node.begin()
        return node

    async def advance(self, ms: int) -> None:
        """Let time go by on all nodes, which have one clock."""
        for _ in range(20):
            if (step_ms := self.clock.until_next()) is None or step_ms > ms:
                break
            self.clock.advance(step_ms)
            ms -= step_ms
            await self.settle()
        self.clock.advance(ms)
        await self.settle()

    async def settle(self) -> None:
        """Wait until all have done what they do, and heard of it."""
        for node in self.nodes:
            await node.redis.settle()
        last = await self.nodes[0].shard.last_entry()
        for node in self.nodes:
            await node.tail.reached(last)
