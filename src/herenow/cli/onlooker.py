"""One who watches everybody, and notes when each was seen to come and to go; the store is looked at the same way."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from herenow.cli.scratch import ScratchServer
from herenow.cli.socketio_client import Caller


class Onlooker:
    """One who watches everybody.

    Attributes:
        client: the connection, once it is open.
        changes: of each user, when each change came and whether it said online.
    """

    def __init__(self, server: ScratchServer) -> None:
        self._server = server
        self.client: Caller | None = None
        self.changes: defaultdict[str, list[tuple[float, bool]]] = defaultdict(list)
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Connect, and watch all."""
        self.client = await Caller.open(self._server.address, "watcher", self._received)
        await self.client.emit("presence:watch", {"all": True})

    async def close(self) -> None:
        """Go."""
        if self.client is not None:
            await self.client.cut()

    def _received(self, event: str, payload: Any) -> None:
        if event != "presence:diff":
            return
        now_s = time.monotonic()
        for change in payload["changes"]:
            self.changes[change["userId"]].append((now_s, change["isOnline"]))
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def sees(self, user_id: str, *, online: bool, timeout_s: float) -> float | None:
        """Wait until the user was told to be online, or not; return when, or ``None``."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            news = self._news
            if (seen := self.changes[user_id]) and seen[-1][1] is online:
                return seen[-1][0]
            try:
                async with asyncio.timeout(deadline_s - time.monotonic()):
                    await news.wait()
            except TimeoutError:
                return None

    def seen(self, user_ids: Iterable[str]) -> int:
        """Count what was seen of users."""
        return sum(len(self.changes[user_id]) for user_id in user_ids)

    def unwanted(self, user_ids: Iterable[str]) -> int:
        """Count what was seen of users after they came: they were there all the time."""
        return sum(max(0, len(self.changes[user_id]) - 1) for user_id in user_ids)


async def store_says(server: ScratchServer, user_id: str, *, online: bool, timeout_s: float) -> float | None:
    """Wait until the store has the user online, or not; return when, or ``None``."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        row = (await server.store.read([user_id])).get(user_id)
        if row is not None and row.is_online is online:
            return time.monotonic()
        await asyncio.sleep(0.01)
    return None
