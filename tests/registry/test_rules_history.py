"""Random histories: the rules against the naive model, and the invariants of the law after every step."""

from collections.abc import Callable, Iterable

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from herenow.model import Availability, Cause, Change, Claim, Claimed, Closing, StoredUser, UserPresence
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
from herenow.registry.ledger import Ledger
from herenow.registry.rules import Policy
from registry.manual_clock import START_MS, START_US
from registry.naive import Naive, NaiveChange, Seen, Wall

GRACE_MS = 2000
GRANULARITY_MS = 5000
HOUR_MS = 3_600_000

# Few of everything, so that what happens happens to the same ones again and again.
USERS = ["alice", "bob"]
users = st.sampled_from(USERS)
connections = st.sampled_from(["c1", "c2"])
nodes = st.sampled_from(["n1", "n2"])
some_users = st.sampled_from([("alice",), ("alice", "bob")])
spans_ms = st.sampled_from([1, 1000, 1999, 2000, 5000])
claims = st.tuples(
    st.sampled_from([None, Claimed.AWAY, Claimed.BUSY, Claimed.INVISIBLE, Claimed.INVISIBLE]),
    st.sampled_from([None, None, "lunch"]),
    st.sampled_from([None, None, 0, 1500, 4000]),
)


rarely = precondition(lambda machine: machine.steps % 5 == 4)
"""What upsets everything may happen at every fifth step, or nothing would ever be under way when it does."""


def bare(change: Change) -> NaiveChange:
    seen = Seen(change.availability, change.status_text, change.status_until_ms)
    return NaiveChange(seen, change.last_active_ms, change.cause)


