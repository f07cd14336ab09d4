"""A clock that a test turns by hand."""

import asyncio
import heapq
from itertools import count


class TurnedClock:
    """Stands still until ``advance``; ``clock()`` reads it, ``clock.sleep`` waits on it."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._fell_asleep = asyncio.Event()

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        wakes = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + seconds, next(self._order), wakes))
        self._fell_asleep.set()
        await wakes

    async def advance(self, seconds: float) -> None:
        """Turn the clock on, and stop at each moment at which somebody wakes up, until all have done what they can."""
        end_s = self.now_s + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end_s + 1e-9:
            self.now_s, _, wakes = heapq.heappop(self._sleepers)
            if not wakes.done():
                wakes.set_result(None)
                await settle()
        self.now_s = end_s
        await settle()

    async def advance_until_asleep(self, seconds: float) -> None:
        """Turn the clock on, and wait until somebody sleeps again who works with threads: those keep real time."""
        self._fell_asleep.clear()
        await self.advance(seconds)
        async with asyncio.timeout(5):
            await self._fell_asleep.wait()


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)
