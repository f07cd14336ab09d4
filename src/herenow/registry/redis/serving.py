"""What a node serves of one tenant: its connections, to be said again once it was given up and has come back."""

from collections.abc import Awaitable, Callable, Iterator, Mapping

import msgspec

from herenow.model import Availability, Change, Evicted
from herenow.registry.changelog import ChangeLog, row_of
from herenow.registry.commands import Active, Adopt, Connect, Retell
from herenow.registry.crowds import USERS_AT_ONCE
from herenow.registry.redis.blob import Held
from herenow.registry.redis.turns import Commands
from herenow.registry.state import shown_in

Commit = Callable[[Commands], Awaitable[None]]
"""Commits the commands of some users."""


class Serving:
    """The connections that this node serves."""

    def __init__(self) -> None:
        self._connects: dict[tuple[str, str], Connect] = {}

    def begin(self, command: Connect) -> None:
        """Serve a connection."""
        self._connects[command.user_id, command.connection_id] = command

    def note_use(self, user_id: str, connection_id: str, *, is_idle: bool) -> None:
        """Note whether the device behind a connection is in use."""
        said = self._connects.get((user_id, connection_id))
        if said is not None and said.is_idle != is_idle:
            self._connects[user_id, connection_id] = msgspec.structs.replace(said, is_idle=is_idle)

    def end(self, user_id: str, connection_id: str) -> None:
        """Serve a connection no more."""
        self._connects.pop((user_id, connection_id), None)

    def dropped(self, evicted: Evicted, node: str) -> None:
        """Note that the registry has dropped a connection; one of another node is nothing."""
        if evicted.node == node:
            self.end(evicted.user_id, evicted.connection_id)

    def all(self, told: Mapping[str, Change]) -> Iterator[Commands]:
        """Say all connections, those of some users at a time.

        Args:
            told: the changes of which Redis may know nothing, by user: such as that somebody is active again.
        """
        said: Commands = {}
        for each in tuple(self._connects.values()):
            commands = said.setdefault(each.user_id, [])
            commands.append(each)
            last = told.get(each.user_id)
            if last is not None and last.availability is Availability.ONLINE and not each.is_idle:
                commands.append(Active(each.user_id, each.connection_id))
        yield from parts_of(said)


def parts_of(commands: Commands) -> Iterator[Commands]:
    """Divide the commands of a crowd."""
    users = list(commands)
    for start in range(0, len(users), USERS_AT_ONCE):
        yield {user: commands[user] for user in users[start : start + USERS_AT_ONCE]}


def lost_changes(log: ChangeLog, kept: int) -> dict[str, Change]:
    """Return the latest change of each user that was told here, and that Redis has lost.

    Args:
        log: what was told.
        kept: the last version that Redis has kept; 0: that cannot be told.
    """
    if log.version <= kept:
        return {}
    told = log.since(kept)
    return log.last_but(_nobody, len(log)) if told is None else {change.user_id: change for change in told}


def to_retell(told: Mapping[str, Change], there: Mapping[str, Held], *, now_ms: int, grace_ms: int) -> Commands:
    """Say what is to be done about users of whom others were told what Redis has lost.

    Who is there is told anew, as they are; one who was told to be offline, without the connections that had ended by
    then. Who is not there, and was shown online, lingers: they may be on their way back. Both are told though nothing
    looks different: a node that was behind has not heard what the others were told.
    """
    again: Commands = {}
    for user_id, held in there.items():
        row = row_of(told[user_id])
        if held.version >= row.version:
            continue
        if held.revision:
            again[user_id] = [Retell(row, grace_ms)]
        elif row.is_online:
            again[user_id] = [Adopt(row, now_ms, grace_ms), Retell(row, grace_ms)]
    return again


def as_told(held: Held, told: Change) -> Held:
    """Let what others were told last be what they see of a user, where Redis has lost it: so they hear what differs."""
    if not held.revision or held.version >= told.version:
        return held
    held.user.shown = shown_in(row_of(told))
    return held._replace(version=told.version)


def _nobody(_: str) -> bool:
    return False
