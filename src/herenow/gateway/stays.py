"""How long clients stay: until their token ends, unless a newer one prolongs it; a minute before, they are warned."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from herenow.gateway import events
from herenow.gateway.answers import see_that_it_is_here
from herenow.gateway.auth.expiry import WARNING_S, Expiry, end_ms
from herenow.gateway.auth.identity import Identity
from herenow.gateway.client import Client, close
from herenow.gateway.events import WireError
from herenow.logs import get_logger
from herenow.model import Closing
from herenow.socketio_server import Socket
from herenow.supervision import OnFault
from herenow.times import steady_s, to_iso, unix_s

log = get_logger("herenow.gateway")

LOOK_EVERY_S = 1.0

REFRESHED_WITHIN_S = 10.0
"""So long an end waits for a newer token that came before it: its key may have to be fetched, which takes up to 6 s."""

_EXPIRING = WireError(
    "token_expiring", f"the token ends within {WARNING_S:g} s: send presence:refresh with a newer one"
)
_EXPIRED = WireError("token_expired", "the token has expired")


class Stays:
    """Ends those whose token is over, and lets newer ones prolong it.

    Args:
        expiry: when each ends.
        find: the socket of a connection that is still here.
        identify: who a client is, by what it sends.
        notify: tells a client why its connection ends.
        on_fault: told of what fails; it is tried again.
    """

    def __init__(
        self,
        expiry: Expiry,
        find: Callable[[str], Socket | None],
        identify: Callable[[Any, Socket], Awaitable[Identity]],
        notify: Callable[[Socket, WireError], None],
        on_fault: OnFault,
    ) -> None:
        self._expiry = expiry
        self._find = find
        self._identify = identify
        self._notify = notify
        self._on_fault = on_fault

    async def run(self) -> None:
        """Look who is to be warned and who is over, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._look(steady_s())

    def _look(self, now_s: float) -> None:
        warn, ended = self._expiry.due(now_s)
        for connection_id in ended:
            socket = self._find(connection_id)
            if socket is None or _may_be_prolonged(socket.data, now_s):  # none yet: it is just being let in
                self._expiry.postpone(connection_id, now_s)
                continue
            try:
                self._end(socket)
            except Exception as error:  # at the next look again: nobody stays beyond the token
                self._expiry.postpone(connection_id, now_s)
                self._on_fault("expiry", error)
        for connection_id in warn:
            if socket := self._find(connection_id):
                self._notify(socket, _EXPIRING)

    def _end(self, socket: Socket) -> None:
        client: Client = socket.data
        client.closing = Closing.CLOSED  # with the grace: who comes back with a new token never flickers
        self._notify(socket, _EXPIRED)
        close(socket, may_return=True)
        log.info("token expired", **client.about)

    async def refresh(self, client: Client, payload: events.Refresh) -> dict[str, Any]:
        """Take a newer token; those of one client one after the other, in the order in which they came.

        Raises:
            WireError: it is not valid, or another user's.
        """
        client.refresh = client.refresh or asyncio.Lock()
        async with client.refresh:
            return await self._prolong(client, payload)

    async def _prolong(self, client: Client, payload: events.Refresh) -> dict[str, Any]:
        identity = await self._identify({"token": payload.token}, client.socket)
        if (identity.tenant, identity.user_id) != (client.audience.tenant, client.user_id):
            raise WireError("forbidden", "the token is another user's")
        see_that_it_is_here(client)
        client.identity = identity
        client.ends_s = steady_end(identity.expires_s)
        self._expiry.set(client.socket.id, client.ends_s)
        watches = client.audience.watches
        watches.keep(client, identity.may_watch)
        if identity.watch != "*":
            watches.unwatch_all(client)
        ends_ms = end_ms(identity.expires_s)
        return {"expires": None if ends_ms is None else to_iso(ends_ms)}


def _may_be_prolonged(client: Client, now_s: float) -> bool:
    """Whether a newer token came before the old one's end, and is still being looked at: its answer decides."""
    ends_s = client.ends_s
    return client.is_refreshing and ends_s is not None and now_s < ends_s + REFRESHED_WITHIN_S


def steady_end(ends_s: float | None) -> float | None:
    """Carry an end over to the steady clock: a wall clock that is set ahead later on must not throw everybody out."""
    return None if ends_s is None else steady_s() + ends_s - unix_s()
