"""What the rules hold of one user, and how that looks from outside.

These are the only mutable objects of the registry. They never leave it: what goes out is built here, immutable.
"""

import msgspec

from herenow.model import Availability, Cause, Claim, Claimed, Connection, Evicted, StoredUser, UserPresence

Look = tuple[Availability, str | None, int | None]
"""Availability, status text, and when the status ends. Apart from the times, this is all that anybody sees."""

_PLAIN: dict[Availability, Look] = {availability: (availability, None, None) for availability in Availability}
"""The looks of those who claim nothing: one object for all who look so."""

_ABSENT = _PLAIN[Availability.OFFLINE]
_IN_USE = _PLAIN[Availability.ONLINE]
_IDLE = _PLAIN[Availability.AWAY]
_CLAIMED = {Claimed.AWAY: Availability.AWAY, Claimed.BUSY: Availability.BUSY}


AHEAD_MS = 1_000
"""So far ahead of the clock a moment may lie, since that may have been trimmed. What lies further ahead is wrong."""


class Shown(msgspec.Struct, frozen=True, gc=False):
    """What others were told of a user last. One for each user: so it is small, and nothing that is collected."""

    look: Look
    last_active_ms: int | None


class Linger(msgspec.Struct, frozen=True, gc=False):
    """The grace after an unclean end, which was at ``ended_ms``; it is over at ``due_ms`` on the steady clock.

    While it lasts, the user looks in use, or idle, as the lost connection was.
    """

    in_use: bool
    cause: Cause
    ended_ms: int
    due_ms: int


class Awaited(msgspec.Struct, frozen=True, gc=False):
    """Connections of a node that is gone, which may come back with it until ``until_ms`` on the steady clock.

    ``count`` is how many, ``in_use`` whether one of them was.
    """

    count: int
    in_use: bool
    until_ms: int

    def less_one(self) -> "Awaited | None":
        """Return it without one that has come; ``None``: that was the last."""
        return Awaited(self.count - 1, self.in_use, self.until_ms) if self.count > 1 else None


class OpenConnection:
    """One connection. Its idleness is what the device said last, or the lack of activity that the rules noticed."""

    __slots__ = (
        "address",
        "connection_id",
        "idle",
        "idle_due_ms",
        "last_activity_ms",
        "node",
        "opened_ms",
        "transport",
    )

    def __init__(
        self,
        connection_id: str,
        node: str,
        transport: str | None,
        address: str | None,
        opened_ms: int,
        *,
        last_activity_ms: int | None,
        idle: bool,
    ) -> None:
        self.connection_id = connection_id
        self.node = node
        self.transport = transport
        self.address = address
        self.opened_ms = opened_ms
        self.last_activity_ms = opened_ms if last_activity_ms is None else last_activity_ms
        self.idle = idle
        self.idle_due_ms: int | None = None  # steady clock: idle from then on; None: only if the device says so

    def describe(self, user_id: str) -> Connection:
        """Return it as data."""
        return Connection(self.connection_id, user_id, *self._rest())

    def evict(self, user_id: str, cause: Cause) -> Evicted:
        """Return it as data, for whoever is to close it."""
        return Evicted(self.connection_id, user_id, *self._rest(), cause)

    def _rest(self) -> tuple[str, int, int, bool, str | None, str | None]:
        return self.node, self.opened_ms, self.last_activity_ms, self.idle, self.transport, self.address


class HeldUser:
    """One user who is present or claims something."""

    __slots__ = ("awaited", "claim", "connections", "last_active_ms", "linger", "rests_until_ms", "shown", "user_id")

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.connections: dict[str, OpenConnection] = {}
        self.awaited: Awaited | None = None  # only ever while there is a connection
        self.linger: Linger | None = None  # only ever while no connection is in use
        self.rests_until_ms = 0  # steady clock: until then, a connection that comes is one that was lost while idle
        self.claim: Claim | None = None
        self.last_active_ms: int | None = None  # exact; what others were told of it is in `shown`
        self.shown: Shown | None = None  # None: nothing that is known here

    def is_present(self) -> bool:
        """Tell whether the user has a connection, or lingers."""
        return bool(self.connections) or self.linger is not None

    def is_gone(self) -> bool:
        """Tell whether nothing is left of the user that would have to be remembered."""
        return self.claim is None and not self.connections and self.linger is None

    def forget(self) -> None:
        """Forget what others were told, and when the user was last active: the store knows it."""
        self.shown = self.last_active_ms = None

    def is_invisible(self) -> bool:
        return self.claim is not None and self.claim.availability is Claimed.INVISIBLE

    def is_shown_online(self) -> bool:
        return self.shown is not None and self.shown.look[0] is not Availability.OFFLINE

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
        return _ABSENT if self.shown is None else self.shown.look

    def due_ms(self) -> int | None:
        """Return when, by the steady clock, something of the user's falls due; ``None``: nothing will."""
        due_ms = None if self.linger is None else self.linger.due_ms
        for connection in self.connections.values():
            idle_due_ms = connection.idle_due_ms
            if idle_due_ms is not None and (due_ms is None or idle_due_ms < due_ms):
                due_ms = idle_due_ms
        return due_ms

    def row(self, version: int) -> StoredUser:
        """Return the row that the store is to hold from ``version`` on."""
        availability, last_active_ms = Availability.OFFLINE, None
        if self.shown is not None:
            availability, last_active_ms = self.shown.look[0], self.shown.last_active_ms
        is_online = availability is not Availability.OFFLINE
        return StoredUser(self.user_id, is_online, availability, last_active_ms, self.claim, version)

    def describe_connections(self) -> tuple[Connection, ...]:
        """Return the connections as data, oldest first."""
        return tuple(connection.describe(self.user_id) for connection in self.connections.values())


def presence(user_id: str, shown: Shown, version: int) -> UserPresence:
    """Put a view together."""
    availability, text, until_ms = shown.look
    is_online = availability is not Availability.OFFLINE
    return UserPresence(user_id, is_online, availability, shown.last_active_ms, text, until_ms, version)


def presence_in(row: StoredUser, version: int) -> UserPresence:
    """Return a user as a row has them, with a version that is at most this."""
    return presence(row.user_id, shown_in(row), min(row.version, version))


def shown_in(row: StoredUser) -> Shown:
    """Return what a row shows. Where its two words disagree, an app wrote one of them, and ``is_online`` is it."""
    if not row.is_online:
        return Shown(_ABSENT, row.last_active_ms)
    availability = Availability.ONLINE if row.availability is Availability.OFFLINE else row.availability
    look = _PLAIN[availability] if row.claim is None else (availability, row.claim.text, row.claim.until_ms)
    return Shown(look, row.last_active_ms)
