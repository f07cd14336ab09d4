"""The tail: what all nodes have said in the log of a shard, in order, brought to who asks for a tenant's."""

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

from herenow.registry.redis.news import News, read_news
from herenow.registry.redis.shard import LONGEST_PAUSE_S, PAUSE_S, Shard, connect
from herenow.supervision import OnFault, end

BLOCK_S = 2.0
"""How long Redis holds a read while nothing is said. The answer may take as long again."""

READ_AT_ONCE = 500
"""Entries."""

Place = tuple[int, int]
"""An entry's id: milliseconds, and a number."""

Receive = Callable[[tuple[News, ...]], None]
"""Told the news of one commit."""


class Tail:
    """Reads a shard's log from where it stood when this began.

    Args:
        url: where Redis is.
        shard: whose log.
        on_fault: told of an entry that cannot be read, and of a part that raises.
    """

    def __init__(self, url: str, shard: Shard, on_fault: OnFault) -> None:
        self._shard = shard
        self._redis = connect(url, timeout_s=2 * BLOCK_S)
        self._on_fault = on_fault
        self._receivers: dict[str, Receive] = {}
        self._place: Place = (0, 0)
        self._waiting: list[tuple[Place, int, asyncio.Future[None]]] = []
        self._asked = 0
        self._begun = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Be at the end of the log, if this is not done yet: what is said from now on is told."""
        if self._task is not None:
            return
        async with self._begun:
            if self._task is None:
                last = await self._shard.last_entry()
                self._place = place_of(last)
                self._task = asyncio.create_task(self._follow(), name="herenow tail")

    def tell(self, tenant: str, receive: Receive) -> Callable[[], None]:
        """Tell of a tenant from now on; returns what ends that."""
        self._receivers[tenant] = receive

        def end() -> None:
            self._receivers.pop(tenant, None)

        return end

    def reached(self, entry: bytes) -> asyncio.Future[None]:
        """Return what is done once an entry was told."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = place_of(entry)
        if place <= self._place:
            future.set_result(None)
        else:
            self._asked += 1
            heapq.heappush(self._waiting, (place, self._asked, future))
        return future

    async def close(self) -> None:
        """Read no more."""
        await end([] if self._task is None else [self._task])
        await self._redis.aclose()

    async def _follow(self) -> None:
        pause_s = PAUSE_S
        while True:
            cursor = "{}-{}".format(*self._place)
            try:
                answer: Any = await self._redis.xread(
                    {self._shard.keys.log: cursor}, count=READ_AT_ONCE, block=round(BLOCK_S * 1000)
                )
                pause_s = PAUSE_S
            except Exception as error:  # whatever it is: all commands wait for what is read here
                self._on_fault("tail", error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            for _, entries in answer:
                for entry, fields in entries:
                    self._tell(fields)
                    self._pass(place_of(entry))

    def _tell(self, fields: dict[bytes, bytes]) -> None:
        try:
            if fields.pop(b"schema") != b"1":
                return  # of a newer herenow, which does not say such things before all nodes know them
            fields.pop(b"place")
            receive = self._receivers.get(fields.pop(b"tenant").decode())
            if receive is not None:
                receive(tuple(read_news(said, int(name.partition(b":")[0])) for name, said in fields.items()))
        except Exception as error:  # one entry that cannot be read keeps back none of the others
            self._on_fault("tail", error)

    def _pass(self, place: Place) -> None:
        self._place = place
        while self._waiting and self._waiting[0][0] <= place:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)


def place_of(entry: Any) -> Place:
    """Read an entry's id."""
    milliseconds, _, number = entry.decode().partition("-")
    return int(milliseconds), int(number)
