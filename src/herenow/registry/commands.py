"""What the registry can be told, and what it answers: the alphabet of the rules.

A command is one frozen value without a time in it. The time comes beside it, as a :class:`Now`, so that a history of
commands can be replayed, batched or sent to another process. Users and connections are opaque ids that were checked
where they came in.
"""

import sys
from typing import NamedTuple

import msgspec

from herenow.model import Cause, Change, Claim, Closing, Connection, StoredUser


class Now(NamedTuple):
    """One moment on two clocks.

    ``unix_us`` is the wall clock, in microseconds since the Unix epoch: it stamps, and it may jump either way.
    ``steady_ms`` counts milliseconds from anywhere and never jumps: it measures how long something lasted.
    """

    unix_us: int
    steady_ms: int


class Connect(msgspec.Struct, frozen=True):
    """A connection of a user opened. An id that is already there is replaced."""

    user_id: str
    connection_id: str
    node: str
    transport: str | None = None
    address: str | None = None


class Disconnect(msgspec.Struct, frozen=True):
    """A connection ended. An unknown connection is nothing."""

    connection_id: str
    closing: Closing


class Active(msgspec.Struct, frozen=True):
    """The device behind a connection was just used."""

    connection_id: str


class Idle(msgspec.Struct, frozen=True):
    """The device behind a connection has not been used for a while."""

    connection_id: str


class SetClaim(msgspec.Struct, frozen=True):
    """A user asks to be seen as ``claim`` says, in place of what they asked before; ``None`` gives the claim up."""

    user_id: str
    claim: Claim | None


class NodeLost(msgspec.Struct, frozen=True):
    """A node died with all its connections. ``last_beat_ms`` is when it was last known to live (Unix, ms).

    ``user_ids`` are the users of whom it is to be done; ``None``: of all.
    """

    node: str
    last_beat_ms: int
    user_ids: tuple[str, ...] | None = None


class Evict(msgspec.Struct, frozen=True):
    """These users (``None``: all) are offline at once.

    With ``disconnect`` their connections are removed too, and whoever sends this must close them; without it, a user
    who has a connection is left alone.
    """

    user_ids: tuple[str, ...] | None
    disconnect: bool
    cause: Cause = Cause.CLEANUP


class Adopt(msgspec.Struct, frozen=True):
    """Take over what the store says of users whom a dead process served: who was online lingers for ``grace_ms``.

    ``last_beat_ms`` (Unix, ms) is when that process was last known to live. Offline rows matter only for their claims.
    """

    rows: tuple[StoredUser, ...]
    last_beat_ms: int
    grace_ms: int


class Repair(msgspec.Struct, frozen=True):
    """The store's rows that disagree with the registry: answer each with a row that is newer, and true."""

    rows: tuple[StoredUser, ...]
    cause: Cause = Cause.REPAIR


class Advance(msgspec.Struct, frozen=True):
    """Time went by: what fell due takes effect, the earliest ``limit`` of each kind, so that no crowd is a stall."""

    limit: int = sys.maxsize


Command = Connect | Disconnect | Active | Idle | SetClaim | NodeLost | Evict | Adopt | Repair | Advance


class Effects(NamedTuple):
    """What one command did.

    ``changes`` are the steps that others can see, ``rows`` what the store must know: a row for each change, and one
    where only a claim changed or the store was wrong. Both are in the order in which they happened. A row whose
    ``last_active_ms`` is ``None`` does not know it, and leaves the stored one as it is. ``evicted`` are the connections
    that were removed although they may still live.
    """

    changes: list[Change]
    rows: list[StoredUser]
    evicted: list[Connection]
