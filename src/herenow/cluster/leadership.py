"""The leader: the one node that gives the dead up, looks after their users, and does what nobody else has done in time.

Redis elects: the leader is a name in it, which another member puts its own in the place of once it is no member, or
stands still. Whoever becomes it has watched all others before, as every node does.
"""

import asyncio
from collections.abc import Callable, Mapping

from herenow.cluster.node import ClusterNode
from herenow.errors import RegistryUnavailable
from herenow.logs import get_logger
from herenow.model import Cause
from herenow.registry.redis.clock import ClusterClock
from herenow.registry.redis.members import Standing
from herenow.registry.redis.registry import RedisRegistry
from herenow.registry.redis.shard import Fenced, Shard, tenant_of
from herenow.supervision import OnFault

log = get_logger("herenow.cluster")

SWEPT_AT_ONCE = 500
"""Users of a tenant of whom something is due, and who are looked at in one sweep."""

LATE_MS = 1_000
"""Whoever commits what falls due looks after it; if it has not been done so long after, it was not."""


class Leadership:
    """This node's part in it.

    Args:
        node: this node.
        shard: as it uses it.
        clock: that of the cluster.
        registry_of: the registry of a tenant.
        restart_grace_ms: how long the users of a node that is gone linger.
        on_fault: told of what fails for one user; it is done for the others.

    Attributes:
        changed: set whenever it changes whether this node is it.
    """

    def __init__(
        self,
        node: ClusterNode,
        shard: Shard,
        clock: ClusterClock,
        registry_of: Callable[[str | None], RedisRegistry],
        *,
        restart_grace_ms: int,
        on_fault: OnFault,
    ) -> None:
        self.changed = asyncio.Event()
        self._leads_as = ""
        self._node = node
        self._shard = shard
        self._clock = clock
        self._registry_of = registry_of
        self._restart_grace_ms = restart_grace_ms
        self._on_fault = on_fault
        self._lost: Mapping[str, int] = {}
        self._beats: Mapping[str, int] = {}
        self._has_work = asyncio.Event()
        self._is_resigning = False

    @property
    def is_leader(self) -> bool:
        """Whether this node is it: under the id that it has now."""
        return self._leads_as == self._node.node

    async def told(self, standing: Standing) -> None:
        """Take in how the cluster stands, and lead if nobody else does."""
        if self._is_resigning:
            return
        leader = standing.leader
        try:
            if leader != self._node.node and (leader not in standing.beats or leader in self._node.dead):
                if await self._node.members.replace(self._shard.keys.leader, leader, self._node.node):
                    leader = self._node.node
            self._be_leader(leader == self._node.node)
            if self.is_leader:
                await self._give_up_dead()
                self._lost, self._beats = standing.lost, standing.beats
                self._has_work.set()
        except Fenced:
            self._be_leader(False)  # the next beat registers anew
        except RegistryUnavailable:
            return  # at the next beat

    def _be_leader(self, is_leader: bool) -> None:
        if is_leader != bool(self._leads_as) or (is_leader and not self.is_leader):
            self._leads_as = self._node.node if is_leader else ""
            log.info("this node leads now" if is_leader else "this node leads no more", node=self._node.node)
            self.changed.set()

    async def _give_up_dead(self) -> None:
        now_ms = self._clock.now().unix_ms
        for node, beats in self._node.dead.items():
            last_ms = now_ms - round(self._node.watch.still_s(node) * 1000)
            if await self._node.members.give_up(node, beats=beats, last_ms=last_ms) >= 0:
                log.warning("a node is given up: it stands still", node=node)

    async def resign(self) -> None:
        """Lead no more, and never again."""
        self._is_resigning = True
        try:
            await self._node.members.replace(self._shard.keys.leader, self._node.node, "")
        except RegistryUnavailable:
            return  # the others see that it stands still

    # -- what it does ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look after the users of nodes that are gone, and what is overdue, after each beat, until cancelled."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            if not self.is_leader:
                continue
            try:
                tenants = await self._shard.tenants()
                for node, last_ms in self._lost.items():
                    await self._look_after(node, last_ms, tenants)
                await self._sweep(tenants)
                await self._see_to_lost(tenants)
            except RegistryUnavailable:
                continue  # after the next beat again

    async def _look_after(self, node: str, last_ms: int, tenants: list[str]) -> None:
        """Let the users of a node that is gone linger: the longer, if its process has gone too."""
        is_process_gone = last_ms > 0
        for tenant in tenants:
            try:
                await self._registry_of(tenant_of(tenant)).node_lost(
                    node,
                    last_beat_ms=abs(last_ms),
                    grace_ms=self._restart_grace_ms if is_process_gone else None,
                    cause=Cause.NODE_LOST,
                    may_return=is_process_gone,
                )
            except RegistryUnavailable:
                raise
            except Exception as error:  # such as a user's state that cannot be read: it keeps none of the others
                self._on_fault("lost node", error)
        await self._node.members.forget(node)
        if is_process_gone:
            log.info("the users of a node that is gone have their grace", node=node)

    async def _sweep(self, tenants: list[str]) -> None:
        """Look at users of whom something is overdue: whoever was to do it has gone."""
        before_ms = self._clock.now().unix_ms - LATE_MS
        due = await self._shard.due(tenants, before_ms, SWEPT_AT_ONCE)
        for tenant, users in due.items():
            self._registry_of(tenant_of(tenant)).advance(users)

    async def _see_to_lost(self, tenants: list[str]) -> None:
        """Find tenants of which Redis has lost users, such as by throwing them out, and have all said again."""
        for tenant in await self._shard.lacking(tenants):
            if await self._node.members.lose(tenant, (*self._beats, *self._lost)):
                log.error("Redis has lost users: all nodes say theirs again", tenant=tenant_of(tenant))
