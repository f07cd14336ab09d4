"""What a registry in Redis can be asked: each a trip or more, but for how users are shown, as far as that is kept.

While Redis is away there is nothing but what is kept, as of when it went.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from herenow.model import Connection, StoredUser, UserPresence
from herenow.registry.base import Explanation, Page, RegistryStats, Snapshot
from herenow.registry.changelog import ChangeLog
from herenow.registry.commands import Now
from herenow.registry.recency import Entry, cursor_after, place_in
from herenow.registry.redis.blob import Held, UnreadableState, decode
from herenow.registry.redis.shard import Shard
from herenow.registry.redis.views import BEFORE_ALL, Views
from herenow.supervision import OnFault

T = TypeVar("T")

TRIES = 3
"""How often a page is looked for among what is kept, and that lengthened, before it is read for whoever asked alone."""


class Reads:
    """Reads of one tenant.

    Args:
        shard: where its facts are.
        tenant: as it is written there.
        log: the changes that this node has heard of.
        now: the time.
        on_fault: told of a user whose state cannot be read: it keeps no read from telling of the others.

    Attributes:
        views: how users are shown, as far as that is kept: to be told all that the log says of this tenant.
    """

    def __init__(
        self, shard: Shard, tenant: str, log: Callable[[], ChangeLog], now: Callable[[], Now], on_fault: OnFault
    ) -> None:
        self._shard = shard
        self._tenant = tenant
        self._log = log
        self._now = now
        self._on_fault = on_fault
        self.views = Views()
        self._lengthening = asyncio.Lock()

    async def find(self, user_ids: Iterable[str]) -> dict[str, Held]:
        """Read users as they are held."""
        blobs = await self._shard.read(self._tenant, list(dict.fromkeys(user_ids)), is_told=True)
        return {user_id: self._decode(user_id, blob) for user_id, blob in blobs.items()}

    def _decode(self, user_id: str, blob: bytes | None) -> Held:
        try:
            return decode(user_id, blob)
        except UnreadableState as error:
            self._on_fault("a user's state", error)
            return decode(user_id, None)

    async def of(self, user_id: str, tell: Callable[[Held], T]) -> T | None:
        """Tell something of a user; ``None`` for one who is not held."""
        held = (await self.find([user_id]))[user_id]
        return tell(held) if held.revision else None

    async def get(self, user_ids: tuple[str, ...]) -> Snapshot:
        """As :meth:`Registry.get`, like all that follow."""
        version = self._log().version  # before the look: so all up to it is in what is seen
        views, others = self.views.get(user_ids)
        if others and self._shard.as_of_ms() is None:
            begun = self.views.begin()
            try:
                found = {user_id: held.view() for user_id, held in (await self.find(others)).items()}
                read = {user_id: view for user_id, view in found.items() if view is not None}
                self.views.take(begun, read.values())
            finally:
                self.views.done()
            views |= read
        return Snapshot(version, views)

    async def rows(self, user_ids: tuple[str, ...]) -> dict[str, StoredUser]:
        there = await self.find(user_ids)
        held = {user_id: each.user.row(each.version) for user_id, each in there.items() if each.revision}
        return self._log().rows_of(user_ids, held)

    async def known(self, gone: int) -> tuple[str, ...]:
        held = dict.fromkeys([user_id async for page in self._shard.all(self._tenant) for user_id in page])
        return (*held, *self._log().last_but(held.__contains__, gone))

    async def own_view(self, user_id: str) -> UserPresence | None:
        return await self.of(user_id, Held.own_view)

    async def online(self, limit: int, cursor: str | None) -> Page:
        after = None if cursor is None else place_in(cursor)
        for _ in range(TRIES):
            version = self._log().version
            users = self.views.page(limit + 1, after)
            is_behind = after is not None and after < self.views.end  # so far back, nobody here has asked
            if users is not None or is_behind or self._shard.as_of_ms() is not None:
                break
            await self._lengthen(limit + 1, after)
        if users is None:
            version = self._log().version
            users, _ = await self._read_page(limit + 1, after)
        more = len(users) > limit
        del users[limit:]
        return Page(version, tuple(users), cursor_after(users[-1]) if more else None)

    async def _lengthen(self, limit: int, after: Entry | None) -> None:
        """Read the page behind what is kept; whoever asks meanwhile waits for it."""
        async with self._lengthening:
            if self.views.page(limit, after) is not None:
                return
            begun, end = self.views.begin(), self.views.end
            try:
                read, is_last = await self._read_page(limit, None if end == BEFORE_ALL else end)
                self.views.extend(begun, read, is_last=is_last)
            finally:
                self.views.done()

    async def _read_page(self, limit: int, after: Entry | None) -> tuple[list[UserPresence], bool]:
        """Read a page, and whether nothing is behind it."""
        found = await self._shard.page(self._tenant, limit, after)
        views = [view for user_id, blob in found.items() if (view := self._decode(user_id, blob).view()) is not None]
        return views, len(found) < limit

    async def connections_on(self, node: str) -> tuple[tuple[str, str], ...]:
        found: dict[tuple[str, str], None] = {}
        async for page in self._shard.served(self._tenant, node):
            for user_id, blob in page.items():
                for connection in self._decode(user_id, blob).user.connections.values():
                    if connection.node == node:
                        found[user_id, connection.connection_id] = None
        return tuple(found)

    async def connections_of(self, user_id: str) -> tuple[Connection, ...]:
        return (await self.find([user_id]))[user_id].user.describe_connections()

    async def explain(self, user_id: str) -> Explanation | None:
        return await self.of(user_id, self._explain)

    def _explain(self, held: Held) -> Explanation:
        user = held.user
        linger = user.linger
        return Explanation(
            view=held.view(),
            own_view=held.own_view(),
            claim=user.claim,
            connections=user.describe_connections(),
            lingers_ms=None if linger is None else max(0, linger.due_ms - self._now().steady_ms),
            linger_cause=None if linger is None else linger.cause,
        )

    async def stamp(self) -> int:
        return await self._shard.stamp(self._tenant, now_us=self._now().unix_us, seen=self._log().version)

    async def stats(self) -> RegistryStats:
        counts = await self._shard.counts(self._tenant)
        online, away, busy = (counts.get(name, 0) for name in ("online", "away", "busy"))
        return RegistryStats(
            version=self._log().version,
            online=online,
            away=away,
            busy=busy,
            users=online + away + busy,
            connections=counts.get("connections", 0),
            held=counts.get("held", 0),
            lingers_saved=counts.get("lingers_saved", 0),
        )
