"""What a node knows of the writing that another node does: how far the store is, and nothing of any one row."""

import asyncio
from collections.abc import Sequence

from herenow.cluster.membership import Membership
from herenow.errors import RegistryUnavailable
from herenow.keeper.writer import STALLED_MS, WriterState
from herenow.model import StoredUser
from herenow.registry.redis.tail import position_of
from herenow.times import steady_s

LOOK_EVERY_S = 0.05


class Elsewhere:
    """Stands in the place of a :class:`~herenow.keeper.writer.Writer`, where another node writes.

    Args:
        memberships: this process in each shard whose log it writes.
    """

    def __init__(self, memberships: Sequence[Membership]) -> None:
        self._memberships = memberships

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
            shards = [each.shard for each in self._memberships]
            lasts = [position_of(await shard.last_entry()) for shard in shards]
            while steady_s() < ends_s:
                cursors = [await shard.cursor() for shard in shards]
                if all(cursor and position_of(cursor) >= last for cursor, last in zip(cursors, lasts, strict=True)):
                    return 0
                await asyncio.sleep(LOOK_EVERY_S)
        except RegistryUnavailable:
            await asyncio.sleep(LOOK_EVERY_S)  # whoever asks again at once would ask without end
            return 1
        return 1

    def state(self) -> WriterState:
        """Say how far behind the store is, as far as the last beat tells."""
        lag_ms = 0
        for standing in (each.here.standing for each in self._memberships):
            if standing is not None and standing.cursor not in ("", "0-0"):  # which is before all
                behind_ms = position_of(standing.last)[0] - position_of(standing.cursor)[0]
                lag_ms = max(lag_ms, behind_ms)
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