class History(RuleBasedStateMachine):
    """One server after another, one store, two users, and clocks that do not agree."""

    @initialize(idle_after_ms=st.sampled_from([None, 3000]))
    def start(self, idle_after_ms: int | None) -> None:
        self.idle_after_ms = idle_after_ms
        self.steady_ms = 0
        self.wall_set_by_ms = 0
        self.store: dict[str, StoredUser] = {}
        self.views: dict[str, UserPresence] = {}  # of a watcher who only ever applies changes
        self.last_active: dict[str, int] = {}
        self.earliest_ms: dict[str, int] = {}  # by user, that the wall clock has shown since their latest change
        self.version = 0
        self.steps = 0
        self.start_server()

    def start_server(self) -> None:
        policy = Policy(GRACE_MS, self.idle_after_ms, GRANULARITY_MS)
        self.real = Ledger(policy, last_version=self.version)
        self.wall = Wall(self.version // 1000)
        self.naive = {user: Naive(GRACE_MS, self.idle_after_ms, GRANULARITY_MS) for user in USERS}

    def now(self) -> Now:
        return Now(START_US + (self.steady_ms + self.wall_set_by_ms) * 1000, self.steady_ms)

    def do(self, command: Command) -> None:
        """Apply a command twice: the second time it changes nothing."""
        self.steps += 1
        self.do_once(command)
        version = self.version
        self.do_once(command)
        assert self.version == version or isinstance(command, Repair)

    def do_to(self, users: Iterable[str], command: Callable[[str], Command]) -> None:
        """Do something to one user after the other."""
        for user in users:
            self.do(command(user))

    def do_once(self, command: Command) -> None:
        """Apply a command to both, compare, and keep the books of a watcher and of a store."""
        now = self.now()
        for user in USERS:
            self.earliest_ms[user] = min(self.earliest_ms.get(user, now.unix_us // 1000), now.unix_us // 1000)
        expected = self.naive[command.user_id].apply(command, self.wall.read(now), now.steady_ms)
        effects = self.real.apply(command, self.real.believe(now))
        assert [bare(change) for change in effects.changes] == expected
        for change in effects.changes:
            assert change.user_id == command.user_id
            self.take(change)
        row = effects.row
        if row is not None:
            assert row.user_id == command.user_id
            before = self.store.get(row.user_id)
            assert before is None or row.version > before.version
            kept_ms = before.last_active_ms if before is not None and row.last_active_ms is None else row.last_active_ms
            self.store[row.user_id] = StoredUser(
                row.user_id, row.is_online, row.availability, kept_ms, row.claim, row.version
            )

    def take(self, change: Change) -> None:
        assert change.version > self.version
        self.version = change.version
        assert change.is_online == (change.availability is not Availability.OFFLINE)
        assert change.last_active_ms is not None
        before_ms = self.last_active.get(change.user_id, 0)
        now_ms = self.now().unix_us // 1000
        was_ahead = before_ms > self.earliest_ms.pop(
            change.user_id, now_ms
        )  # of the clock, some time since it was told
        assert change.last_active_ms >= before_ms or was_ahead
        self.last_active[change.user_id] = change.last_active_ms
        self.views[change.user_id] = UserPresence(
            change.user_id,
            change.is_online,
            change.availability,
            change.last_active_ms,
            change.status_text,
            change.status_until_ms,
            change.version,
        )

    # -- what can happen -------------------------------------------------------------------------------------------

    @rule(user=users, connection=connections, node=nodes, is_idle=st.booleans())
    def connect(self, user: str, connection: str, node: str, is_idle: bool) -> None:
        self.do(Connect(user, connection, node))
        if is_idle:
            self.do(Idle(user, connection))

    @rule(user=users, connection=connections, closing=st.sampled_from(Closing))
    def disconnect(self, user: str, connection: str, closing: Closing) -> None:
        self.do(Disconnect(user, connection, closing))

    @rule(user=users, connection=connections)
    def active(self, user: str, connection: str) -> None:
        self.do(Active(user, connection))

    @rule(user=users, connection=connections)
    def idle(self, user: str, connection: str) -> None:
        self.do(Idle(user, connection))

    @rule(user=users, claim=claims)
    def claim(self, user: str, claim: tuple[Claimed | None, str | None, int | None]) -> None:
        availability, text, ends_in_ms = claim
        until_ms = None if ends_in_ms is None else self.now().unix_us // 1000 + ends_in_ms
        self.do(SetClaim(user, Claim(availability, text, until_ms)))

    @rarely
    @rule(user=users)
    def give_the_claim_up(self, user: str) -> None:
        self.do(SetClaim(user, None))

    @rarely
    @rule(node=nodes, silent_ms=spans_ms)
    def lose_node(self, node: str, silent_ms: int) -> None:
        self.do_to(USERS, lambda user: NodeLost(user, node, self.now().unix_us // 1000 - silent_ms))

    @rarely
    @rule(user_ids=some_users, disconnect=st.booleans())
    def evict(self, user_ids: tuple[str, ...], disconnect: bool) -> None:
        self.do_to(user_ids, lambda user: Evict(user, disconnect))

    @rarely
    @rule(user=users, cause=st.sampled_from([Cause.REPAIR, Cause.STALE]), is_online=st.booleans())
    def repair(self, user: str, cause: Cause, is_online: bool) -> None:
        row = self.store.get(user)
        if row is not None:
            availability = Availability.BUSY if is_online else Availability.OFFLINE
            wrong = StoredUser(user, is_online, availability, row.last_active_ms, row.claim, row.version)
            if self.last_active.get(user):
                self.do(Repair(wrong, cause))

    @rule(ms=spans_ms, is_stalled=st.booleans())
    def advance(self, ms: int, is_stalled: bool) -> None:
        self.steady_ms += ms
        if is_stalled:
            return
        self.do_to(self.real.due(self.real.believe(self.now()), 10), Advance)
        for user in USERS:
            assert self.real.apply(Advance(user), self.real.believe(self.now())) == ((), None, ()), (
                "the ledger knows all that is due"
            )
            assert self.naive[user].apply(Advance(user), self.wall.read(self.now()), self.steady_ms) == []

    @rarely
    @rule(by_ms=st.sampled_from([-HOUR_MS, -900, 0, HOUR_MS]))
    def set_wall_clock(self, by_ms: int) -> None:
        self.wall_set_by_ms = by_ms

    @rarely
    @rule(silent_ms=spans_ms, grace_ms=st.sampled_from([1000, 15_000]))
    def die_and_start_again(self, silent_ms: int, grace_ms: int) -> None:
        self.version = max([self.version, *(row.version for row in self.store.values())])
        self.start_server()
        for row in tuple(self.store.values()):
            if row.is_online or row.claim is not None:
                self.do(Adopt(row, self.now().unix_us // 1000 - silent_ms, grace_ms))

    @rarely
    @rule(user=users, availability=st.sampled_from(Availability), is_online=st.booleans(), claim=claims)
    def adopt_a_stranger(
        self,
        user: str,
        availability: Availability,
        is_online: bool,
        claim: tuple[Claimed | None, str | None, int | None],
    ) -> None:
        """A row as an application may have written it: its words need not agree."""
        if user in self.store:
            return
        kept = Claim(claim[0], claim[1], START_MS + claim[2] if claim[2] else None)
        row = self.store[user] = StoredUser(user, is_online, availability, START_MS - HOUR_MS, kept, 1)
        self.do(Adopt(row, START_MS, 1000))
        view = self.real.view(user)
        if view is not None:
            self.views[user] = view

    # -- what must hold after each step ----------------------------------------------------------------------------

    @invariant()
    def a_user_sees_the_truth_about_themselves(self) -> None:
        for user, naive in self.naive.items():
            i = len(naive.history)
            own = self.real.own_view(user)
            assert (own is not None) == naive.held(i)
            if own is not None:
                seen = Seen(own.availability, own.status_text, own.status_until_ms)
                assert seen == naive.own(i)
                assert own.last_active_ms == naive.last_active(i)

    @invariant()
    def a_view_is_the_latest_change(self) -> None:
        for user in USERS:
            view, watched = self.real.view(user), self.views.get(user)
            if view is not None and (watched is not None or view.is_online):
                assert watched is not None
                assert (view.is_online, view.availability) == (watched.is_online, watched.availability)
                assert (view.status_text, view.status_until_ms) == (watched.status_text, watched.status_until_ms)
            elif view is None and watched is not None:
                assert not watched.is_online

    @invariant()
    def the_store_agrees_with_what_others_see(self) -> None:
        for user in USERS:
            view, row = self.real.view(user), self.store.get(user)
            if row is not None:
                assert row.is_online == (view is not None and view.is_online)
                assert row.claim == self.real.claim_of(user)
            if row is not None and view is not None:
                assert (row.availability, row.last_active_ms) == (view.availability, view.last_active_ms)

    @invariant()
    def nobody_with_a_connection_is_offline_unless_invisible(self) -> None:
        for user in USERS:
            claim, view = self.real.claim_of(user), self.real.view(user)
            if self.real.connections_of(user) and (claim is None or claim.availability is not Claimed.INVISIBLE):
                assert view is not None
                assert view.is_online

    @invariant()
    def nobody_lingers_who_is_in_use_or_offline(self) -> None:
        for user in USERS:
            if self.real.linger_of(user) is not None:
                assert all(connection.is_idle for connection in self.real.connections_of(user))
                view = self.real.view(user)
                assert view is not None
                assert view.is_online

    @invariant()
    def counts_and_the_order_of_activity_follow_the_views(self) -> None:
        views = [view for user in USERS if (view := self.real.view(user)) is not None]
        for availability in Availability:
            assert self.real.count(availability) == sum(view.availability is availability for view in views)
        assert self.real.connections == sum(len(self.real.connections_of(user)) for user in USERS)
        assert self.real.held == sum(self.real.own_view(user) is not None for user in USERS)
        online = [view for view in views if view.is_online]
        online.sort(key=lambda view: (view.last_active_ms or 0, view.user_id), reverse=True)
        assert self.real.online(10) == online


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
