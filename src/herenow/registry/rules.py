"""Who is present, and how others see them: the policy of herenow as one pure function, :func:`decide`.

One user, a command and the time go in; what others see of it, and what the store is to know, come out. No clock, no
I/O, no asyncio, no randomness, and nothing is remembered but the user: the same history gives the same answer. What
concerns all users at once (versions, counts, what falls due) is in ``ledger.py``.

The law, each clause by the name that the code and the tests give it:

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
  connections. An expired one is gone before anything else is done to its user. Its text is shown while they are online.
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
Awaited. A node that is gone may come back with its connections, within a grace of its own. Until then as many are
  awaited as it had of the user, less those that have come since; and meanwhile the end of the user's last connection,
  on purpose or not, is followed by what is left of that grace: they may be there all the while.
Eviction. Never offline while a connection exists, so evicting a connected user removes the connections as well. If one
  still lives, it is a stranger from then on: what it sends is nothing, and whoever evicted it must close it.
Clocks. Grace and idleness are measured on the steady clock, claims and stamps on the wall clock as the ledger gives it.
Memory. A user who is not present and claims nothing is forgotten: the store knows them.
"""

from typing import Any

import msgspec
from msgspec.structs import replace

from herenow.model import Availability, Cause, Claim, Claimed, Closing, Evicted, StoredUser
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
    Retell,
    SetClaim,
)
from herenow.registry.state import Awaited, HeldUser, Linger, Look, OpenConnection, Shown, shown_in
from herenow.times import LATEST_MS

_CAUSE_OF = {
    Closing.LEFT: Cause.LEFT,
    Closing.CLOSED: Cause.CLOSED,
    Closing.TIMEOUT: Cause.TIMEOUT,
    Closing.ERROR: Cause.ERROR,
}


class Policy(msgspec.Struct, frozen=True):
    """How long things last.

    Args:
        grace_ms: how long a user lingers, above 0.
        idle_after_ms: a connection without `Active` for so long is idle; `None`: only the client says so.
        last_active_granularity_ms: activity is told to others when `lastActive` has moved by this much, above 0.
    """

    grace_ms: int
    idle_after_ms: int | None = None
    last_active_granularity_ms: int = 60_000


class Shift(msgspec.Struct, frozen=True, gc=False):
    """A change that has no version yet: how others see the user from now on, and why."""

    shown: Shown
    cause: Cause


class Decision(msgspec.Struct, gc=False):
    """What a command does, beside what it makes of the user.

    Attributes:
        changes: what others see of it, oldest first.
        row: whether the store must be told: of each change, and of a claim or of a wrong row without one.
        evicted: connections that were removed although they may still live.
        connections: how many connections there are more, or less.
        above: a version of the store's that all to come must be above. Where the user has a look that no change gave
            them, it is the store's, and has this version.
        saved_linger: whether this is a connection that came within the grace: what nobody saw.
    """

    changes: tuple[Shift, ...] = ()
    row: bool = False
    evicted: tuple[Evicted, ...] = ()
    connections: int = 0
    above: int = 0
    saved_linger: bool = False


