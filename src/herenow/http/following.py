"""``GET /v1/changes``: all changes as Server-Sent Events, resumed by ``Last-Event-ID``.

The same rules as for a watcher over Socket.IO: nothing is lost between two connections as long as the change log
reaches back; who reads slowly gets the net change of each user, so that what waits for a follower is bounded by the
number of users; nobody waits for anybody else.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from herenow.errors import NotStarted
from herenow.logs import get_logger
from herenow.model import Change
from herenow.registry.base import Batch
from herenow.service import Service
from herenow.wire import encode_change

log = get_logger("herenow.http")

KEEP_ALIVE_S: Final = 15.0
"""After so long without a change a comment is sent: a proxy closes what is silent, and the dead are found."""

RETRY_MS: Final = 2_000
"""How long a client is to wait before it comes back."""


class Follower:
    """One stream.

    Args:
        presence: started.
        since: the version that the client has; ``None`` for what comes from now on.
        tenant: whose changes.
    """

    def __init__(self, presence: Service, since: int | None, tenant: str | None = None) -> None:
        self._registry = presence.registry_of(tenant)
        self._tenants = presence.tenants
        self._on_fault = presence.supervisor.failed
        self._tenant = tenant
        self._since = since
        self._pending: dict[str, Change] = {}
        self._came = asyncio.Event()
        self._ended = False

    def end(self) -> None:
        """Let the stream end after what waits in it."""
        self._ended = True
        self._came.set()

    async def events(self) -> AsyncGenerator[bytes]:
        """The stream's bytes, until :meth:`end` or until nobody reads them any more."""
        self._registry = self._tenants.hold(self._tenant)
        unsubscribe = self._registry.subscribe(self._take)  # before the log is read: what comes meanwhile waits
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            if self._since is not None:
                yield await self._missed(self._since)
            while not self._ended:
                if not self._pending:
                    yield await self._silence()
                    continue
                changes, self._pending = self._pending, {}
                yield b"".join(map(self._event, changes.values()))
        finally:
            unsubscribe()
            self._tenants.release(self._tenant)

    async def _missed(self, since: int) -> bytes:
        changes = await self._registry.changes_since(since)
        if changes is None:
            self._pending.clear()  # the snapshot that the client takes now has them all
            return f"id: {self._registry.version}\nevent: reset\ndata: {{}}\n\n".encode()
        for change in changes:
            newer = self._pending.get(change.user_id)
            if newer is not None and newer.version == change.version:
                del self._pending[change.user_id]  # it came while the log was read
        return b"".join(map(self._event, changes))

    async def _silence(self) -> bytes:
        self._came.clear()
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                await self._came.wait()
        except TimeoutError:
            return b": still here\n\n"
        return b""

    def _event(self, change: Change) -> bytes:
        try:
            return _encode(change)
        except Exception as error:  # one that cannot be written must not end the stream for all the others
            self._on_fault("encoding", error)
            return b""

    def _take(self, batch: Batch) -> None:
        for change in batch.changes:
            self._pending.pop(change.user_id, None)  # the order is that of the latest changes
            self._pending[change.user_id] = change
        if batch.changes:
            self._came.set()


def _encode(change: Change) -> bytes:
    return b"id: %d\nevent: change\ndata: %s\n\n" % (change.version, encode_change(change))


class Followers:
    """All streams of a server, so that they can be ended."""

    def __init__(self, presence: Service) -> None:
        self._presence = presence
        self._followers: set[Follower] = set()
        self._ended = False

    def follow(self, since: int | None, *, tenant: str | None = None) -> AsyncGenerator[bytes]:
        """Begin one stream.

        Raises:
            NotStarted: the server is starting or stopping; at the call, not in the stream.
            TenantsNotKept: as :meth:`Presence.registry_of`, also at the call.
        """
        if self._ended:
            raise NotStarted
        return self._stream(Follower(self._presence, since, tenant))

    async def _stream(self, follower: Follower) -> AsyncGenerator[bytes]:
        self._followers.add(follower)
        try:
            async for data in follower.events():
                yield data
        finally:
            self._followers.discard(follower)

    @property
    def have_ended(self) -> bool:
        """Whether the server stops."""
        return self._ended

    def begin(self) -> None:
        """Let streams begin, after a start."""
        self._ended = False

    def end(self) -> None:
        """End all streams, and begin no more: the server stops."""
        self._ended = True
        for follower in self._followers:
            follower.end()
