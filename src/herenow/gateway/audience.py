"""Who of one tenant is connected and listens: its watches, its diffs, and what is kept of its users.

One audience a tenant, so that nothing of one can reach another: not by a watch on all, nor by a limit, a cache or a
diff. That of no tenant is always there; another is there while it has a client.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from herenow.errors import RegistryUnavailable
from herenow.gateway.access.limits import TokenBucket
from herenow.gateway.access.sight import Sight
from herenow.gateway.encoding import EncodedUsers
from herenow.gateway.events import MAX_USERS_A_CALL
from herenow.gateway.metering.punctuality import Punctuality
from herenow.gateway.outbox import Outbox, Pace, Watcher
from herenow.gateway.watches import Watches
from herenow.model import Cause, Change, Claimed, Evicted
from herenow.registry.base import Batch, Registry
from herenow.service import Service
from herenow.socketio_server import Namespace
from herenow.wire import stale_to_wire


class Audience:
    """The clients of one tenant.

    Args:
        tenant: whose; ``None``: of no tenant.
        presence: what they hear of; started when the audience is opened.
        namespace: that of their sockets.
        pace: how the audiences of a server share the time for diffs.
        evicted: told which connections the registry has dropped: it closes them.

    Attributes:
        tenant: as above.
        registry: that of the tenant, once it is open.
        watches: who wants to hear of whom.
        outbox: sends what they are to hear.
        sight: whom they may see, where the application says that.
        encoded: their users as JSON.
        punctuality: how the promises to them are kept.
        connections_of: how many connections each user has.
        bucket_of: what all connections of a user may send; of those who have one.
    """

    registry: Registry

    def __init__(
        self,
        tenant: str | None,
        presence: Service,
        namespace: Namespace,
        pace: Pace,
        evicted: Callable[[Sequence[Evicted]], None],
    ) -> None:
        settings = presence.settings
        self._evicted = evicted
        self.tenant = tenant
        self.watches: Watches[Watcher] = Watches()
        self.outbox = Outbox(
            namespace,
            self.watches,
            lambda: self.registry.version,
            pace=pace,
            slow_timeout_s=settings.slow_reader_timeout_s,
            meters=presence.meters,
            on_fault=presence.supervisor.failed,
            told=lambda changes: self.punctuality.told(changes, self.registry.now().unix_us / 1_000_000),
        )
        can_watch = presence.can_watch
        if can_watch is not None and tenant is not None:
            can_watch = partial(can_watch, tenant=tenant)
        self.sight = (
            None
            if can_watch is None
            else Sight(can_watch, settings.can_watch_stale_s, settings.max_watched_users, presence.canonical)
        )
        self.encoded = EncodedUsers()
        self._page: asyncio.Future[dict[str, Any]] | None = None  # the first, of those online
        self._page_since = 0  # after so many flushes it was asked for
        self._page_asked_s = 0.0  # when, by the steady clock
        self.punctuality = Punctuality(presence.meters)
        self.connections_of: dict[str, int] = {}
        self.bucket_of: dict[str, TokenBucket] = {}
        self._presence = presence
        self._let_go: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Future[None]] = set()

    def open(self) -> None:
        """Begin to send changes; in the event loop, with a started presence."""
        tenants = self._presence.tenants
        self.registry = tenants.hold(self.tenant)
        unsubscribe = self.registry.subscribe(self._batch)

        def let_go() -> None:
            unsubscribe()
            tenants.release(self.tenant)

        self._let_go = let_go

    def close(self) -> None:
        """Send nothing more, and let go of the tenant's registry. Once, and after it was opened."""
        self.mute()
        self._let_go()

    def mute(self) -> None:
        """Send nothing more."""
        self.outbox.close()
        for task in self._tasks:
            task.cancel()

    def count_in(self, user_id: str, bucket: Callable[[], TokenBucket]) -> None:
        """Count a connection of a user. The first one brings their bucket."""
        before = self.connections_of.get(user_id, 0)
        self.connections_of[user_id] = before + 1
        if not before:
            self.bucket_of[user_id] = bucket()

    def count_out(self, user_id: str) -> None:
        """Count a connection of a user out; after the last one, what was kept of them goes."""
        left = self.connections_of.pop(user_id) - 1
        if left:
            self.connections_of[user_id] = left
        else:
            del self.bucket_of[user_id]
            self.forget_sight(user_id)

    def forget_sight(self, user_id: str) -> None:
        """Drop what the application said for a user, unless they are connected."""
        if self.sight is not None and user_id not in self.connections_of:
            self.sight.forget(user_id)

    async def first_page(self, since_s: float) -> dict[str, Any]:
        """Return the first page of those online; the same one to all who ask until the next diffs are sent.

        Whoever asks must watch all by now: then they get what changed since that page with those diffs. So when
        everybody joins at once, the crowd is gone through once a flush, and not once for each of them.

        Args:
            since_s: when the client was told that it is in, by the steady clock. A page from before would not have it,
                and would be older than what it was told; so it waits for the diffs, and has the page behind them.
        """
        if self._has_page() and self._page_asked_s < since_s:
            await self.outbox.flushed()
        if self._page is None or not self._has_page():
            self._page, self._page_since = asyncio.ensure_future(self.page(None)), self.outbox.flushes
            self._page_asked_s = time.monotonic()
        return await asyncio.shield(self._page)  # it is others' too

    def _has_page(self) -> bool:
        return self._page is not None and self._page_since == self.outbox.flushes and not _has_failed(self._page)

    async def page(self, cursor: str | None) -> dict[str, Any]:
        """Return a page of those online, as the answer to a watch on all.

        Raises:
            ValueError: the cursor is not one that a page gave.
        """
        page = await self.registry.online(MAX_USERS_A_CALL, cursor)
        answer = {"version": page.version, "users": self.encoded.of(page.users), "full": True}
        answer |= stale_to_wire(self.registry.as_of_ms)
        return answer if page.cursor is None else {**answer, "cursor": page.cursor}

    def _batch(self, batch: Batch) -> None:
        if batch.evicted:
            self._evicted(batch.evicted)
        # Whoever is invisible still sees themselves as they are.
        invisible = {
            row.user_id for row in batch.rows if row.claim is not None and row.claim.availability is Claimed.INVISIBLE
        }
        if not self.watches.of_all:  # nobody is told, so no flush will say that this page is old
            self._page = None
        self.outbox.publish(batch.changes, invisible=invisible)
        for change in batch.changes:
            if change.user_id in invisible and self.connections_of.get(change.user_id):
                task = asyncio.ensure_future(self._show_to_self(change.user_id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _show_to_self(self, user_id: str) -> None:
        try:
            own = await self.registry.own_view(user_id)
        except RegistryUnavailable:
            return
        if own is None:
            return
        change = Change(**msgspec.structs.asdict(own), cause=Cause.CLAIM)
        for watcher in self.watches.of(user_id) | self.watches.of_all:
            if watcher.user_id == user_id:
                self.outbox.queue(watcher, change)


def _has_failed(page: "asyncio.Future[dict[str, Any]]") -> bool:
    return page.done() and (page.cancelled() or page.exception() is not None)
