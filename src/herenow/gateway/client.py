"""One connection, as the gateway knows it."""

import asyncio

from herenow.gateway.access.limits import TokenBucket
from herenow.gateway.audience import Audience
from herenow.gateway.auth.identity import Identity
from herenow.gateway.outbox import Watcher
from herenow.socketio_server import Socket


class Client(Watcher):
    """One connection: what the gateway keeps of it in ``socket.data``."""

    __slots__ = ("audience", "bucket", "ends_s", "identity", "one_list", "opened_s", "queued", "refresh", "rests",
                 "running")  # fmt: skip

    def __init__(
        self, socket: Socket, identity: Identity, audience: Audience, bucket: TokenBucket, now_s: float
    ) -> None:
        super().__init__(socket, identity.user_id)
        self.identity = identity
        self.audience = audience
        self.bucket = bucket
        self.opened_s = now_s
        self.ends_s: float | None = None  # when its token is over, by the clock of ``steady_s``
        self.rests = False
        self.running = 0  # events that are not answered yet
        self.queued = 0  # those of them that wait for their turn; the next must not overtake them
        self.one_list: asyncio.Lock | None = None  # of long ones, one at a time
        self.refresh: asyncio.Lock | None = None  # of newer tokens, in the order in which they came

    @property
    def about(self) -> dict[str, str]:
        """Whose connection it is, for the log."""
        about = {"user": self.user_id, "connection": self.socket.id[:6]}
        tenant = self.audience.tenant
        return about if tenant is None else {"tenant": tenant, **about}

    @property
    def is_refreshing(self) -> bool:
        """Whether a newer token is being looked at."""
        return self.refresh is not None and self.refresh.locked()

    def end_rest(self) -> None:
        """Let it be read from again."""
        self.rests = False


def close(socket: Socket, *, may_return: bool) -> None:
    """Close a connection. The stock client comes back by itself unless it was told to leave the namespace first."""
    if not may_return:
        socket.disconnect()
    socket.disconnect(close=True)
