"""What the keeper writes: all that the log says, from where the keeper before it had come to.

The *cursor* is the entry up to which the store has all. It lies in Redis, and follows the store: so whoever keeps it
next begins there, and no row is lost. What is read twice is written once, since each row has its version. It reads by
itself what was said before, until it is level with the tail of this node; from there on that one is read for both.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice

from herenow.errors import RegistryUnavailable
from herenow.keeper.writer import Writer
from herenow.registry.redis.members import Members
from herenow.registry.redis.shard import Fenced, Shard, tenant_of
from herenow.registry.redis.tail import Entry, Position, Tail, position_of
from herenow.supervision import OnFault
from herenow.tenancy import keyed
from herenow.times import steady_s

MARKED = 10_000
"""Entries of the log that are remembered with the time when they were read."""

SAVE_EVERY_S = 0.1
"""Between two looks at how far the store is; where it has gone on, one small write."""


class Feed:
    """Follows the log into a writer.

    Args:
        url: where Redis is.
        shard: whose log.
        tail: of this node.
        members: among whom this node is one.
        writer: takes the rows.
        start: the cursor as it is written in Redis; empty: from the end of the log on.
        missed: called when the log was cut before it was read: only a comparison finds out what is missing.
        on_fault: told of what fails; it goes on.
    """

    def __init__(
        self,
        url: str,
        shard: Shard,
        tail: Tail,
        members: Members,
        writer: Writer,
        *,
        start: str,
        missed: Callable[[], None],
        on_fault: OnFault,
    ) -> None:
        self._shard = shard
        self._members = members
        self._writer = writer
        self._saved = start
        self._marks: deque[tuple[Position, float]] = deque()  # what was submitted when
        self._missed = missed
        self._tail = tail
        self._behind: Tail | None = Tail(url, shard, on_fault, start=position_of(start) if start else None)
        self._hear_no_more = self._behind.tell_all(self._take_behind, missed)
        self._is_level = False

    def _take_behind(self, entry: Entry) -> None:
        self._take(entry)
        self._join_if_level(entry.position)

    def _join_if_level(self, position: Position) -> None:
        if position == self._tail.position and not self._is_level:
            self._is_level = True
            self._hear_no_more()
            self._hear_no_more = self._tail.tell_all(self._take, self._missed)

    def _take(self, entry: Entry) -> None:
        rows = [news.row for news in entry.news if news.row is not None]
        if rows:
            self._writer.submit(keyed(tenant_of(entry.tenant), tuple(rows)))
        self._marks.append((entry.position, steady_s()))
        if len(self._marks) > MARKED:  # the store is away: to begin some entries earlier costs little
            self._marks = deque(islice(self._marks, 1, None, 2))

    async def run(self) -> None:
        """Follow, and say how far the store is, until cancelled."""
        if self._behind is not None:
            await self._behind.begin()
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            await self.save()
            if self._behind is not None:
                self._join_if_level(self._behind.position)
                await self._let_go()

    async def _let_go(self) -> None:
        """Close the tail that this one had for itself, once it is level with that of the node."""
        if self._is_level and (behind := self._behind) is not None:
            self._behind = None
            await behind.close()

    async def save(self) -> None:
        """Say how far the store is."""
        oldest_s, reached = self._writer.oldest_s(), None
        while self._marks and (oldest_s is None or self._marks[0][1] < oldest_s):
            reached, _ = self._marks.popleft()
        if reached is None:
            return
        cursor = "{}-{}".format(*reached)
        try:
            if await self._members.replace(self._shard.keys.cursor, self._saved, cursor):
                self._saved = cursor
            else:  # such as that Redis has lost it
                self._saved = await self._shard.cursor()
                self._marks.appendleft((reached, 0.0))
        except (Fenced, RegistryUnavailable):
            self._marks.appendleft((reached, 0.0))

    async def go_back(self, entry: bytes) -> None:
        """Read again what follows an entry, as the tail of this node does: another Redis may have written over it."""
        if self._behind is not None and not self._is_level:
            await self._behind.go_back(entry)

    async def close(self) -> None:
        """Follow no more."""
        self._hear_no_more()
        if self._behind is not None:
            await self._behind.close()
