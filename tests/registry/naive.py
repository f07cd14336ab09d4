"""The rules once more, written to be plainly right and not to be fast.

Nothing is kept but the history. Every question ("was she connected after step 7?") is answered by going through it
again, so there is no state that could be left behind by mistake. Answers about a past step never change, which is why
they may be remembered. Between this and the rules there is no common code, only the common law.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, ParamSpec, TypeVar

from herenow.model import Availability, Cause, Claim, Claimed, Closing, StoredUser
from herenow.registry.commands import (
    Active,
    Adopt,
    Advance,
    Command,
    Connect,
    Disconnect,
    Evict,
    Idle,
    NodeLost,
    Now,
    Repair,
    SetClaim,
)

P = ParamSpec("P")
R = TypeVar("R")

AHEAD_MS = 1_000


class Expire(NamedTuple):
    """What precedes every command: a claim that is over goes."""


class Rest(NamedTuple):
    """The first half of `Advance`: connections that were silent too long become idle."""


class Depart(NamedTuple):
    """The second half of `Advance`: the linger ends."""


class Entry(NamedTuple):
    what: Command | Expire | Rest | Depart
    stamp_ms: int
    steady_ms: int


class Seen(NamedTuple):
    availability: Availability
    text: str | None
    until_ms: int | None


class NaiveChange(NamedTuple):
    seen: Seen
    last_active_ms: int | None
    cause: Cause


class Loss(NamedTuple):
    due_ms: int
    in_use: bool
    cause: Cause
    ended_ms: int


OFFLINE = Seen(Availability.OFFLINE, None, None)


def remembered(method: Callable[P, R]) -> Callable[P, R]:
    answers: dict[object, R] = {}

    def ask(*args: P.args, **kwargs: P.kwargs) -> R:
        question = (args, *kwargs.values())
        if question not in answers:
            answers[question] = method(*args, **kwargs)
        return answers[question]

    return ask


class Wall:
    """The wall clock as stamps follow it: it stands still where it was set back by up to a second."""

    def __init__(self, started_ms: int) -> None:
        self.latest_ms = started_ms

    def read(self, now: Now) -> int:
        wall_ms = now.unix_us // 1000
        if not wall_ms < self.latest_ms <= wall_ms + AHEAD_MS:
            self.latest_ms = wall_ms
        return self.latest_ms


class Naive:
    """One user. All questions take ``i``: the state before entry ``i``, which is the one after entry ``i - 1``."""

    def __init__(self, grace_ms: int, idle_after_ms: int | None, granularity_ms: int) -> None:
        self.grace_ms = grace_ms
        self.idle_after_ms = idle_after_ms
        self.granularity_ms = granularity_ms
        self.history: list[Entry] = []
        for name in (
            *("change", "seen", "told", "connections", "idle", "claim", "linger", "loss"),
            *("last_active", "held", "row_taken", "was_seen"),
        ):
            setattr(self, name, remembered(getattr(self, name)))

    def apply(self, command: Command, stamp_ms: int, steady_ms: int) -> list[NaiveChange]:
        """Add a command to the history, and return what others see of it."""
        parts: list[Command | Expire | Rest | Depart]
        parts = [Expire(), Rest(), Depart()] if isinstance(command, Advance) else [Expire(), command]
        changes: list[NaiveChange] = []
        for part in parts:
            self.history.append(Entry(part, stamp_ms, steady_ms))
            change = self.change(len(self.history) - 1)
            changes += [] if change is None else [change]
        return changes

    # -- what others see ------------------------------------------------------------------------------------------

    def change(self, i: int) -> NaiveChange | None:
        """Return what entry ``i`` changed for others."""
        before, after = self.baseline(i), self.seen(i + 1)
        entry = self.history[i].what
        last_active_ms = self.last_active(i + 1)
        if before != after:
            return NaiveChange(after, last_active_ms, self.cause(i))
        if isinstance(entry, Active) and after != OFFLINE and entry.connection_id in self.connections(i):
            told_ms = self.told(i)
            if last_active_ms is not None and abs(last_active_ms - (told_ms or 0)) >= self.granularity_ms:
                return NaiveChange(after, last_active_ms, Cause.ACTIVE)
        return None

    def baseline(self, i: int) -> Seen:
        """Return what others had seen before entry ``i``: where it brings a row, that is what the row says."""
        row = self.row_taken(i)
        if row is None:
            return self.seen(i)
        if not row.is_online:
            return OFFLINE
        availability = Availability.ONLINE if row.availability is Availability.OFFLINE else row.availability
        return Seen(availability, row.claim.text, row.claim.until_ms) if row.claim else Seen(availability, None, None)

    def seen(self, i: int) -> Seen:
        return OFFLINE if self.invisible(i) else self.own(i)

    def own(self, i: int) -> Seen:
        connections, linger, claim = self.connections(i), self.linger(i), self.claim(i)
        if not connections and linger is None:
            return OFFLINE
        in_use = linger.in_use if linger else any(not self.idle(each, i) for each in connections)
        availability = Availability.ONLINE if in_use else Availability.AWAY
        if claim and claim.availability in (Claimed.AWAY, Claimed.BUSY):
            availability = Availability(claim.availability.value)
        return Seen(availability, claim.text, claim.until_ms) if claim else Seen(availability, None, None)

    def told(self, i: int) -> int | None:
        """Return the `lastActive` that others know before entry ``i``."""
        if i == 0 or not self.held(i):
            return None
        change, row = self.change(i - 1), self.row_taken(i - 1)
        if change is not None:
            return change.last_active_ms
        if row is None:
            return self.told(i - 1)
        return None if row.last_active_ms is None else min(row.last_active_ms, self.history[i - 1].stamp_ms)

    def cause(self, i: int) -> Cause:
        entry = self.history[i].what
        vanished, appeared = self.invisible(i + 1), self.invisible(i)
        left = bool(self.connections(i + 1))
        match entry:
            case Connect():
                return Cause.CONNECT if self.seen(i) == OFFLINE else Cause.ACTIVE
            case Disconnect():
                return Cause.IDLE if left else Cause(entry.closing.value)
            case Active():
                return Cause.ACTIVE
            case Idle() | Rest():
                return Cause.IDLE
            case SetClaim():
                return Cause.LEFT if vanished else Cause.CONNECT if appeared else Cause.CLAIM
            case Expire():
                return Cause.CONNECT if appeared else Cause.CLAIM_EXPIRED
            case Adopt():
                row = self.row_taken(i)
                assert row is not None
                return Cause.RESTART if row.claim == self.claim(i + 1) else Cause.CLAIM_EXPIRED
            case Evict() | Repair():
                return entry.cause
            case Depart():
                linger = self.linger(i)
                assert linger is not None
                return Cause.IDLE if left else linger.cause
        raise AssertionError(f"nobody else sees {entry}")

    # -- the facts ------------------------------------------------------------------------------------------------

    def connections(self, i: int) -> frozenset[str]:
        if i == 0:
            return frozenset()
        before, entry = self.connections(i - 1), self.history[i - 1].what
        match entry:
            case Connect():
                return before | {entry.connection_id}
            case Disconnect():
                return before - {entry.connection_id}
            case NodeLost():
                return frozenset(each for each in before if self.node(each, i - 1) != entry.node)
            case Evict() if entry.disconnect:
                return frozenset()
        return before

    def node(self, connection: str, i: int) -> str:
        return next(
            entry.what.node
            for entry in reversed(self.history[:i])
            if isinstance(entry.what, Connect) and entry.what.connection_id == connection
        )

    def idle(self, connection: str, i: int) -> bool:
        """Return whether a connection that exists is idle."""
        entry, steady_ms = self.history[i - 1].what, self.history[i - 1].steady_ms
        match entry:
            case Connect() if entry.connection_id == connection:
                if connection in self.connections(i - 1):
                    return self.idle(connection, i - 1)
                return self.resting(i - 1, steady_ms)
            case Active() if entry.connection_id == connection:
                return False
            case Idle() if entry.connection_id == connection:
                return True
            case Rest() if self.idle_after_ms is not None:
                return self.idle(connection, i - 1) or self.used_at(connection, i - 1) + self.idle_after_ms <= steady_ms
        return self.idle(connection, i - 1)

    def used_at(self, connection: str, i: int) -> int:
        return next(
            entry.steady_ms
            for entry in reversed(self.history[:i])
            if isinstance(entry.what, Connect | Active) and entry.what.connection_id == connection
        )

    def resting(self, i: int, steady_ms: int) -> bool:
        """Return whether a new connection takes over the idleness of one that was lost."""
        linger, connections = self.linger(i), self.connections(i)
        if linger is not None:
            return not linger.in_use
        if not connections or any(not self.idle(each, i) for each in connections):
            return False
        return any(
            loss is not None and not loss.in_use and steady_ms < loss.due_ms
            for k in self.since_held(i)
            for loss in [self.loss(k, noticed=False)]
        )

    def claim(self, i: int) -> Claim | None:
        if i == 0:
            return None
        entry = self.history[i - 1]
        if isinstance(entry.what, SetClaim):
            claim = entry.what.claim
        elif (row := self.row_taken(i - 1)) is not None and not self.held(i - 1):
            claim = row.claim
        else:
            claim = self.claim(i - 1)
        if claim is None or (claim.availability is None and claim.text is None):
            return None
        return claim if claim.until_ms is None or claim.until_ms > entry.stamp_ms else None

    def invisible(self, i: int) -> bool:
        claim = self.claim(i)
        return claim is not None and claim.availability is Claimed.INVISIBLE

    def linger(self, i: int) -> Loss | None:
        if i == 0 or self.invisible(i):
            return None
        loss = self.loss(i - 1, noticed=True)
        if loss is not None:
            return loss
        before, entry = self.linger(i - 1), self.history[i - 1]
        connections = self.connections(i - 1)
        match entry.what:
            case Connect():
                return before if entry.what.connection_id in connections else None
            case Active() if entry.what.connection_id in connections:
                return None
            case Disconnect() if entry.what.connection_id in connections and not self.connections(i):
                return None
            case Evict():
                return before if connections and not entry.what.disconnect else None
            case Depart() if before is not None and before.due_ms <= entry.steady_ms:
                return None
        return before

    def loss(self, i: int, *, noticed: bool) -> Loss | None:
        """Return the unclean end that entry ``i`` was for this user, if others would notice it, or in any case."""
        entry = self.history[i]
        if isinstance(entry.what, Adopt):
            row = self.row_taken(i)
            if row is None or not row.is_online or self.invisible(i + 1):
                return None
            asked_for = row.claim is not None and row.claim.availability is Claimed.AWAY
            in_use = asked_for or row.availability is not Availability.AWAY
            ended_ms = min(entry.what.last_beat_ms, entry.stamp_ms)
            return Loss(entry.steady_ms + entry.what.grace_ms, in_use, Cause.RESTART, ended_ms)
        before, after = self.connections(i), self.connections(i + 1)
        if before <= after or isinstance(entry.what, Evict) or (not after and self.invisible(i + 1)):
            return None
        cause = Cause.NODE_LOST
        if isinstance(entry.what, Disconnect):
            cause = Cause(entry.what.closing.value)
            if entry.what.closing is Closing.LEFT:
                return None
        linger = self.linger(i)
        lost_use = any(not self.idle(each, i) for each in before - after)
        still_in_use = any(not self.idle(each, i) for each in after)
        in_use = lost_use or still_in_use or (linger is not None and linger.in_use)
        if noticed and after and (still_in_use or not lost_use):
            return None
        return Loss(entry.steady_ms + self.grace_ms, in_use, cause, self.ended(i))

    # -- last active ----------------------------------------------------------------------------------------------

    def last_active(self, i: int) -> int | None:
        if i == 0:
            return None
        latest_ms = self.last_active(i - 1) if self.held(i - 1) else None
        for moment_ms in self.moments(i - 1):
            if latest_ms is None or not moment_ms <= latest_ms <= self.history[i - 1].stamp_ms + AHEAD_MS:
                latest_ms = moment_ms
        return latest_ms

    def ended(self, i: int) -> int:
        """Return when what entry ``i`` ended was over."""
        entry = self.history[i]
        return min(entry.what.last_beat_ms, entry.stamp_ms) if isinstance(entry.what, NodeLost) else entry.stamp_ms

    def moments(self, i: int) -> Iterator[int]:
        """Yield the times of activity that entry ``i`` adds."""
        entry, connections = self.history[i], self.connections(i)
        was_invisible, is_invisible = self.invisible(i), self.invisible(i + 1)
        row = self.row_taken(i)
        is_news = not self.held(i) or self.last_active(i) is None
        if row is not None and row.last_active_ms is not None and is_news:
            yield min(row.last_active_ms, entry.stamp_ms)  # one that is still to come is taken for now
        if is_invisible and (was_invisible or not isinstance(entry.what, SetClaim)):
            return
        match entry.what:
            case Connect():
                if not self.idle(entry.what.connection_id, i + 1):
                    yield entry.stamp_ms
            case Active() if entry.what.connection_id in connections:
                yield entry.stamp_ms
            case SetClaim() if connections:
                yield entry.stamp_ms
            case Expire() if was_invisible and not is_invisible and connections:
                yield entry.stamp_ms
            case Adopt() if (loss := self.linger(i + 1)) is not None and row is not None and loss.in_use:
                yield loss.ended_ms
        before, after = self.linger(i), self.linger(i + 1)
        if connections and not self.connections(i + 1) and (after is None or after.in_use):
            yield self.ended(i)
        if before is not None and not connections and after is None and not self.connections(i + 1):
            yield before.ended_ms  # of an idle one only now, since they might have come back

    # -- memory ---------------------------------------------------------------------------------------------------

    def held(self, i: int) -> bool:
        if i == 0:
            return False
        return bool(self.connections(i)) or self.linger(i) is not None or self.claim(i) is not None

    def since_held(self, i: int) -> Iterator[int]:
        """Yield the entries since the user was last forgotten, latest first."""
        for k in range(i - 1, -1, -1):
            yield k
            if not self.held(k):
                return

    def row_taken(self, i: int) -> StoredUser | None:
        """Return the row that entry ``i`` brings for a user of whom nothing was known."""
        entry = self.history[i].what
        if not isinstance(entry, Adopt | Repair):
            return None
        is_known = self.held(i) if isinstance(entry, Adopt) else self.was_seen(i)
        return None if is_known else entry.row

    def was_seen(self, i: int) -> bool:
        """Return whether there was a change or a row for this user since they were last forgotten."""
        return self.held(i) and any(
            self.change(k) is not None or self.row_taken(k) is not None for k in self.since_held(i)
        )
