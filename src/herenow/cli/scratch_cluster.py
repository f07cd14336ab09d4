"""A throw-away cluster for ``herenow test --cluster``: two nodes, and keys of its own in the application's Redis.

Its keys begin with a prefix that nobody else has, so it does no harm to a cluster that lives in the same Redis; all of
them are gone at the end.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Self

from herenow.cli.options import CouldNotLook
from herenow.cli.output import complain
from herenow.cli.scratch import Scratch, ScratchServer
from herenow.errors import RegistryUnavailable
from herenow.registry.redis.fitness import see_that_redis_is_fit
from herenow.registry.redis.keys import NO_TENANT
from herenow.registry.redis.members import Members
from herenow.registry.redis.shard import Shard
from herenow.settings import Settings

LOOK_EVERY_S = 0.02

PATIENCE_S = 2.0
"""How long a Redis that does not answer is asked again."""

LONGEST_PREFIX = 40
"""Characters of the application's own prefix that ours begins with: a Redis may let its user at those keys only."""

FOUND_AT_ONCE = 1_000
"""Keys, be they of others, that are gone through at a time."""


class ScratchCluster(Scratch):
    """Two nodes on one database. The times that a cluster promises by are the application's own: none is made short."""

    def _changed(self, live: Settings) -> dict[str, object]:
        return {"cluster_prefix": f"{live.cluster_prefix[:LONGEST_PREFIX]}-test-{secrets.token_hex(4)}"}

    def nodes(self) -> tuple[ScratchServer, ScratchServer]:
        """Describe the nodes; they are not started."""
        return self.server("first", users="users"), self.server("second", users="users")

    def remove(self) -> None:
        """Leave nothing behind."""
        super().remove()
        if not self._servers:
            return
        try:
            asyncio.run(self._remove_keys())
        except RegistryUnavailable as error:
            complain(f"{error}; what may stay behind there are keys that begin with {{{self.settings.cluster_prefix}:")

    async def _remove_keys(self) -> None:
        async with Facts(self.settings) as facts:
            await facts.delete()


class Facts:
    """What Redis says of the cluster, seen past its nodes.

    Args:
        settings: of the cluster.
    """

    def __init__(self, settings: Settings) -> None:
        self._shard = Shard(
            settings.cluster_url, prefix=settings.cluster_prefix, node="herenow-test", patience_s=PATIENCE_S
        )
        self._members = Members(self._shard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._shard.close()

    async def see_that_redis_is_fit(self) -> None:
        """See that a cluster could live there at all.

        Raises:
            CouldNotLook: it cannot be reached.
            SettingsInvalid: it is not fit.
        """
        try:
            await see_that_redis_is_fit(self._shard)
        except RegistryUnavailable as error:
            raise CouldNotLook(f"{error}; its address is HERENOW_CLUSTER") from error

    async def is_leader(self, server: ScratchServer) -> bool:
        """Say whether a node keeps the store."""
        found = await self._shard.trying(lambda: self._shard.redis.get(self._shard.keys.leader))
        return found is not None and found.decode() == await self.id_of(server)

    async def id_of(self, server: ScratchServer) -> str | None:
        """Say under which id a node is a member; ``None``: under none."""
        pid = None if server.node is None else server.node.pid
        return next((node for node, member in (await self._members.all()).items() if member.pid == pid), None)

    async def has_trace_of(self, node: str) -> bool:
        """Say whether anything is left of an id: that it is a member, given up, or has written something since."""
        keys, redis = self._shard.keys, self._shard.redis
        return (
            bool(await self._shard.trying(lambda: redis.hexists(keys.nodes, node)))
            or bool(await self._shard.trying(lambda: redis.hexists(keys.lost, node)))
            or await self.has_written(node)
        )

    async def has_written(self, node: str) -> bool:
        """Say whether a write that was let through under an id is remembered."""
        key = self._shard.keys.outcomes(node)
        return bool(await self._shard.trying(lambda: self._shard.redis.exists(key)))

    async def connections(self) -> int:
        """Count the connections that Redis knows of."""
        return (await self._shard.counts(NO_TENANT)).get("connections", 0)

    async def delete(self) -> int:
        """Delete all keys of this cluster at one blow, and no others; returns how many there were."""
        redis = self._shard.redis

        async def find() -> set[bytes]:
            return {key async for key in redis.scan_iter(match=self._shard.keys.every, count=FOUND_AT_ONCE)}

        found = await self._shard.trying(find)
        return int(await self._shard.trying(lambda: redis.delete(*found))) if found else 0


async def comes_true(holds: Callable[[], Awaitable[bool]], timeout_s: float) -> float | None:
    """Wait until something holds; return when it did, or ``None``."""
    ends_s = time.monotonic() + timeout_s
    while not await holds():
        if time.monotonic() > ends_s:
            return None
        await asyncio.sleep(LOOK_EVERY_S)
    return time.monotonic()
