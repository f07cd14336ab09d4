"""How much a client may ask for, and when it is its turn: those who send much wait, and no other client does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from herenow.gateway.client import Client
from herenow.gateway.events import WireError
from herenow.logs import get_logger
from herenow.settings import Settings
from herenow.socketio_server import Socket
from herenow.socketio_server.engineio.turns import Turns
from herenow.sparing import Sparing
from herenow.supervision import OnFault

log = get_logger("herenow.gateway")

USERS_AN_EVENT = 200
"""So many users that are named count as one more event of their client's rate."""

EVENTS_AT_ONCE = 4
"""So many of a client's events are worked on at the same time; what comes beside waits for its turn."""

EVENT_COST_S = 0.000_2
"""What an event takes of the event loop."""

USER_COST_S = 0.000_005
"""What each user of a long list takes: decoded, looked up, read from the store, encoded."""

LONGEST_REST_S = 1.0
"""Nothing is read for so long from who sends more than it may; for less, where heartbeats are quicker."""


class Throttle:
    """The limits on events, of each connection and each user, and the queue of those who send much.

    Args:
        settings: ``max_events_per_s``, ``max_events_per_s_of_user``, and the heartbeat, within which every rest is.
        sparing: says which of its lines are written.
    """

    def __init__(self, settings: Settings, sparing: Sparing) -> None:
        self._sparing = sparing
        self._rate = settings.max_events_per_s
        self.user_rate = max(settings.max_events_per_s_of_user, settings.max_events_per_s)
        self._rest_s = min(LONGEST_REST_S, settings.ping_timeout_s / 4)
        self._turns = Turns()  # of events; those of bytes are the engine's, so that a pong waits for no event

    def supervise(self, on_fault: OnFault) -> None:
        """Have the faults of those in the queue reported."""
        self._turns.on_fault = on_fault

    def admit(self, client: Client) -> WireError | None:
        """Charge for an event; return why it is refused, if it is one too many.

        And read nothing more for a while: who goes on all the same fills its own socket, and not the loop.
        """
        try:
            self._charge(client, 1)
        except WireError as error:
            if not client.rests:
                client.rests = True
                asyncio.get_running_loop().call_later(self._rest_s, client.end_rest)
                client.socket.connection.rest(self._rest_s)
                of = client.audience.tenant, client.user_id
                self._sparing.say(log.info, "rate limited", of=of, **client.about)
            return error
        return None

    def rest(self, socket: Socket) -> None:
        """Read nothing more for a while from one who was not let in: it may ask again at once, and again."""
        socket.connection.rest(self._rest_s / 4)

    def charge_for(self, client: Client, users: int) -> None:
        """Charge for the work beyond that of an event: a thousand users of the store are some 7 ms of everybody's.

        Raises:
            WireError: ``rate_limited``.
        """
        self._charge(client, min(users / USERS_AN_EVENT, self._rate))

    async def wait(self, client: Client) -> None:
        """Let one who sends much at once wait for its turn: the bursts of fifty such would else keep the loop."""
        if client.running > EVENTS_AT_ONCE or client.queued or client.bucket.is_low(self._rate):
            client.queued += 1
            try:
                await self._turns.wait(EVENT_COST_S)
            finally:
                client.queued -= 1

    @asynccontextmanager
    async def in_turn(self, client: Client, users: int) -> AsyncIterator[None]:
        """Let a long list wait for its turn, one of a client's at a time: all together have a part of the loop."""
        if users <= USERS_AN_EVENT:
            yield
            return
        client.one_list = client.one_list or asyncio.Lock()
        async with client.one_list:
            await self._turns.wait(users * USER_COST_S)
            yield

    def _charge(self, client: Client, cost: float) -> None:
        now_s = monotonic()
        if not client.bucket.take(self._rate, now_s, cost):
            raise WireError("rate_limited", f"more than {self._rate:g} events a second, or too large ones")
        of_user = client.audience.bucket_of.get(client.user_id)  # there is none once the last connection has gone
        if of_user is not None and not of_user.take(self.user_rate, now_s, cost):
            raise WireError(
                "rate_limited", f"this user's connections send more than {self.user_rate:g} events a second"
            )
