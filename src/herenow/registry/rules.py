"""Who is present, and how others see them: the policy of herenow as a pure state machine.

Commands and the time go in, changes and rows come out. No clock, no I/O, no asyncio, no randomness: the same history
gives the same answer. The law, each clause by the name that the code and the tests give it:

Present. A user is present while they have a connection, or linger. An end on purpose (`left`, `Evict`) counts at once.
  Any other end that others would notice counts only after the grace; until then the user *lingers*, and looks as
  before: it is noticed where it was the user's last connection, or the last one in use. A connection that comes within
  the grace ends the linger without a trace, so that a reload or a short loss of the network is not seen at all. Only
  `Advance` ends it for good: a reconnect that a stalled event loop handles late, but before the expiry, is in time.
Availability. Offline when not present; else what the claim says (`away`, `busy`); else away when every connection is
  idle; else online. A new connection is in use. But one that replaces another with the same id is as idle as that one,
  and one that comes to an idle user within the grace of an unclean end that left them so is idle too: it is the lost
  one, come back. A phone that changes its network in a pocket, or two idle tabs that do so together, are not in use.
Claims. A claim lives until it is replaced, given up, or past its `until_ms` on the wall clock, whatever becomes of the
  connections. An expired one is gone before any other command is looked at. Its text is shown while the user is online.
Invisible. To others, invisibility is absence, and no trace tells the two apart: going invisible reads as leaving
  (offline, cause `left`), coming back as connecting (online, cause `connect`). In between nothing moves, `lastActive`
  least of all; and nobody lingers, since nobody would notice. Their own view tells the truth.
Last active. The latest of a connect of a device in use, activity, a claim made while connected (one made on behalf of
  an absent user is not their doing), reappearing, and the end of the last connection: the moment it closed, not that of
  the linger's expiry; and only once the user has not come back. So an idle device that only reconnects does not move
  it. It never runs backwards, but for one that lies ahead of the clock: that was wrong, and the next activity mends it;
  one that the store has and that is still to come is taken for now. Between changes it is told to others only when
  activity has moved it by the granularity.
Changes. There is a change exactly when something that others see is different; a view is always the latest change.
  So whoever applies the changes to a snapshot has the next snapshot. A claim that others cannot see yields a row alone.
Eviction. Never offline while a connection exists, so evicting a connected user removes the connections as well. If one
  still lives, it is a stranger from then on: what it sends is nothing, and whoever evicted it must close it.
Clocks. Grace and idleness are measured on the steady clock. Stamps follow the wall clock; where that was set back, they
  stand still until it has caught up. Set back by more than a second, it is believed: what was wrong was the time
  before, and nothing that is stamped freezes for the length of the jump. Versions go on from the highest all the same.
Versions. `max(last + 1, stamp in µs)`, one sequence for all users, beginning above whatever the store holds.
Memory. A user who is not present and claims nothing is forgotten: the store knows them.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from msgspec.structs import replace

from herenow.model import Availability, Cause, Change, Claim, Claimed, Closing, Connection, StoredUser, UserPresence
from herenow.registry.commands import (
    Active,
    Adopt,
    Advance,
    Command,
    Connect,
    Disconnect,
    Effects,
    Evict,
    Idle,
    NodeLost,
    Now,
    Repair,
    SetClaim,
)
from herenow.registry.deadlines import Deadlines
from herenow.registry.recency import Entry, Recency
from herenow.registry.state import AHEAD_MS, Linger, Look, OpenConnection, User, presence, seen_in
from herenow.times import LATEST_MS

CLOCK_REPAIR_US = AHEAD_MS * 1000
"""A wall clock set back by more than this was wrong before, and is believed now. By less, it is only being trimmed."""

_CAUSE_OF = {
    Closing.LEFT: Cause.LEFT,
    Closing.CLOSED: Cause.CLOSED,
    Closing.TIMEOUT: Cause.TIMEOUT,
    Closing.ERROR: Cause.ERROR,
}


class _Step:
    """One command under way: its time, and what it has done so far."""

    __slots__ = ("changes", "evicted", "now", "rows", "stamp_ms")

    def __init__(self, now: Now, stamp_ms: int) -> None:
        self.now = now
        self.stamp_ms = stamp_ms
        self.changes: list[Change] = []
        self.rows: list[StoredUser] = []
        self.evicted: list[Connection] = []


class Rules:
    """The state, and the one way to alter it: :meth:`apply`. What the other methods return is immutable."""

    def __init__(
        self,
        grace_ms: int,
        *,
        last_version: int = 0,
        idle_after_ms: int | None = None,
        last_active_granularity_ms: int = 60_000,
    ) -> None:
        """Begin with nobody.

        Args:
            grace_ms: how long a user lingers, above 0.
            last_version: the highest version that the store has ever held; all that come are above it.
            idle_after_ms: a connection without `Active` for so long is idle; `None`: only the client says so.
            last_active_granularity_ms: activity is told to others when `lastActive` has moved by this much, above 0.
        """
        self._grace_ms = grace_ms
        self._idle_after_ms = idle_after_ms
        self._granularity_ms = last_active_granularity_ms
        self._version = last_version
        self._stamp_us = last_version  # the wall clock, but for its steps back
        self._users: dict[str, User] = {}
        self._connections: dict[str, OpenConnection] = {}
        self._lingers = Deadlines()  # by user, steady clock
        self.lingers_saved = 0
        self._idles = Deadlines()  # by connection, steady clock
        self._claims = Deadlines()  # by user, wall clock
        self._recency = Recency()
        self._counts = dict.fromkeys(Availability, 0)
        self._handlers: Mapping[type[Command], Callable[[Any, _Step], None]] = {
            Connect: self._connect,
            Disconnect: self._disconnect,
            Active: self._active,
            Idle: self._idle,
            SetClaim: self._set_claim,
            NodeLost: self._node_lost,
            Evict: self._evict,
            Adopt: self._adopt,
            Repair: self._repair,
            Advance: self._advance,
        }

    def apply(self, command: Command, now: Now) -> Effects:
        """Apply one command, whole, and return what it did.

        Args:
            now: the time of the command. Its steady clock never goes back; its wall clock may.
        """
        if not now.unix_us < self._stamp_us <= now.unix_us + CLOCK_REPAIR_US:
            self._stamp_us = now.unix_us
        step = _Step(now, self._stamp_us // 1000)
        for user_id in self._claims.pop_due(now.unix_us // 1000):
            self._put_claim(self._users[user_id], None, Cause.CLAIM_EXPIRED, step)
        self._handlers[type(command)](command, step)
        return Effects(step.changes, step.rows, step.evicted)

    # -- what it can be asked ---------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The latest version given out."""
        return self._version

    @property
    def held(self) -> int:
        """How many users are in memory: those who are present, and those who claim something."""
        return len(self._users)

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def user_ids(self) -> tuple[str, ...]:
        """Return the ids of all users in memory."""
        return tuple(self._users)

    def count(self, availability: Availability) -> int:
        """Return how many users others see so, in O(1). For ``OFFLINE``: of those in memory."""
        return self._counts[availability]

    def view(self, user_id: str) -> UserPresence | None:
        """Return the user as others see them: the latest change. ``None``: not known here, ask the store."""
        user = self._users.get(user_id)
        return None if user is None else user.shown

    def holds(self, user_id: str) -> bool:
        """Tell whether the user is in memory."""
        return user_id in self._users

    def row_of(self, user_id: str) -> StoredUser | None:
        """Return what the store is to say of the user, with the version of :meth:`view`; ``None``: not known here."""
        user = self._users.get(user_id)
        return None if user is None else user.row(0 if user.shown is None else user.shown.version)

    def own_view(self, user_id: str) -> UserPresence | None:
        """Return the user as their own connections see them. ``None``: neither present nor claiming anything.

        Invisibility does not hide here, and ``last_active_ms`` is exact. The version is that of :meth:`view`.
        """
        user = self._users.get(user_id)
        if user is None:
            return None
        version = 0 if user.shown is None else user.shown.version
        return presence(user_id, user.look(to_others=False), user.last_active_ms, version)

    def claim_of(self, user_id: str) -> Claim | None:
        """Return what the user asked to be."""
        user = self._users.get(user_id)
        return None if user is None else user.claim

    def linger_of(self, user_id: str) -> tuple[int, Cause] | None:
        """Return when (steady clock, ms) the user's linger ends, and how it began; ``None``: they do not linger."""
        due_ms = self._lingers.due_of(user_id)
        linger = None if due_ms is None else self._users[user_id].linger
        return None if due_ms is None or linger is None else (due_ms, linger.cause)

    def connection_ids(self) -> tuple[str, ...]:
        """Return the ids of all connections."""
        return tuple(self._connections)

    def connections_of(self, user_id: str) -> tuple[Connection, ...]:
        """Return the user's connections, oldest first."""
        user = self._users.get(user_id)
        return () if user is None else tuple(connection.describe() for connection in user.connections.values())

    def online(self, limit: int, before: Entry | None = None) -> list[UserPresence]:
        """Return who is online, most recently active first: ``limit`` users, after the place that ``before`` marks."""
        entries = islice(self._recency.newest_first(before), limit)
        return [shown for _, user_id in entries if (shown := self._users[user_id].shown) is not None]

    def wait_ms(self, now: Now) -> int | None:
        """Return in how many milliseconds something falls due, if the clocks run evenly; ``None``: nothing will."""
        dues = [
            due_ms - clock_ms
            for deadlines, clock_ms in (
                (self._lingers, now.steady_ms),
                (self._idles, now.steady_ms),
                (self._claims, now.unix_us // 1000),
            )
            if (due_ms := deadlines.next_due()) is not None
        ]
        return max(0, min(dues)) if dues else None

    # -- one method per command -------------------------------------------------------------------------------------

    def _connect(self, command: Connect, step: _Step) -> None:
        replaced = self._connections.get(command.connection_id)
        if replaced is not None and replaced.user.user_id != command.user_id:
            self._end(replaced.user, [replaced], Cause.CLOSED, step.stamp_ms, step)
            replaced = None
        user = self._hold(command.user_id)
        if replaced is not None:
            idle = replaced.idle  # the same session, said again
        else:
            idle = user.is_resting(step.now.steady_ms)
            self.lingers_saved += user.linger is not None
            self._end_linger(user)
        connection = OpenConnection(
            user,
            command.connection_id,
            command.node,
            command.transport,
            command.address,
            step.stamp_ms,
            last_activity_ms=user.last_active_ms if idle else None,
            idle=idle,
        )
        user.connections[command.connection_id] = connection
        self._connections[command.connection_id] = connection
        self._watch_idleness(connection, step)
        if not idle:
            user.touch(step.stamp_ms, step.stamp_ms)
        self._settle(user, Cause.ACTIVE if user.is_shown_online() else Cause.CONNECT, step)

    def _disconnect(self, command: Disconnect, step: _Step) -> None:
        connection = self._connections.get(command.connection_id)
        if connection is not None:
            grace = command.closing is not Closing.LEFT
            self._end(connection.user, [connection], _CAUSE_OF[command.closing], step.stamp_ms, step, grace=grace)

    def _active(self, command: Active, step: _Step) -> None:
        connection = self._connections.get(command.connection_id)
        if connection is None:
            return
        user = connection.user
        connection.idle = False
        connection.last_activity_ms = step.stamp_ms
        self._end_linger(user)
        self._watch_idleness(connection, step)
        user.touch(step.stamp_ms, step.stamp_ms)
        if not self._settle(user, Cause.ACTIVE, step) and self._is_activity_news(user):
            self._publish(user, user.look(to_others=True), Cause.ACTIVE, step)

    def _idle(self, command: Idle, step: _Step) -> None:
        connection = self._connections.get(command.connection_id)
        if connection is not None:
            self._rest(connection, step)

    def _set_claim(self, command: SetClaim, step: _Step) -> None:
        self._put_claim(self._hold(command.user_id), _living(command.claim, step.now), Cause.CLAIM, step)

    def _node_lost(self, command: NodeLost, step: _Step) -> None:
        ended_ms = min(command.last_beat_ms, step.stamp_ms)
        for user in self._those(command.user_ids):
            lost = [connection for connection in user.connections.values() if connection.node == command.node]
            if lost:
                self._end(user, lost, Cause.NODE_LOST, ended_ms, step)

    def _evict(self, command: Evict, step: _Step) -> None:
        for user in self._those(command.user_ids):
            if user.connections and not command.disconnect:
                continue
            self._depart(user, step)
            if user.connections:
                step.evicted.extend(self.connections_of(user.user_id))
                self._end(user, list(user.connections.values()), command.cause, step.stamp_ms, step, grace=False)
            else:
                self._settle(user, command.cause, step)

    def _adopt(self, command: Adopt, step: _Step) -> None:
        ended_ms = min(command.last_beat_ms, step.stamp_ms)
        for stored in command.rows:
            if stored.user_id in self._users:
                continue  # came back before the row was read: the registry knows better
            row = _believable(stored, step)
            looks = seen_in(row)
            user = self._admit(row, looks, step)
            if row.is_online and not user.is_invisible():
                # Nobody wrote down which devices were idle. Away without having asked for it means: all of them.
                asked_for = row.claim is not None and row.claim.availability is Claimed.AWAY
                in_use = asked_for or row.availability is not Availability.AWAY
                self._linger(user, Linger(in_use, Cause.RESTART, ended_ms), command.grace_ms, step)
            expired = user.claim != row.claim
            self._settle(
                user,
                Cause.CLAIM_EXPIRED if expired else Cause.RESTART,
                step,
                row_changed=expired or looks.availability is not row.availability or row is not stored,
            )

    def _repair(self, command: Repair, step: _Step) -> None:
        for row in command.rows:
            self._version = max(self._version, row.version)
            row = _believable(row, step)
            user = self._users.get(row.user_id)
            if user is None:
                user = self._admit(row, seen_in(row), step)
            elif user.shown is None:
                self._show(user, seen_in(row))
                user.last_active_ms = row.last_active_ms if user.last_active_ms is None else user.last_active_ms
            if not self._settle(user, command.cause, step):
                self._write(user, step)

    def _advance(self, command: Advance, step: _Step) -> None:
        for connection_id in self._idles.pop_due(step.now.steady_ms, command.limit):
            self._rest(self._connections[connection_id], step)
        for user_id in self._lingers.pop_due(step.now.steady_ms, command.limit):
            user = self._users[user_id]
            linger = user.linger
            if linger is None:
                raise AssertionError("a linger fell due for a user who does not linger")
            self._depart(user, step)
            self._settle(user, Cause.IDLE if user.connections else linger.cause, step)

    # -- the steps they are made of ---------------------------------------------------------------------------------

    def _those(self, user_ids: tuple[str, ...] | None) -> Iterator[User]:
        """Walk through the users of these ids (``None``: all) who are held, each still held when it comes."""
        for user_id in self.user_ids() if user_ids is None else user_ids:
            user = self._users.get(user_id)
            if user is not None:
                yield user

    def _hold(self, user_id: str) -> User:
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = User(user_id)
        return user

    def _admit(self, row: StoredUser, looks: UserPresence, step: _Step) -> User:
        """Take a user in as the store knows them, looking as it says."""
        self._version = max(self._version, row.version)
        user = self._hold(row.user_id)
        user.last_active_ms = row.last_active_ms
        self._show(user, looks)
        user.claim = _living(row.claim, step.now)
        self._watch_claim(user)
        return user

    def _end(
        self,
        user: User,
        connections: list[OpenConnection],
        cause: Cause,
        ended_ms: int,
        step: _Step,
        *,
        grace: bool = True,
    ) -> None:
        """Take connections of one user away, as of ``ended_ms``."""
        lost_use = False
        for connection in connections:
            del user.connections[connection.connection_id]
            del self._connections[connection.connection_id]
            self._idles.cancel(connection.connection_id)
            lost_use = lost_use or not connection.idle
        if not user.connections:
            if not grace or user.is_invisible():
                user.touch(ended_ms, step.stamp_ms)
                self._end_linger(user)
            else:
                in_use = lost_use or (user.linger is not None and user.linger.in_use)
                self._linger(user, Linger(in_use, cause, ended_ms), self._grace_ms, step)
            self._settle(user, cause, step)
        else:
            if grace and not user.is_in_use() and user.linger is None:
                if lost_use and not user.is_invisible():
                    self._linger(user, Linger(True, cause, ended_ms), self._grace_ms, step)
                elif not lost_use:
                    user.rest_until(step.now.steady_ms + self._grace_ms)
            self._settle(user, Cause.IDLE, step)

    def _linger(self, user: User, linger: Linger, grace_ms: int, step: _Step) -> None:
        due_ms = step.now.steady_ms + grace_ms
        user.linger = linger
        if linger.in_use and not user.connections:
            user.touch(linger.ended_ms, step.stamp_ms)
        self._lingers.set(user.user_id, due_ms)
        if not linger.in_use:
            user.rest_until(due_ms)

    def _depart(self, user: User, step: _Step) -> None:
        """End a linger because the user does not come back: so it was that end which they were last active at."""
        if user.linger is not None and not user.connections:
            user.touch(user.linger.ended_ms, step.stamp_ms)
        self._end_linger(user)

    def _end_linger(self, user: User) -> None:
        if user.linger is not None:
            user.linger = None
            self._lingers.cancel(user.user_id)

    def _rest(self, connection: OpenConnection, step: _Step) -> None:
        connection.idle = True
        self._idles.cancel(connection.connection_id)
        self._settle(connection.user, Cause.IDLE, step)

    def _watch_idleness(self, connection: OpenConnection, step: _Step) -> None:
        if self._idle_after_ms is not None:
            self._idles.set(connection.connection_id, step.now.steady_ms + self._idle_after_ms)

    def _put_claim(self, user: User, claim: Claim | None, cause: Cause, step: _Step) -> None:
        before, was_invisible = user.claim, user.is_invisible()
        is_own_doing = bool(user.connections) and cause is Cause.CLAIM
        # Going invisible is the last activity that shows, reappearing the first: touch() on both sides of the step,
        # and it stands still where the user is invisible.
        if is_own_doing:
            user.touch(step.stamp_ms, step.stamp_ms)
        if claim is not None and claim.availability is Claimed.INVISIBLE:
            self._depart(user, step)
        user.claim = claim
        self._watch_claim(user)
        if is_own_doing or (was_invisible and user.connections):
            user.touch(step.stamp_ms, step.stamp_ms)
        if user.is_invisible():
            cause = Cause.LEFT
        elif was_invisible:
            cause = Cause.CONNECT
        self._settle(user, cause, step, row_changed=claim != before)

    def _watch_claim(self, user: User) -> None:
        if user.claim is None or user.claim.until_ms is None:
            self._claims.cancel(user.user_id)
        else:
            self._claims.set(user.user_id, user.claim.until_ms)

    def _is_activity_news(self, user: User) -> bool:
        shown = user.shown
        if shown is None or not shown.is_online or user.last_active_ms is None:
            return False
        return abs(user.last_active_ms - (shown.last_active_ms or 0)) >= self._granularity_ms

    def _settle(self, user: User, cause: Cause, step: _Step, *, row_changed: bool = False) -> bool:
        """Tell what looks different now, and forget a user of whom nothing is left. Return whether it does."""
        look = user.look(to_others=True)
        changed = look != user.last_look()
        if changed:
            self._publish(user, look, cause, step)
        elif row_changed:
            self._write(user, step)
        if user.claim is None and not user.is_present():
            if user.shown is not None:
                self._counts[Availability.OFFLINE] -= 1
            del self._users[user.user_id]
        return changed

    def _publish(self, user: User, look: Look, cause: Cause, step: _Step) -> None:
        version = self._next_version()
        shown = presence(user.user_id, look, user.last_active_ms, version)
        self._show(user, shown)
        step.changes.append(
            Change(
                shown.user_id,
                shown.is_online,
                shown.availability,
                shown.last_active_ms,
                shown.status_text,
                shown.status_until_ms,
                version,
                cause,
            )
        )
        step.rows.append(user.row(version))

    def _write(self, user: User, step: _Step) -> None:
        step.rows.append(user.row(self._next_version()))

    def _show(self, user: User, shown: UserPresence) -> None:
        """Make this what others see, in the counts and in the order of activity too."""
        before, user.shown = user.shown, shown
        if before is not None:
            self._counts[before.availability] -= 1
            if before.is_online:
                self._recency.remove(place_of(before))
        self._counts[shown.availability] += 1
        if shown.is_online:
            self._recency.add(place_of(shown))

    def stamp(self, now: Now) -> int:
        """Give out a version that no change has: above all before it, below all after it."""
        self._stamp_us = max(self._stamp_us, now.unix_us)
        return self._next_version()

    def _next_version(self) -> int:
        # From the stamp, not from the wall clock: so no `lastActive` is later than the version that tells of it, and a
        # new process, which begins above the highest stored version, begins above every stored `lastActive` too.
        self._version = max(self._version + 1, self._stamp_us)
        return self._version


def place_of(shown: UserPresence) -> Entry:
    """Return where a user stands among those online: by last activity, then by id."""
    return shown.last_active_ms or 0, shown.user_id


def _believable(row: StoredUser, step: _Step) -> StoredUser:
    """Return the row with a `lastActive` that is not still to come: a clock gave it that was wrong, or no clock."""
    if row.last_active_ms is None or row.last_active_ms <= step.stamp_ms:
        return row
    return replace(row, last_active_ms=step.stamp_ms)


def _living(claim: Claim | None, now: Now) -> Claim | None:
    """Return the claim if it asks for something and has not expired; it ends at a time that can be written."""
    if claim is None or (claim.availability is None and claim.text is None):
        return None
    if claim.until_ms is None or LATEST_MS >= claim.until_ms > now.unix_us // 1000:
        return claim
    return replace(claim, until_ms=LATEST_MS) if claim.until_ms > LATEST_MS else None
