"""Whom a client may see: by its token at once, and by the application, which is asked anew as long as it watches."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic

from herenow.gateway import events
from herenow.gateway.access.sight import Sight
from herenow.gateway.client import Client
from herenow.gateway.events import WireError
from herenow.registry.deadlines import Deadlines
from herenow.socketio_server import Socket

LOOKS_AT_ONCE = 50
"""Clients for whom the application is asked anew at the same time."""


class Permission:
    """Who may see whom.

    Args:
        stale_s: how long an answer of the application counts.
        find: the socket of a connection that is still here.
    """

    def __init__(self, stale_s: float, find: Callable[[str], Socket | None]) -> None:
        self._stale_s = stale_s
        self._find = find
        self._due = Deadlines()  # by connection, steady clock

    async def part(self, client: Client, users: Iterable[str], *, anew: bool = False) -> tuple[list[str], list[str]]:
        """Part users into those whom a client may see and those whom it may not: in their order, each once.

        Args:
            client: who asks.
            users: about whom.
            anew: ask the application about all of them, whatever it said before.

        Raises:
            WireError: ``internal``, the application cannot say.
        """
        named = dict.fromkeys(users)
        refused: Collection[str] = ()
        if client.audience.sight is None:
            if client.identity.watch == "*":
                return list(named), []
        else:
            allowed = [user_id for user_id in named if client.identity.may_watch(user_id)]
            refused = frozenset(await self._refused(client.audience.sight, client, allowed, anew=anew))
        may_watch = client.identity.may_watch  # of a token that may be another by now
        seen = [user_id for user_id in named if user_id not in refused and may_watch(user_id)]
        return seen, [user_id for user_id in named if user_id in refused or not may_watch(user_id)]

    def look_again_later(self, client: Client) -> None:
        """Ask the application anew about those whom a client watches, when its answer is stale."""
        if client.audience.sight is not None and client.audience.watches.watched_by(client):
            self._due.set(client.socket.id, round((monotonic() + self._stale_s) * 1000))
        else:
            self.forget(client.socket.id)

    def forget(self, connection_id: str) -> None:
        """The connection has ended."""
        self._due.cancel(connection_id)

    async def run(self) -> None:
        """Ask anew about those who are watched; who may not be any more, is not. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._stale_s))
            now_s = monotonic()
            due = self._due.pop_due(round(now_s * 1000))
            for each in due:  # at once: whatever fails below, nobody is watched for ever without another look
                self._due.set(each, round((now_s + self._stale_s) * 1000))
            sockets = [socket for each in due if (socket := self._find(each)) is not None]
            for gone in {*due}.difference(socket.id for socket in sockets):
                self.forget(gone)
            for start in range(0, len(sockets), LOOKS_AT_ONCE):
                await asyncio.gather(*map(self._look_again, sockets[start : start + LOOKS_AT_ONCE]))

    async def _look_again(self, socket: Socket) -> None:
        client: Client | None = socket.data
        if client is None or client.audience.sight is None:  # gone, while others were looked at
            return
        sight, watches = client.audience.sight, client.audience.watches
        try:
            refused = await self._refused(sight, client, tuple(watches.named_by(client)), anew=True)
        except WireError:
            refused = []  # what was allowed stays so until it can be asked
        if not socket.connected:
            return
        self.look_again_later(client)
        if refused:
            watches.unwatch(client, refused)
            notice = WireError("forbidden", f"{_some(refused)} cannot be watched any more")
            socket.emit(events.ERROR, notice.body())

    async def _refused(self, sight: Sight, client: Client, users: Collection[str], *, anew: bool) -> list[str]:
        try:
            return await sight.refused(client.user_id, users, monotonic(), anew=anew)
        finally:
            client.audience.forget_sight(client.user_id)  # gone meanwhile?


def _some(users: Sequence[str]) -> str:
    """Name the first of the users, and how many there are."""
    return users[0] if len(users) == 1 else f"{users[0]} and {len(users) - 1} more"
