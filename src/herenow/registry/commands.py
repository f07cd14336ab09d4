"""What can be done to a user, and what it does: the alphabet of the rules.

A command is one frozen value about one user, without a time in it. The time comes beside it, as a :class:`Now`, so that
a history of commands can be replayed, batched or sent to another process. What is done to a crowd is done to one after
the other. Users and connections are opaque ids that were checked where they came in; a connection is known by both, so
that no command ever touches two users.
"""

from typing import NamedTuple

import msgspec

from herenow.model import Cause, Change, Claim, Closing, Evicted, StoredUser


class Now(NamedTuple):
    """One moment on two clocks.

    ``unix_us`` is the wall clock, in microseconds since the Unix epoch: it stamps, and it may jump either way.
    ``steady_ms`` counts milliseconds from anywhere and never jumps: it measures how long something lasted.
    """

    unix_us: int
    steady_ms: int

    @property
    def unix_ms(self) -> int:
        """The wall clock, in whole milliseconds."""
        return self.unix_us // 1000


class Connect(msgspec.Struct, frozen=True):
    """A connection of a user opened. One with an id that the user has already is replaced.

    With ``is_idle`` it has been open for a while, and its device was not used lately: it is only said again.
    """

    user_id: str
    connection_id: str
    node: str
    transport: str | None = None
    address: str | None = None
    is_idle: bool = False


class Disconnect(msgspec.Struct, frozen=True):
    """A connection ended. An unknown connection is nothing."""

    user_id: str
    connection_id: str
    closing: Closing


class Active(msgspec.Struct, frozen=True):
    """The device behind a connection was just used."""

    user_id: str
    connection_id: str


class Idle(msgspec.Struct, frozen=True):
    """The device behind a connection has not been used for a while."""

    user_id: str
    connection_id: str


class SetClaim(msgspec.Struct, frozen=True):
    """A user asks to be seen as ``claim`` says, in place of what they asked before; ``None`` gives the claim up."""

    user_id: str
    claim: Claim | None


class NodeLost(msgspec.Struct, frozen=True):
    """A node is gone, and the user's connections there with it; the user lingers.

    ``last_beat_ms`` is when it was last known to live (Unix, ms), ``grace_ms`` how long the user lingers: ``None`` for
    the usual grace. With ``may_return`` nobody knows that its connections have ended: it may only stand still.
    """

    user_id: str
    node: str
    last_beat_ms: int
    grace_ms: int | None = None
    cause: Cause = Cause.NODE_LOST
    may_return: bool = False


class Evict(msgspec.Struct, frozen=True):
    """The user is offline at once.

    With ``disconnect`` their connections are removed too, and whoever serves them must close them; without it, a user
    who has a connection is left alone.
    """

    user_id: str
    disconnect: bool
    cause: Cause = Cause.CLEANUP


class Adopt(msgspec.Struct, frozen=True):
    """Take over what the store says of a user whom a dead process served: who was online lingers for ``grace_ms``.

    ``last_beat_ms`` (Unix, ms) is when that process was last known to live. An offline row matters only for its claim.
    """

    row: StoredUser
    last_beat_ms: int
    grace_ms: int

    @property
    def user_id(self) -> str:
        """Whose row it is."""
        return self.row.user_id


class Repair(msgspec.Struct, frozen=True):
    """The store's row of a user disagrees with the registry: answer it with one that is newer, and true."""

    row: StoredUser
    cause: Cause = Cause.REPAIR

    @property
    def user_id(self) -> str:
        """Whose row it is."""
        return self.row.user_id


class Retell(msgspec.Struct, frozen=True):
    """Others were told of a user by a commit that was lost: tell them how it is. ``row`` is what they were told.

    Where that was that the user is online, and nothing is left of how they came to be, they linger for ``grace_ms``.
    Where it was that they are offline, all connections had ended that were open then; their ends are lost too.
    """

    row: StoredUser
    grace_ms: int

    @property
    def user_id(self) -> str:
        """Whose row it is."""
        return self.row.user_id


class Advance(msgspec.Struct, frozen=True):
    """Time went by: what fell due for a user takes effect."""

    user_id: str


Command = Connect | Disconnect | Active | Idle | SetClaim | NodeLost | Evict | Adopt | Repair | Retell | Advance


class Effects(NamedTuple):
    """What one command did, once it was committed.

    ``changes`` are the steps that others can see, oldest first. ``row`` is what the store must know: there is one where
    something changed that others see, or only a claim, or where the store was wrong. If its ``last_active_ms`` is
    ``None`` it does not know it, and leaves the stored one as it is. ``evicted`` are the connections that were removed
    although they may still live.
    """

    changes: tuple[Change, ...]
    row: StoredUser | None
    evicted: tuple[Evicted, ...]
