"""Random histories: the rules against the naive model, and the invariants of the law after every step."""

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
from herenow.registry.rules import Rules
from registry.manual_clock import START_MS, START_US
from registry.naive import Naive, NaiveChange, Seen

GRACE_MS = 2000
GRANULARITY_MS = 5000
HOUR_MS = 3_600_000

# Few of everything, so that what happens happens to the same ones again and again.
USERS = ["alice", "bob"]
users = st.sampled_from(USERS)
connections = st.sampled_from(["alice-1", "alice-2", "bob-1"])
nodes = st.sampled_from(["n1", "n2"])
some_users = st.sampled_from([None, ("alice",), ("alice", "bob")])
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
    return NaiveChange(change.user_id, seen, change.last_active_ms, change.cause)


class History(RuleBasedStateMachine):
    """One server after another, one store, three users, and clocks that do not agree."""

    @initialize(idle_after_ms=st.sampled_from([None, 3000]))
    def start(self, idle_after_ms: int | None) -> None:
        self.idle_after_ms = idle_after_ms
        self.steady_ms = 0
        self.wall_set_by_ms = 0
        self.store: dict[str, StoredUser] = {}
        self.views: dict[str, UserPresence] = {}  # of a watcher who only ever applies changes
        self.last_active: dict[str, int] = {}
        self.version = 0
        self.steps = 0
        self.start_server()

    def start_server(self) -> None:
        self.real = Rules(
            GRACE_MS,
            last_version=self.version,
            idle_after_ms=self.idle_after_ms,
            last_active_granularity_ms=GRANULARITY_MS,
        )
        self.naive = Naive(self.version // 1000, GRACE_MS, self.idle_after_ms, GRANULARITY_MS)

    def now(self) -> Now:
        return Now(START_US + (self.steady_ms + self.wall_set_by_ms) * 1000, self.steady_ms)

    def do(self, command: Command) -> None:
        """Apply a command twice: the second time it changes nothing."""
        self.steps += 1
        self.do_once(command)
        version = self.version
        self.do_once(command)
        assert self.version == version or isinstance(command, Repair)

    def do_once(self, command: Command) -> None:
        """Apply a command to both, compare, and keep the books of a watcher and of a store."""
        now = self.now()
        expected = self.naive.apply(command, now, USERS)
        effects = self.real.apply(command, now)
        got = [bare(change) for change in effects.changes]
        for user in USERS:
            assert [each for each in got if each.user == user] == [each for each in expected if each.user == user]
        for change in effects.changes:
            self.take(change)
        for row in effects.rows:
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
        assert change.last_active_ms >= before_ms or before_ms > self.now().unix_us // 1000
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

    @rule(connection=connections, node=nodes, is_idle=st.booleans())
    def connect(self, connection: str, node: str, is_idle: bool) -> None:
        self.do(Connect(connection.split("-")[0], connection, node))
        if is_idle:
            self.do(Idle(connection))

    @rarely
    @rule(user=users, connection=connections)
    def connect_by_the_id_of_another(self, user: str, connection: str) -> None:
        self.do(Connect(user, connection, "n1"))

    @rule(connection=connections, closing=st.sampled_from(Closing))
    def disconnect(self, connection: str, closing: Closing) -> None:
        self.do(Disconnect(connection, closing))

    @rule(connection=connections)
    def active(self, connection: str) -> None:
        self.do(Active(connection))

    @rule(connection=connections)
    def idle(self, connection: str) -> None:
        self.do(Idle(connection))

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
        self.do(NodeLost(node, self.now().unix_us // 1000 - silent_ms))

    @rarely
    @rule(user_ids=some_users, disconnect=st.booleans())
    def evict(self, user_ids: tuple[str, ...] | None, disconnect: bool) -> None:
        self.do(Evict(user_ids, disconnect))

    @rarely
    @rule(user=users, cause=st.sampled_from([Cause.REPAIR, Cause.STALE]), is_online=st.booleans())
    def repair(self, user: str, cause: Cause, is_online: bool) -> None:
        row = self.store.get(user)
        if row is not None:
            availability = Availability.BUSY if is_online else Availability.OFFLINE
            wrong = StoredUser(user, is_online, availability, row.last_active_ms, row.claim, row.version)
            if self.last_active.get(user):
                self.do(Repair((wrong,), cause))

    @rule(ms=spans_ms, is_stalled=st.booleans())
    def advance(self, ms: int, is_stalled: bool) -> None:
        self.steady_ms += ms
        if not is_stalled:
            self.do(Advance())

    @rarely
    @rule(by_ms=st.sampled_from([-HOUR_MS, 0, HOUR_MS]))
    def set_wall_clock(self, by_ms: int) -> None:
        self.wall_set_by_ms = by_ms

    @rarely
    @rule(silent_ms=spans_ms, grace_ms=st.sampled_from([1000, 15_000]))
    def die_and_start_again(self, silent_ms: int, grace_ms: int) -> None:
        self.version = max([self.version, *(row.version for row in self.store.values())])
        self.start_server()
        rows = tuple(row for row in self.store.values() if row.is_online or row.claim is not None)
        self.do(Adopt(rows, self.now().unix_us // 1000 - silent_ms, grace_ms))

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
        self.do(Adopt((row,), START_MS, 1000))
        view = self.real.view(user)
        if view is not None:
            self.views[user] = view

    # -- what must hold after each step ----------------------------------------------------------------------------

    @invariant()
    def a_user_sees_the_truth_about_themselves(self) -> None:
        i = len(self.naive.history)
        for user in USERS:
            own = self.real.own_view(user)
            assert (own is not None) == self.naive.held(user, i)
            if own is not None:
                seen = Seen(own.availability, own.status_text, own.status_until_ms)
                assert seen == self.naive.own(user, i)
                assert own.last_active_ms == self.naive.last_active(user, i)

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
TestHistory.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
