"""The tail: what all nodes have said in the log of a shard, in order, brought to who asks for a tenant's.

Each entry has a place, one more than that of the entry before. Who finds one missing was so far behind that the log was
cut, or the log itself lost it: then nobody here knows what was said meanwhile, and those who listen are told so.
"""

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

import msgspec
from redis.exceptions import RedisError

from herenow.registry.redis.news import News, read_news
from herenow.registry.redis.refusals import leads_elsewhere
from herenow.registry.redis.shard import LONGEST_PAUSE_S, PAUSE_S, Shard
from herenow.supervision import OnFault, end

BLOCK_S = 2.0
"""How long Redis holds a read while nothing is said. The answer may take as long again."""

READ_AT_ONCE = 500
"""Entries."""

SCHEMA = b"1"
"""Of the entries that are written and understood."""

_HEAD = {b"schema", b"place", b"tenant", b"lost"}

Position = tuple[int, int]
"""An entry's id: milliseconds, and a number."""

Receive = Callable[[tuple[News, ...]], None]
"""Told the news of one commit; none: something was said that cannot be read."""


class Entry(msgspec.Struct, frozen=True):
    """One entry of the log: of which tenant it tells, and what."""

    position: Position
    tenant: str
    news: tuple[News, ...]


class Tail:
    """Reads a shard's log from where it stood when this began.

    Args:
        url: where Redis is.
        shard: whose log.
        on_fault: told of an entry that cannot be read, and of a part that raises.
        start: read from behind this entry on; by default from the end of the log.

    Attributes:
        position: of the last entry that was read.
        place: its place; 0: none was read yet.
        skipped: how many entries of a newer herenow were not understood.
        lost: called when Redis has lost users, and all is to be said again.
    """

    def __init__(self, url: str, shard: Shard, on_fault: OnFault, *, start: Position | None = None) -> None:
        self._shard = shard
        self._redis = shard.connect(url, timeout_s=2 * BLOCK_S)
        self._on_fault = on_fault
        self._receivers: dict[str, Receive] = {}
        self._missed: dict[str, Callable[[], None]] = {}
        self._receive_all: Callable[[Entry], None] | None = None
        self._missed_all: Callable[[], None] = _nothing
        self._start = start
        self.position: Position = (0, 0)
        self.place = 0
        self.skipped = 0
        self.lost: Callable[[], None] = _nothing
        self._waiting: list[tuple[Position, int, asyncio.Future[None]]] = []
        self._asked = 0
        self._begun = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Be at the end of the log, if this is not done yet: what is said from now on is told."""
        if self._task is not None:
            return
        async with self._begun:
            if self._task is None:
                if self._start is None:
                    await self._go_to_end()
                else:
                    self.position = self._start
                self._task = asyncio.create_task(self._follow(), name="herenow tail")

    async def _go_to_end(self) -> None:
        redis, log = self._shard.redis, self._shard.keys.log
        for entry, fields in await self._shard.trying(lambda: redis.xrevrange(log, count=1)):
            self.position, self.place = position_of(entry), int(fields[b"place"])

    def tell(self, tenant: str, receive: Receive, missed: Callable[[], None]) -> Callable[[], None]:
        """Tell of a tenant from now on, and whether something was missed; returns what ends that."""
        self._receivers[tenant], self._missed[tenant] = receive, missed

        def end() -> None:
            if self._receivers.get(tenant) is receive:  # else another registry of the tenant listens already
                del self._receivers[tenant], self._missed[tenant]

        return end

    def tell_all(self, receive: Callable[[Entry], None], missed: Callable[[], None]) -> Callable[[], None]:
        """Tell somebody of every entry from now on, whose ever it is; as :meth:`tell`."""
        self._receive_all, self._missed_all = receive, missed

        def end() -> None:
            if self._receive_all is receive:
                self._receive_all, self._missed_all = None, _nothing

        return end

    def reached(self, entry: bytes) -> asyncio.Future[None]:
        """Return what is done once an entry was told."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        position = position_of(entry)
        if position <= self.position:
            future.set_result(None)
        else:
            self._asked += 1
            heapq.heappush(self._waiting, (position, self._asked, future))
        return future

    async def before(self, entries: int, last: bytes | str | None = None) -> list[Entry]:
        """Read the latest entries up to one, by default up to where this has read, oldest first.

        Of those before one that is damaged, and of a newer herenow's, it knows nothing.
        """
        keys, last = self._shard.keys, "{}-{}".format(*self.position) if last is None else last
        found = await self._shard.trying(lambda: self._shard.redis.xrevrange(keys.log, max=last, count=entries))
        known: list[Entry] = []
        for entry, fields in reversed(found):
            try:
                read = _read(position_of(entry), fields)
            except Exception as error:
                self._on_fault("tail", error)
                known.clear()
                continue
            if read is not None:
                known.append(read)
        return known

    async def go_back(self, entry: bytes) -> None:
        """Read again what follows an entry, where that lies behind: another Redis may have written over it."""
        if position_of(entry) < self.position:
            self.position, self.place = position_of(entry), 0
            await self.reconnect()

    async def reconnect(self) -> None:
        """Read over a new connection: the old one may lead to a Redis that nobody writes to any more."""
        await self._redis.connection_pool.disconnect()

    async def close(self) -> None:
        """Read no more."""
        await end([] if self._task is None else [self._task])
        await self._redis.aclose()

    async def _follow(self) -> None:
        pause_s = PAUSE_S
        while True:
            position = self.position
            try:
                answer: Any = await self._redis.xread(
                    {self._shard.keys.log: "{}-{}".format(*position)}, count=READ_AT_ONCE, block=round(BLOCK_S * 1000)
                )
                pause_s = PAUSE_S
                if self._shard.is_agreeing:  # where to read on in another Redis is not known yet
                    await asyncio.sleep(PAUSE_S)
                    continue
            except Exception as error:  # whatever it is: all commands wait for what is read here
                if not isinstance(error, RedisError | OSError):  # that Redis is away, the beat says
                    self._on_fault("tail", error)
                if leads_elsewhere(error):
                    await self.reconnect()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            for _, entries in answer:
                for entry, fields in entries:
                    if self.position != position:  # it was told to go back meanwhile
                        break
                    self._take(position := position_of(entry), fields)

    def _take(self, position: Position, fields: dict[bytes, bytes]) -> None:
        try:
            self._tell(position, fields)
        except Exception as error:  # one entry that cannot be read keeps back none of the others
            self._on_fault("tail", error)
            for receive in tuple(self._receivers.values()):  # it may have been of anybody
                receive(())
        self.position = position
        while self._waiting and self._waiting[0][0] <= position:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)

    def _tell(self, position: Position, fields: dict[bytes, bytes]) -> None:
        place = int(fields[b"place"])
        has_missed = self.place and place != self.place + 1
        self.place = place
        # With "again" the nodes agreed on another Redis: its places go on anew, if anything is left of what was before.
        if has_missed and fields.get(b"again") != b"1":
            for miss in (self._missed_all, *self._missed.values()):
                miss()
        if fields[b"schema"] != SCHEMA:  # of a newer herenow, which says nothing such before all nodes know it
            self.skipped += 1
        if b"lost" in fields:
            self.lost()
        receive = self._receivers.get(fields[b"tenant"].decode())
        if receive is None and self._receive_all is None:
            return
        entry = _read(position, fields) or Entry(position, "", ())
        if self._receive_all is not None:
            self._receive_all(entry)
        if receive is not None:
            receive(entry.news)


def _nothing() -> None:
    """Where nobody is to be told."""


def _read(position: Position, fields: dict[bytes, bytes]) -> Entry | None:
    """Read an entry; ``None``: it tells nothing of users, or nothing that this herenow knows."""
    if fields[b"schema"] != SCHEMA or b"again" in fields:
        return None
    said = ((name, what) for name, what in fields.items() if name not in _HEAD)
    news = tuple(read_news(what, int(name.partition(b":")[0])) for name, what in said)
    return Entry(position, fields[b"tenant"].decode(), news)


def position_of(entry: bytes | str) -> Position:
    """Read an entry's id."""
    milliseconds, _, number = (entry.decode() if isinstance(entry, bytes) else entry).partition("-")
    return int(milliseconds), int(number)
