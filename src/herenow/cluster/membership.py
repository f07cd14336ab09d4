"""This process in one shard: its way there, the log, the time, its place among the nodes, and its part in leading them.

Tenants are divided among the shards, and a shard knows nothing of another: each has its own members, leader and log. So
one that fails over, or is lost, troubles the users of its own tenants only.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from zlib import crc32

from herenow.cluster.leadership import Leadership
from herenow.cluster.node import ClusterNode
from herenow.registry.redis.clock import ClusterClock
from herenow.registry.redis.members import Member, Standing
from herenow.registry.redis.registry import RedisRegistry
from herenow.registry.redis.shard import Shard
from herenow.registry.redis.tail import Tail
from herenow.settings import DISPATCH_BUDGET_S, Settings
from herenow.supervision import WELL_S, OnFault, Supervisor


class Membership:
    """This process in one shard.

    Args:
        number: of the shard.
        settings: with ``cluster``.
        member: what this process says of itself.
        registry_of: the registry of a tenant.
        on_fault: told of what fails; the others are served.

    Attributes:
        number: as above.
        shard: the way there.
        tail: its log.
        clock: its time.
        here: its place among the nodes.
        leadership: its part in leading them.
    """

    def __init__(
        self,
        number: int,
        settings: Settings,
        member: Member,
        registry_of: Callable[[str | None], RedisRegistry],
        on_fault: OnFault,
    ) -> None:
        url = settings.cluster_url
        self.number = number
        self.shard = Shard(url, prefix=settings.cluster_prefix, node=member.name, number=number, shards=settings.shards)
        self.tail = Tail(url, self.shard, on_fault)
        self.clock = ClusterClock()
        self.here = ClusterNode(
            self.shard,
            self.tail,
            self.clock,
            member,
            lease_s=settings.node_lease_s,
            beat_s=settings.node_beat_s,
            is_named=settings.node_name is not None,
        )
        self.leadership = Leadership(
            self.here,
            self.shard,
            self.clock,
            registry_of,
            restart_grace_ms=round((settings.restart_grace_s - DISPATCH_BUDGET_S) * 1000),
            on_fault=on_fault,
        )
        self._well_s = WELL_S + 2 * settings.node_beat_s

    @property
    def is_filled(self) -> bool:
        """Whether the users whom the store has are in the shard."""
        return self.here.standing is not None and self.here.standing.filled == "yes"

    def run(self, supervisor: Supervisor, told: Callable[[Standing], Awaitable[None]]) -> list[asyncio.Task[None]]:
        """Say again and again that this node lives, and lead where nobody else does.

        Args:
            supervisor: keeps that alive.
            told: hears of each beat.
        """
        self.here.on_beat(told)
        self.here.on_beat(self.leadership.told)
        which = f" {self.number}" if self.number else ""
        return [
            supervisor.start(f"node beat{which}", self.here.run, well_s=self._well_s),
            supervisor.start(f"leader{which}", self.leadership.run, well_s=self._well_s),
        ]

    async def close(self) -> None:
        """Let go of Redis."""
        await self.tail.close()
        await self.shard.close()


def shard_of(tenant: str | None, shards: int) -> int:
    """Say in which shard a tenant is: the same on all nodes, and on all machines."""
    return crc32((tenant or "").encode()) % shards


def of_tenant(memberships: Sequence[Membership], tenant: str | None) -> Membership:
    """Return the one in a tenant's shard."""
    return memberships[shard_of(tenant, len(memberships))]
