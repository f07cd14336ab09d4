"""What the rules hold of one user, and how that looks from outside.

These are the only mutable objects of the registry. They never leave it: what goes out is built here, immutable.
"""

from typing import NamedTuple

from herenow.model import Availability, Cause, Claim, Claimed, Connection, StoredUser, UserPresence

Look = tuple[Availability, str | None, int | None]
"""Availability, status text, and when the status ends. Apart from the times, this is all that anybody sees."""

_ABSENT: Look = (Availability.OFFLINE, None, None)
_IN_USE: Look = (Availability.ONLINE, None, None)
_IDLE: Look = (Availability.AWAY, None, None)
_CLAIMED = {Claimed.AWAY: Availability.AWAY, Claimed.BUSY: Availability.BUSY}


AHEAD_MS = 1_000
"""So far ahead of the clock a moment may lie, since that may have been trimmed. What lies further ahead is wrong."""


class Linger(NamedTuple):
    """The grace after an unclean end, which was at ``ended_ms``.

    While it lasts, the user looks in use, or idle, as the lost connection was.
    """

    in_use: bool
    cause: Cause
    ended_ms: int


class OpenConnection:
    """One connection. Its idleness is what the device said last, or the lack of activity that the rules noticed."""

    __slots__ = ("address", "connection_id", "idle", "last_activity_ms", "node", "opened_ms", "transport", "user")

    def __init__(
        self,
        user: "User",
        connection_id: str,
        node: str,
        transport: str | None,
        address: str | None,
        opened_ms: int,
        *,
        last_activity_ms: int | None,
        idle: bool,
    ) -> None:
        self.user = user
        self.connection_id = connection_id
        self.node = node
        self.transport = transport
        self.address = address
        self.opened_ms = opened_ms
        self.last_activity_ms = opened_ms if last_activity_ms is None else last_activity_ms
        self.idle = idle

    def describe(self) -> Connection:
        return Connection(
            self.connection_id,
            self.user.user_id,
            self.node,
            self.opened_ms,
            self.last_activity_ms,
            self.idle,
            self.transport,
            self.address,
        )


class User:
    """One user who is present or claims something."""

    __slots__ = ("claim", "connections", "last_active_ms", "linger", "rests_until_ms", "shown", "user_id")

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.connections: dict[str, OpenConnection] = {}
        self.linger: Linger | None = None  # only ever while no connection is in use
        self.rests_until_ms = 0  # steady clock: until then, a connection that comes is one that was lost while idle
        self.claim: Claim | None = None
        self.last_active_ms: int | None = None  # exact; what others were told of it is in `shown`
        self.shown: UserPresence | None = None  # what others saw last; None: nothing that this process knows of

    def is_present(self) -> bool:
        return bool(self.connections) or self.linger is not None

    def is_invisible(self) -> bool:
        return self.claim is not None and self.claim.availability is Claimed.INVISIBLE

    def is_shown_online(self) -> bool:
        return self.shown is not None and self.shown.is_online

    def is_in_use(self) -> bool:
        for connection in self.connections.values():  # a plain loop: any() with a generator takes twice as long
            if not connection.idle:
                return True
        return False

    def is_resting(self, steady_ms: int) -> bool:
        """Tell whether a connection that comes now takes over the idleness of one that was lost."""
        if self.linger is not None:
            return not self.linger.in_use
        return steady_ms < self.rests_until_ms and bool(self.connections) and not self.is_in_use()

    def rest_until(self, steady_ms: int) -> None:
        """Take connections that come before this for lost ones. The grace of a restart outlasts that of a close."""
        self.rests_until_ms = max(self.rests_until_ms, steady_ms)

    def touch(self, at_ms: int, now_ms: int) -> None:
        """Note activity at this time. While the user is invisible it stands still.

        It never runs backwards, unless it lies ahead of ``now_ms``: then the clock was wrong when it was noted. A time
        of 0 says that nobody knows it.
        """
        last_ms = self.last_active_ms
        if at_ms <= 0 or self.is_invisible():
            return
        if last_ms is None or last_ms < at_ms or last_ms > now_ms + AHEAD_MS:
            self.last_active_ms = at_ms

    def look(self, *, to_others: bool) -> Look:
        """Return how the user looks now, to others or to their own connections."""
        if not self.is_present():
            return _ABSENT
        in_use = self.is_in_use() if self.linger is None else self.linger.in_use
        claim = self.claim
        if claim is None:
            return _IN_USE if in_use else _IDLE
        if to_others and claim.availability is Claimed.INVISIBLE:
            return _ABSENT
        availability = Availability.ONLINE if in_use else Availability.AWAY
        if claim.availability is not None:
            availability = _CLAIMED.get(claim.availability, availability)
        return availability, claim.text, claim.until_ms

    def last_look(self) -> Look:
        """Return how the user looked to others at the latest change."""
        shown = self.shown
        return _ABSENT if shown is None else (shown.availability, shown.status_text, shown.status_until_ms)

    def row(self, version: int) -> StoredUser:
        """Return the row that the store is to hold from ``version`` on."""
        shown = self.shown
        if shown is None:
            return StoredUser(self.user_id, False, Availability.OFFLINE, None, self.claim, version)
        return StoredUser(self.user_id, shown.is_online, shown.availability, shown.last_active_ms, self.claim, version)


def presence(user_id: str, look: Look, last_active_ms: int | None, version: int) -> UserPresence:
    """Put a view together."""
    availability, text, until_ms = look
    is_online = availability is not Availability.OFFLINE
    return UserPresence(user_id, is_online, availability, last_active_ms, text, until_ms, version)


def seen_in(row: StoredUser) -> UserPresence:
    """Return what a row shows. Where its two words disagree, an app wrote one of them, and ``is_online`` is it."""
    if not row.is_online:
        return presence(row.user_id, _ABSENT, row.last_active_ms, row.version)
    availability = Availability.ONLINE if row.availability is Availability.OFFLINE else row.availability
    text, until_ms = (None, None) if row.claim is None else (row.claim.text, row.claim.until_ms)
    return presence(row.user_id, (availability, text, until_ms), row.last_active_ms, row.version)
