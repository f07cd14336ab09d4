"""One user's state as bytes: what a node reads from Redis, decides on, and writes back.

The script puts two stamps of eight bytes in front: the *revision*, by which it tells whether somebody else was faster,
and the version of what others see, which it gives out itself. Then come a byte for the schema and the state as
MessagePack. Whoever meets a schema that is newer than theirs leaves the user alone: they cannot know what it means.
"""

from typing import NamedTuple

import msgspec
from msgspec.structs import astuple

from herenow.model import Availability, Cause, Claim, Claimed, UserPresence
from herenow.registry.state import Awaited, HeldUser, Linger, OpenConnection, Shown, presence

SCHEMA = b"\x01"
"""The schema that is written."""

_REVISION, _VERSION, _STATE = slice(0, 8), slice(8, 16), slice(16, None)


class UnreadableState(ValueError):
    """A newer herenow wrote this user's state, or something else did."""


class Held(NamedTuple):
    """A user as Redis has them.

    ``revision`` is empty for one who is not there. ``version`` is that of what others see, 0 where they see nothing.
    ``state`` is what the user was read from.
    """

    user: HeldUser
    revision: bytes
    version: int
    state: bytes

    def view(self) -> UserPresence | None:
        """Return the user as others see them; ``None``: they see nothing that is known here."""
        shown = self.user.shown
        return None if shown is None else presence(self.user.user_id, shown, self.version)

    def own_view(self) -> UserPresence:
        """Return the user as their own connections see them."""
        shown = Shown(self.user.look(to_others=False), self.user.last_active_ms)
        return presence(self.user.user_id, shown, self.version)


class _State(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The fields of what they are named after, each in its order; a new one needs a new schema."""

    connections: list[tuple[str, str, str | None, str | None, int, int, bool, int | None]]
    linger: tuple[bool, Cause, int, int] | None
    rests_until_ms: int
    claim: tuple[Claimed | None, str | None, int | None] | None
    last_active_ms: int | None
    shown: tuple[tuple[Availability, str | None, int | None], int | None] | None
    awaited: tuple[int, bool, int] | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_State)


def encode(user: HeldUser) -> bytes:
    """Write a user's state, from the schema on."""
    state = (
        [
            (
                each.connection_id,
                each.node,
                each.transport,
                each.address,
                each.opened_ms,
                each.last_activity_ms,
                each.idle,
                each.idle_due_ms,
            )
            for each in user.connections.values()
        ],
        None if user.linger is None else astuple(user.linger),
        user.rests_until_ms,
        None if user.claim is None else astuple(user.claim),
        user.last_active_ms,
        None if user.shown is None else astuple(user.shown),
        None if user.awaited is None else astuple(user.awaited),
    )
    return SCHEMA + _encoder.encode(state)


def decode(user_id: str, blob: bytes | None) -> Held:
    """Read what is in Redis of a user; ``None``: nothing.

    Raises:
        UnreadableState: this herenow cannot know what it means.
    """
    user = HeldUser(user_id)
    if blob is None:
        return Held(user, b"", 0, b"")
    if blob[_STATE][:1] != SCHEMA:
        raise UnreadableState(f"the state of user {user_id} in Redis has another schema than ours, {SCHEMA[0]}")
    try:
        state = _decoder.decode(blob[_STATE][1:])
    except msgspec.DecodeError as error:
        raise UnreadableState(f"the state of user {user_id} in Redis is damaged: {error}") from error
    for connection_id, node, transport, address, opened_ms, last_activity_ms, idle, idle_due_ms in state.connections:
        connection = OpenConnection(
            connection_id, node, transport, address, opened_ms, last_activity_ms=last_activity_ms, idle=idle
        )
        connection.idle_due_ms = idle_due_ms
        user.connections[connection_id] = connection
    user.linger = None if state.linger is None else Linger(*state.linger)
    user.rests_until_ms = state.rests_until_ms
    user.claim = None if state.claim is None else Claim(*state.claim)
    user.last_active_ms = state.last_active_ms
    user.shown = None if state.shown is None else Shown(*state.shown)
    user.awaited = None if state.awaited is None else Awaited(*state.awaited)
    return Held(user, blob[_REVISION], int.from_bytes(blob[_VERSION]), blob[_STATE])
