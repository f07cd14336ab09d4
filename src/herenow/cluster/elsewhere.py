"""What a node knows of the writing that another node does: how far the store is, and nothing of any one row."""

import asyncio
from collections.abc import Callable

from herenow.errors import RegistryUnavailable
from herenow.keeper.writer import STALLED_MS, WriterState
from herenow.model import StoredUser
from herenow.registry.redis.members import Standing
from herenow.registry.redis.shard import Shard
from herenow.registry.redis.tail import position_of
from herenow.times import steady_s

LOOK_EVERY_S = 0.05


class Elsewhere:
    """Stands in the place of a :class:`~herenow.keeper.writer.Writer`, where another node writes.

    Args:
        shard: whose log it writes.
        standing: how the cluster stands, as the last beat told it.
    """

    def __init__(self, shard: Shard, standing: Callable[[], Standing | None]) -> None:
        self._shard = shard
        self._standing = standing

    def is_pending(self, user_id: str) -> bool:
        """Say that nothing is known to be on its way."""
        return False

    def pending(self, user_id: str) -> StoredUser | None:
        """Return nothing: what is on its way is there."""
        return None

    async def written(self, user_id: str) -> None:
        """Wait until the store has all that was said by now."""
        while await self.drain(60.0):
            continue

    async def drain(self, timeout_s: float) -> int:
        """Wait until the store has all that was said by now; returns 1 if it has not, after so long."""
        ends_s = steady_s() + timeout_s
        try:
            last = position_of(await self._shard.last_entry())
            while steady_s() < ends_s:
                cursor = await self._shard.trying(lambda: self._shard.redis.get(self._shard.keys.cursor))
                if cursor is not None and position_of(cursor) >= last:
                    return 0
                await asyncio.sleep(LOOK_EVERY_S)
        except RegistryUnavailable:
            await asyncio.sleep(LOOK_EVERY_S)  # whoever asks again at once would ask without end
            return 1
        return 1

    def state(self) -> WriterState:
        """Say how far behind the store is, as far as the last beat tells."""
        standing = self._standing()
        lag_ms = 0
        if standing is not None and standing.cursor:
            behind_ms = position_of(standing.last)[0] - position_of(standing.cursor)[0]
            lag_ms = max(0, behind_ms)
        return WriterState(
            healthy=lag_ms <= STALLED_MS,
            pending=0,
            lag_ms=lag_ms,
            written=0,
            skipped=0,
            unknown=0,
            refused=0,
            flushes=0,
            failures=0,
            last_error=None if lag_ms <= STALLED_MS else "the node that writes to it is behind",
        )