def decide(user: HeldUser, command: Command, now: Now, policy: Policy) -> Decision:
    """Do a command to a user, whole.

    Args:
        user: whose the command is, altered in place; a new one where nobody of this id is held. If they are gone
            afterwards (:meth:`User.is_gone`), forget them.
        command: what is done.
        now: the time of it. Its steady clock never goes back; its wall clock may.
        policy: how long things last.
    """
    case = _Case(user=user, now_ms=now.unix_us // 1000, steady_ms=now.steady_ms, policy=policy)
    claim = user.claim
    if claim is not None and claim.until_ms is not None and claim.until_ms <= case.now_ms:
        case.put_claim(None, Cause.CLAIM_EXPIRED)
        if user.is_gone():
            user.forget()
    _DO[type(command)](case, command)
    return case


class _Case(Decision, kw_only=True, gc=False):
    """A decision under way."""

    user: HeldUser
    now_ms: int
    steady_ms: int
    policy: Policy

    # -- one method per command -------------------------------------------------------------------------------------

    def connect(self, command: Connect) -> None:
        user = self.user
        replaced = user.connections.get(command.connection_id)
        if replaced is not None:
            idle = replaced.idle or command.is_idle  # the same session, said again
        else:
            idle = command.is_idle or user.is_resting(self.steady_ms)
            self.connections = 1
            self.saved_linger = user.linger is not None
            user.linger = None
            user.awaited = None if user.awaited is None else user.awaited.less_one()
        connection = OpenConnection(
            command.connection_id,
            command.node,
            command.transport,
            command.address,
            self.now_ms,
            last_activity_ms=user.last_active_ms if idle else None,
            idle=idle,
        )
        user.connections[command.connection_id] = connection
        if not idle:
            self.use(connection)
        use = Cause.IDLE if idle else Cause.ACTIVE
        self.settle(use if user.is_shown_online() else Cause.CONNECT)

    def disconnect(self, command: Disconnect) -> None:
        connection = self.user.connections.get(command.connection_id)
        if connection is not None:
            grace_ms = None if command.closing is Closing.LEFT else self.policy.grace_ms
            self.end([connection], _CAUSE_OF[command.closing], self.now_ms, grace_ms)

    def active(self, command: Active) -> None:
        user = self.user
        connection = user.connections.get(command.connection_id)
        if connection is None:
            return
        connection.idle = False
        connection.last_activity_ms = self.now_ms
        user.linger = None
        self.use(connection)
        if not self.settle(Cause.ACTIVE) and self.is_activity_news():
            self.show(user.look(to_others=True), Cause.ACTIVE)

    def idle(self, command: Idle) -> None:
        connection = self.user.connections.get(command.connection_id)
        if connection is not None:
            _rest(connection)
            self.settle(Cause.IDLE)

    def set_claim(self, command: SetClaim) -> None:
        self.put_claim(self.living(command.claim), Cause.CLAIM)

    def node_lost(self, command: NodeLost) -> None:
        lost = [connection for connection in self.user.connections.values() if connection.node == command.node]
        if lost:
            grace_ms = self.policy.grace_ms if command.grace_ms is None else command.grace_ms
            self.end(lost, command.cause, min(command.last_beat_ms, self.now_ms), grace_ms)
        if lost and command.may_return and self.user.is_present():
            in_use = any(not connection.idle for connection in lost)
            self.user.awaited = Awaited(len(lost), in_use, self.steady_ms + grace_ms)

    def evict(self, command: Evict) -> None:
        user = self.user
        if user.connections and not command.disconnect:
            return
        self.depart()
        if user.connections:
            connections = list(user.connections.values())
            self.evicted = tuple(connection.evict(user.user_id, command.cause) for connection in connections)
            self.end(connections, command.cause, self.now_ms, None)
        else:
            self.settle(command.cause)

    def adopt(self, command: Adopt) -> None:
        user, stored = self.user, command.row
        if not user.is_gone():
            return  # came back before the row was read: the registry knows better
        row = self.believable(stored)
        self.admit(row)
        if row.is_online and not user.is_invisible():
            # Nobody wrote down which devices were idle. Away without having asked for it means: all of them.
            asked_for = row.claim is not None and row.claim.availability is Claimed.AWAY
            in_use = asked_for or row.availability is not Availability.AWAY
            self.linger(in_use, Cause.RESTART, min(command.last_beat_ms, self.now_ms), command.grace_ms)
        expired = user.claim != row.claim
        is_odd = user.last_look()[0] is not row.availability or row is not stored
        self.settle(Cause.CLAIM_EXPIRED if expired else Cause.RESTART, is_row_new=expired or is_odd)

    def repair(self, command: Repair) -> None:
        user, row = self.user, self.believable(command.row)
        self.above = row.version
        if user.is_gone():
            self.admit(row)
        elif user.shown is None:
            user.shown = shown_in(row)
            user.last_active_ms = row.last_active_ms if user.last_active_ms is None else user.last_active_ms
        self.settle(command.cause, is_row_new=True)

    def retell(self, command: Retell) -> None:
        user, row = self.user, command.row
        self.above = row.version
        if user.is_gone():
            return
        user.shown = shown_in(row)
        if row.is_online and not user.connections and not user.is_invisible():
            if user.linger is None or user.linger.due_ms < self.steady_ms + command.grace_ms:
                in_use = row.availability is not Availability.AWAY
                self.linger(in_use, Cause.RESTART, self.now_ms, command.grace_ms)
        elif not row.is_online and not user.is_invisible():
            self.depart()
            told_ms = row.version // 1000
            if over := [each for each in user.connections.values() if each.opened_ms <= told_ms]:
                self.end(over, Cause.REPAIR, told_ms, None)
        look = user.look(to_others=True)
        if not self.changes or self.changes[-1].shown.look != look:  # some may have heard nothing of it
            self.show(look, Cause.REPAIR)

    def advance(self, _: Advance) -> None:
        user, has_rested = self.user, False
        for connection in user.connections.values():
            if connection.idle_due_ms is not None and connection.idle_due_ms <= self.steady_ms:
                _rest(connection)
                has_rested = True
        if has_rested:
            self.settle(Cause.IDLE)
        linger = user.linger
        if linger is not None and linger.due_ms <= self.steady_ms:
            self.depart()
            self.settle(Cause.IDLE if user.connections else linger.cause)

    # -- the steps they are made of ---------------------------------------------------------------------------------

    def admit(self, row: StoredUser) -> None:
        """Take the user in as the store knows them, looking as it says."""
        user = self.user
        self.above = row.version
        user.last_active_ms = row.last_active_ms
        user.shown = shown_in(row)
        user.claim = self.living(row.claim)

    def use(self, connection: OpenConnection) -> None:
        """Note that a connection is in use."""
        if self.policy.idle_after_ms is not None:
            connection.idle_due_ms = self.steady_ms + self.policy.idle_after_ms
        self.user.touch(self.now_ms, self.now_ms)

    def end(self, connections: list[OpenConnection], cause: Cause, ended_ms: int, grace_ms: int | None) -> None:
        """Take some of the connections away, as of ``ended_ms``, with this grace; ``None``: on purpose."""
        user, grace = self.user, grace_ms or 0
        lost_use = False
        self.connections = -len(connections)
        for connection in connections:
            del user.connections[connection.connection_id]
            lost_use = lost_use or not connection.idle
        if not user.connections:
            awaited_ms = 0 if user.awaited is None else user.awaited.until_ms - self.steady_ms
            if (grace_ms is None and awaited_ms <= 0) or user.is_invisible():
                user.touch(ended_ms, self.now_ms)
                user.linger = None
            else:
                in_use = (lost_use and grace_ms is not None) or (user.linger is not None and user.linger.in_use)
                if user.awaited is not None and awaited_ms > grace:
                    in_use, cause, grace = in_use or user.awaited.in_use, Cause.NODE_LOST, awaited_ms
                self.linger(in_use, cause, ended_ms, grace)
            user.awaited = None
            self.settle(cause)
        else:
            if grace_ms is not None and not user.is_in_use() and user.linger is None:
                if lost_use and not user.is_invisible():
                    self.linger(True, cause, ended_ms, grace)
                elif not lost_use:
                    user.rest_until(self.steady_ms + grace)
            self.settle(Cause.IDLE)

    def linger(self, in_use: bool, cause: Cause, ended_ms: int, grace_ms: int) -> None:
        """Let the user have the grace."""
        user, due_ms = self.user, self.steady_ms + grace_ms
        user.linger = Linger(in_use, cause, ended_ms, due_ms)
        if not in_use:
            user.rest_until(due_ms)
        elif not user.connections:
            user.touch(ended_ms, self.now_ms)

    def depart(self) -> None:
        """End a linger because the user does not come back: so it was that end which they were last active at."""
        user = self.user
        if user.linger is not None and not user.connections:
            user.touch(user.linger.ended_ms, self.now_ms)
        user.linger = user.awaited = None

    def put_claim(self, claim: Claim | None, cause: Cause) -> None:
        """Put a claim into the place of the one before."""
        user, before, was_invisible = self.user, self.user.claim, self.user.is_invisible()
        is_own_doing = bool(user.connections) and cause is Cause.CLAIM
        # Going invisible is the last activity that shows, reappearing the first: touch() on both sides of the step,
        # and it stands still where the user is invisible.
        if is_own_doing:
            user.touch(self.now_ms, self.now_ms)
        if claim is not None and claim.availability is Claimed.INVISIBLE:
            self.depart()
        user.claim = claim
        if is_own_doing or (was_invisible and user.connections):
            user.touch(self.now_ms, self.now_ms)
        if user.is_invisible():
            cause = Cause.LEFT
        elif was_invisible:
            cause = Cause.CONNECT
        self.settle(cause, is_row_new=claim != before)

    def living(self, claim: Claim | None) -> Claim | None:
        """Return the claim if it asks for something and has not expired; it ends at a time that can be written."""
        if claim is None or (claim.availability is None and claim.text is None):
            return None
        if claim.until_ms is None or LATEST_MS >= claim.until_ms > self.now_ms:
            return claim
        return replace(claim, until_ms=LATEST_MS) if claim.until_ms > LATEST_MS else None

    def believable(self, row: StoredUser) -> StoredUser:
        """Return the row with no `lastActive` that is still to come: a clock gave it that was wrong, or no clock."""
        if row.last_active_ms is None or row.last_active_ms <= self.now_ms:
            return row
        return replace(row, last_active_ms=self.now_ms)

    def is_activity_news(self) -> bool:
        """Tell whether others are to be told of activity that changes nothing else."""
        user = self.user
        if user.shown is None or not user.is_shown_online() or user.last_active_ms is None:
            return False
        return abs(user.last_active_ms - (user.shown.last_active_ms or 0)) >= self.policy.last_active_granularity_ms

    def settle(self, cause: Cause, *, is_row_new: bool = False) -> bool:
        """Tell others what looks different now, and the store if it must know. Return whether it looks different."""
        look = self.user.look(to_others=True)
        changed = look != self.user.last_look()
        if changed:
            self.show(look, cause)
        self.row = self.row or is_row_new
        return changed

    def show(self, look: Look, cause: Cause) -> None:
        """Show others a look."""
        self.user.shown = shown = Shown(look, self.user.last_active_ms)
        self.changes += (Shift(shown, cause),)
        self.row = True


def _rest(connection: OpenConnection) -> None:
    connection.idle = True
    connection.idle_due_ms = None


_DO: dict[type[Command], Any] = {
    Connect: _Case.connect,
    Disconnect: _Case.disconnect,
    Active: _Case.active,
    Idle: _Case.idle,
    SetClaim: _Case.set_claim,
    NodeLost: _Case.node_lost,
    Evict: _Case.evict,
    Adopt: _Case.adopt,
    Repair: _Case.repair,
    Retell: _Case.retell,
    Advance: _Case.advance,
}
