"""The law of the rules, clause by clause, where one step and its answer do not show it."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

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
    Retell,
    SetClaim,
)
from herenow.registry.ledger import Ledger
from herenow.registry.rules import Policy
from herenow.registry.state import presence_in
from herenow.times import LATEST_MS
from registry.manual_clock import START_MS, START_US
from registry.world import GRACE_MS, World

HOUR_MS = 3_600_000


def connect(connection_id: str = "c", user_id: str = "u") -> Connect:
    return Connect(user_id, connection_id, "n")


def closed(connection_id: str = "c", closing: Closing = Closing.CLOSED, user_id: str = "u") -> Disconnect:
    return Disconnect(user_id, connection_id, closing)


def active(connection_id: str = "c", user_id: str = "u") -> Active:
    return Active(user_id, connection_id)


def idle(connection_id: str = "c", user_id: str = "u") -> Idle:
    return Idle(user_id, connection_id)


def claim(availability: Claimed | None = None, text: str | None = None, until_ms: int | None = None) -> SetClaim:
    return SetClaim("u", Claim(availability, text, until_ms))


def online_row(
    availability: Availability = Availability.ONLINE,
    *,
    user_id: str = "u",
    is_online: bool = True,
    claim: Claim | None = None,
    version: int = 7,
) -> StoredUser:
    return StoredUser(user_id, is_online, availability, START_MS - HOUR_MS, claim, version)


def adopt(row: StoredUser, last_beat_ms: int = START_MS - 5000, grace_ms: int = 15_000) -> Adopt:
    return Adopt(row, last_beat_ms, grace_ms)


def told(changes: list[Change]) -> list[tuple[Availability, Cause]]:
    return [(change.availability, change.cause) for change in changes]


# -- present ---------------------------------------------------------------------------------------------------------


def test_a_first_connection_is_told_with_everything_that_others_and_the_store_need() -> None:
    effects = World().do(connect())
    assert effects.changes == [
        Change("u", True, Availability.ONLINE, START_MS, None, None, START_US, Cause.CONNECT),
    ]
    assert effects.rows == [StoredUser("u", True, Availability.ONLINE, START_MS, None, START_US)]


def test_a_reconnect_that_a_stalled_loop_handles_after_the_grace_but_before_the_expiry_is_in_time() -> None:
    world = World()
    world.do(connect(), closed())
    world.clock.stall(GRACE_MS * 3)
    assert world.do(connect("c2")).changes == []
    assert world.wait(GRACE_MS * 3) == []


def test_each_loss_has_a_grace_of_its_own_and_the_timer_of_an_earlier_one_does_no_harm() -> None:
    world = World()
    world.do(connect(), closed())
    world.clock.stall(1500)
    world.do(connect("c2"), closed("c2", Closing.TIMEOUT))
    assert world.wait(1999) == []
    assert told(world.wait(1)) == [(Availability.OFFLINE, Cause.TIMEOUT)]


def test_two_idle_tabs_that_lose_the_network_together_come_back_idle_and_nobody_sees_it() -> None:
    world = World()
    world.do(connect("a"), connect("b"), idle("a"), idle("b"))
    assert world.do(closed("a")).changes == world.do(closed("b")).changes == []
    world.clock.stall(1000)
    assert world.do(connect("a2")).changes == world.do(connect("b2")).changes == []
    assert world.wait(GRACE_MS * 2) == []
    assert told(world.do(active("b2")).changes) == [(Availability.ONLINE, Cause.ACTIVE)]


def test_one_of_two_idle_tabs_that_loses_the_network_comes_back_idle() -> None:
    world = World()
    world.do(connect("a"), connect("b"), idle("a"), idle("b"), closed("a"))
    world.clock.stall(1000)
    assert world.do(connect("a2")).changes == []


def test_a_connection_that_comes_to_an_idle_user_after_the_grace_is_a_new_one_and_in_use() -> None:
    world = World()
    world.do(connect("a"), connect("b"), idle("a"), idle("b"), closed("a"))
    world.clock.stall(GRACE_MS)
    assert told(world.do(connect("c")).changes) == [(Availability.ONLINE, Cause.ACTIVE)]


def test_a_reload_of_the_tab_in_use_is_not_seen_though_the_others_are_idle() -> None:
    world = World()
    world.do(connect("a"), connect("b"), idle("b"))
    assert world.do(closed("a")).changes == []
    assert world.wait(1000) == []
    assert world.do(connect("a2")).changes == []
    assert world.wait(GRACE_MS * 2) == []


def test_losing_an_idle_tab_does_not_prolong_the_grace_of_the_one_in_use() -> None:
    world = World()
    world.do(connect("a"), connect("b"), connect("x"), idle("b"), idle("x"), closed("a"))
    world.clock.stall(1500)
    world.do(closed("b"))
    assert told(world.wait(500)) == [(Availability.AWAY, Cause.IDLE)]


def test_losing_an_idle_tab_does_not_make_the_user_one_who_rests() -> None:
    world = World()
    world.do(connect("a"), connect("b"), connect("x"), idle("b"), idle("x"), closed("a"))
    world.clock.stall(1500)
    world.do(closed("b"))
    world.wait(500)
    assert told(world.do(connect("c")).changes) == [(Availability.ONLINE, Cause.ACTIVE)]


def test_activity_elsewhere_ends_the_linger_of_the_tab_in_use() -> None:
    world = World()
    world.do(connect("a"), connect("b"), idle("b"), closed("a"), active("b"))
    assert world.rules.linger_of("u") is None
    assert told(world.do(idle("b")).changes) == [(Availability.AWAY, Cause.IDLE)]


def test_a_connection_that_says_hello_again_is_replaced_and_stays_as_idle_as_it_was() -> None:
    world = World()
    world.do(connect("c"), idle("c"))
    effects = world.do(Connect("u", "c", "other-node", "polling", "192.0.2.1"))
    assert effects.changes == []
    (connection,) = world.rules.connections_of("u")
    assert connection.node == "other-node"
    assert connection.is_idle
    assert world.rules.connections == 1


def test_two_users_may_have_a_connection_with_the_same_id_and_neither_touches_the_other() -> None:
    world = World()
    world.do(connect("c", "alice"))
    assert told(world.do(connect("c", "bob")).changes) == [(Availability.ONLINE, Cause.CONNECT)]
    (left,) = world.do(closed("c", Closing.LEFT, "alice")).changes
    assert (left.user_id, left.availability) == ("alice", Availability.OFFLINE)
    assert world.wait(GRACE_MS) == []
    assert world.view("bob").is_online


def test_a_lost_node_takes_only_its_own_connections_along() -> None:
    world = World()
    world.do(Connect("u", "c1", "n1"), Connect("u", "c2", "n2"), Connect("v", "c3", "n1"), Connect("w", "c4", "n2"))
    world.do_to_all(lambda user_id: NodeLost(user_id, "n1", START_MS))
    assert world.rules.connections == 2
    changes = world.wait(GRACE_MS)
    assert [(change.user_id, change.cause) for change in changes] == [("v", Cause.NODE_LOST)]


# -- availability ----------------------------------------------------------------------------------------------------


def test_without_activity_a_connection_becomes_idle_by_itself_and_activity_puts_that_off() -> None:
    world = World(idle_after_ms=10_000)
    world.do(connect("a"), connect("b"))
    world.clock.stall(6000)
    world.do(active("a"))
    assert world.wait(4000) == []
    assert [connection.is_idle for connection in world.rules.connections_of("u")] == [False, True]
    assert told(world.wait(6000)) == [(Availability.AWAY, Cause.IDLE)]
    assert told(world.do(active("b")).changes) == [(Availability.ONLINE, Cause.ACTIVE)]


def test_a_connection_that_went_leaves_no_idleness_behind() -> None:
    world = World(idle_after_ms=10_000)
    world.do(connect("a"), closed("a", Closing.LEFT))
    assert world.rules.wait_ms(world.now()) is None
    assert world.wait(20_000) == []


def test_activity_of_a_connection_that_is_not_known_is_nothing() -> None:
    assert World().do(active("?")) == World().do(idle("?")) == ([], [], [])


# -- claims ----------------------------------------------------------------------------------------------------------


def test_a_claim_is_shown_with_its_text_and_end_and_survives_a_reconnect() -> None:
    world = World()
    world.do(connect(), claim(Claimed.BUSY, "in a call", START_MS + HOUR_MS), closed("c", Closing.LEFT))
    assert (world.view().status_text, world.view().status_until_ms) == (None, None)
    (change,) = world.do(connect("c2")).changes
    assert (change.availability, change.cause) == (Availability.BUSY, Cause.CONNECT)
    assert (change.status_text, change.status_until_ms) == ("in a call", START_MS + HOUR_MS)


def test_a_text_alone_leaves_the_availability_as_it_is() -> None:
    world = World()
    world.do(connect())
    (change,) = world.do(claim(text="hello")).changes
    assert (change.availability, change.status_text) == (Availability.ONLINE, "hello")
    assert told(world.do(idle("c")).changes) == [(Availability.AWAY, Cause.IDLE)]


@pytest.mark.parametrize(
    "nothing", [claim(), claim(until_ms=START_MS + HOUR_MS), claim(Claimed.BUSY, "over", START_MS), SetClaim("u", None)]
)
def test_a_claim_that_asks_for_nothing_or_is_over_gives_up_the_one_before(nothing: SetClaim) -> None:
    world = World()
    world.do(connect(), claim(Claimed.BUSY))
    assert told(world.do(nothing).changes) == [(Availability.ONLINE, Cause.CLAIM)]
    assert world.rules.claim_of("u") is None
    assert world.do(nothing).rows == []


def test_a_claim_expires_at_its_time_on_the_wall_clock() -> None:
    world = World()
    world.do(connect(), claim(Claimed.BUSY, until_ms=START_MS + 1000))
    assert world.wait(999) == []
    assert told(world.wait(1)) == [(Availability.ONLINE, Cause.CLAIM_EXPIRED)]
    assert world.wait(1) == []


def test_the_end_of_a_claim_moves_with_the_claim() -> None:
    world = World()
    world.do(connect(), claim(Claimed.BUSY, until_ms=START_MS + 1000), claim(Claimed.BUSY, until_ms=START_MS + 5000))
    assert world.wait(4999) == []
    world.do(claim(Claimed.BUSY))
    assert told(world.wait(HOUR_MS)) == []


def test_an_expired_claim_is_gone_before_anything_else_happens() -> None:
    world = World()
    world.do(claim(Claimed.BUSY, until_ms=START_MS + 1000))
    world.clock.stall(1000)
    assert told(world.do(connect()).changes) == [(Availability.ONLINE, Cause.CONNECT)]


def test_a_claim_expires_within_the_linger_and_the_user_comes_back_without_it() -> None:
    world = World()
    world.do(connect(), claim(Claimed.BUSY, until_ms=START_MS + 1000), closed())
    assert told(world.wait(1000)) == [(Availability.ONLINE, Cause.CLAIM_EXPIRED)]
    assert world.do(connect("c2")).changes == []


def test_a_claim_of_an_absent_user_is_kept_and_the_store_is_told_but_nobody_else() -> None:
    world = World()
    effects = world.do(claim(Claimed.AWAY, until_ms=START_MS + 1000))
    assert effects.changes == []
    kept = Claim(Claimed.AWAY, None, START_MS + 1000)
    assert effects.rows == [StoredUser("u", False, Availability.OFFLINE, None, kept, START_US)]
    assert world.rules.held == 1
    assert world.rules.view("u") is None
    world.clock.stall(1000)
    effects = world.advance()
    assert effects.changes == []
    assert [row.claim for row in effects.rows] == [None]
    assert world.rules.held == 0


def test_the_same_claim_again_is_not_written_again() -> None:
    world = World()
    world.do(connect(), claim(Claimed.BUSY))
    assert world.do(claim(Claimed.BUSY)) == ([], [], [])


# -- invisible -------------------------------------------------------------------------------------------------------


def test_to_others_a_user_who_turns_invisible_has_left_and_one_who_reappears_has_connected() -> None:
    world = World()
    world.do(connect())
    world.clock.stall(1000)
    (gone,) = world.do(claim(Claimed.INVISIBLE, "secret")).changes
    assert gone == Change(
        "u", False, Availability.OFFLINE, START_MS + 1000, None, None, START_US + 1_000_000, Cause.LEFT
    )
    world.clock.stall(1000)
    (back,) = world.do(SetClaim("u", None)).changes
    assert (back.is_online, back.last_active_ms, back.cause) == (True, START_MS + 2000, Cause.CONNECT)


def test_nothing_that_an_invisible_user_does_moves_what_others_see() -> None:
    world = World(idle_after_ms=HOUR_MS // 2)
    world.do(connect(), claim(Claimed.INVISIBLE))
    before = world.view()
    deeds: list[Command] = [
        connect("d"),
        active("d"),
        idle("c"),
        claim(Claimed.INVISIBLE, "other text"),
        closed("d"),
        closed("c", Closing.LEFT),
        connect("e"),
        Advance("u"),
    ]
    for deed in deeds:
        world.clock.stall(HOUR_MS)
        effects = world.do(deed)
        assert effects.changes == []
        assert all(row.last_active_ms == START_MS and not row.is_online for row in effects.rows)
        assert world.view() == before


def test_an_invisible_user_sees_the_truth_about_themselves() -> None:
    world = World()
    world.do(connect(), claim(Claimed.INVISIBLE, "secret", START_MS + HOUR_MS))
    own = world.own_view()
    assert (own.is_online, own.availability) == (True, Availability.ONLINE)
    assert (own.status_text, own.status_until_ms) == ("secret", START_MS + HOUR_MS)
    assert own.version == world.view().version


def test_invisibility_that_expires_reads_as_connecting_if_the_user_is_there_and_as_nothing_if_not() -> None:
    world = World()
    world.do(connect(), claim(Claimed.INVISIBLE, until_ms=START_MS + 1000))
    (back,) = world.wait(1500)
    assert (back.is_online, back.last_active_ms, back.cause) == (True, START_MS + 1500, Cause.CONNECT)

    world = World()
    world.do(connect(), claim(Claimed.INVISIBLE, until_ms=START_MS + 1000), closed())
    assert world.wait(1500) == []
    assert world.rules.held == 0


def test_a_lingering_user_who_is_made_invisible_left_at_the_moment_of_the_close() -> None:
    world = World()
    world.do(connect(), closed())
    world.clock.stall(1000)
    (gone,) = world.do(claim(Claimed.INVISIBLE)).changes
    assert (gone.cause, gone.last_active_ms) == (Cause.LEFT, START_MS)
    assert world.rules.linger_of("u") is None
    assert not world.own_view().is_online


def test_an_invisible_user_who_loses_the_tab_in_use_is_idle_at_once_for_nobody_else_would_notice() -> None:
    world = World()
    world.do(connect("a"), connect("b"), idle("b"), claim(Claimed.INVISIBLE), closed("a"))
    assert world.own_view().availability is Availability.AWAY
    assert world.rules.wait_ms(world.now()) is None


# -- last active -----------------------------------------------------------------------------------------------------


def test_who_is_gone_was_last_active_when_the_connection_closed_and_not_when_the_linger_expired() -> None:
    world = World()
    world.do(connect())
    world.clock.stall(10_000)
    world.do(closed())
    (change,) = world.wait(GRACE_MS + 700)
    assert change.last_active_ms == START_MS + 10_000


def test_an_idle_device_that_only_reconnects_does_not_move_it() -> None:
    world = World()
    world.do(connect("c"), idle("c"))
    world.clock.stall(HOUR_MS)
    world.do(closed("c"))
    world.clock.stall(GRACE_MS // 2)
    world.do(connect("c2"))
    assert world.own_view().last_active_ms == START_MS
    (found,) = world.rules.connections_of("u")
    assert (found.is_idle, found.last_activity_ms) == (True, START_MS)
    world.do(connect("c2"))  # said again
    assert world.own_view().last_active_ms == START_MS
    assert world.wait(GRACE_MS * 2) == []
    world.do(closed("c2"))
    ended_ms = world.clock.unix_ms
    (gone,) = world.wait(GRACE_MS)  # and now it does not come back
    assert gone.last_active_ms == ended_ms


@pytest.mark.parametrize("how", ["evicted", "invisible"])
def test_whose_grace_is_cut_short_was_last_active_when_the_connection_closed_idle_or_not(how: str) -> None:
    world = World()
    world.do(connect("c"), idle("c"))
    world.clock.stall(10_000)
    world.do(closed("c"))
    world.clock.stall(GRACE_MS // 2)
    (gone,) = world.do(Evict("u", disconnect=False) if how == "evicted" else claim(Claimed.INVISIBLE)).changes
    assert (gone.is_online, gone.last_active_ms) == (False, START_MS + 10_000)


def test_an_idle_device_that_reconnects_after_a_restart_does_not_move_it_either() -> None:
    world = World()
    row = StoredUser("u", True, Availability.AWAY, START_MS - HOUR_MS, None, START_US - 1)
    world.do(Adopt(row, START_MS - 5000, 10_000))
    world.do(connect())
    assert world.own_view().last_active_ms == START_MS - HOUR_MS
    assert world.view().availability is Availability.AWAY


def test_who_was_on_a_lost_node_was_last_active_at_its_last_beat() -> None:
    world = World()
    world.do(Connect("u", "c", "n"))
    world.clock.stall(10_000)
    world.do(NodeLost("u", "n", START_MS + 8000))
    (change,) = world.wait(GRACE_MS)
    assert change.last_active_ms == START_MS + 8000


@pytest.mark.parametrize("last_beat_ms", [START_MS - HOUR_MS, START_MS + HOUR_MS])
def test_a_beat_from_before_the_connection_or_from_the_future_does_not_count(last_beat_ms: int) -> None:
    world = World()
    world.do(Connect("u", "c", "n"), NodeLost("u", "n", last_beat_ms))
    (change,) = world.wait(GRACE_MS)
    assert change.last_active_ms == START_MS


def test_the_end_of_one_connection_among_others_is_no_activity() -> None:
    world = World()
    world.do(connect("a"), connect("b"))
    world.clock.stall(10_000)
    world.do(closed("a", Closing.LEFT))
    assert world.own_view().last_active_ms == START_MS


def test_a_claim_is_activity_of_one_who_is_connected_and_not_of_one_who_is_absent() -> None:
    world = World()
    world.do(connect())
    world.clock.stall(10_000)
    (change,) = world.do(claim(Claimed.BUSY)).changes
    assert change.last_active_ms == START_MS + 10_000
    world.do(closed())
    world.clock.stall(1000)
    (change,) = world.do(claim(Claimed.AWAY)).changes
    assert change.last_active_ms == START_MS + 10_000


def test_activity_is_told_to_others_once_it_has_moved_by_the_granularity() -> None:
    world = World()
    world.do(connect())
    world.clock.stall(59_999)
    assert world.do(active("c")) == ([], [], [])
    assert world.own_view().last_active_ms == START_MS + 59_999
    assert world.view().last_active_ms == START_MS
    world.clock.stall(1)
    (change,) = world.do(active("c")).changes
    assert (change.last_active_ms, change.cause) == (START_MS + 60_000, Cause.ACTIVE)
    assert world.do(active("c")).changes == []


# -- clocks and versions ---------------------------------------------------------------------------------------------


def test_versions_grow_within_one_microsecond_and_over_a_restart() -> None:
    world = World(last_version=START_US + 500)
    versions = [world.do(connect(f"c{i}", f"u{i}")).changes[0].version for i in range(3)]
    assert versions == [START_US + 501, START_US + 502, START_US + 503]
    assert world.rules.version == START_US + 503


def test_a_wall_clock_that_is_trimmed_turns_nothing_back_for_anybody() -> None:
    world = World()
    world.do(connect("c", "u"))
    (left,) = world.do(connect("d", "v"), closed("d", Closing.LEFT, "v")).changes
    world.clock.set_wall_clock(-900)
    (back,) = world.do(connect("d2", "v")).changes  # whom the rules had forgotten
    assert back.version > left.version
    assert back.last_active_ms == left.last_active_ms == START_MS
    world.do(closed("c"))
    (gone,) = world.wait(GRACE_MS)  # the grace takes no notice of the wall clock
    assert gone.version > back.version
    assert gone.last_active_ms == START_MS


def test_a_clock_that_jumped_ahead_and_back_freezes_nobody_for_the_length_of_the_jump() -> None:
    """Every activity was stamped with the time of the jump, until the clock had come there again: for an hour."""
    world = World()
    world.do(connect("c", "u"), connect("d", "v"))
    world.clock.set_wall_clock(HOUR_MS)
    (wrong,) = world.do(active("c")).changes
    world.clock.set_wall_clock(-HOUR_MS)
    world.clock.stall(10_000)
    (mended,) = world.do(active("c")).changes
    assert (mended.last_active_ms, mended.cause) == (START_MS + 10_000, Cause.ACTIVE), "it was told of the wrong one"
    assert mended.version > wrong.version
    world.clock.stall(5_000)
    world.do(active("d", "v"))
    assert world.own_view("v").last_active_ms == START_MS + 15_000
    (left,) = world.do(closed("c", Closing.LEFT)).changes
    assert left.last_active_ms == START_MS + 15_000


def test_nor_does_one_that_had_jumped_in_an_earlier_life() -> None:
    rules = Ledger(Policy(GRACE_MS), last_version=START_US + HOUR_MS * 1000)
    (came,) = rules.apply(connect(), rules.believe(Now(START_US, 0))).changes
    assert came.last_active_ms == START_MS
    assert came.version > START_US + HOUR_MS * 1000


def test_activity_that_nobody_was_told_of_is_not_turned_back_either() -> None:
    """The stamps once followed the versions alone, and stood still only at the latest change."""
    world = World()
    world.do(connect())
    world.clock.stall(10_000)
    world.do(active("c"))
    world.clock.set_wall_clock(-900)
    (gone,) = world.do(closed("c", Closing.LEFT)).changes
    assert gone.last_active_ms == START_MS + 10_000
    assert gone.version >= gone.last_active_ms * 1000
    (back,) = world.do(connect()).changes
    assert back.last_active_ms == START_MS + 10_000


def test_a_wall_clock_that_was_wrong_is_believed_once_it_is_right() -> None:
    world = World()
    a_year_ms = 365 * 24 * HOUR_MS
    world.clock.set_wall_clock(a_year_ms)
    (wrong,) = world.do(connect("c", "u")).changes
    world.clock.set_wall_clock(-a_year_ms)
    (right,) = world.do(connect("d", "v")).changes
    assert right.version > wrong.version
    assert right.last_active_ms == START_MS


def test_a_claim_is_measured_by_the_wall_clock_as_it_is_and_not_by_the_stamps() -> None:
    world = World()
    world.do(connect())
    world.clock.set_wall_clock(-HOUR_MS)
    half_an_hour_from_now_ms = START_MS - HOUR_MS // 2
    assert told(world.do(claim(Claimed.BUSY, until_ms=half_an_hour_from_now_ms)).changes) == [
        (Availability.BUSY, Cause.CLAIM)
    ]
    assert world.wait(HOUR_MS // 2 - 1) == []
    assert told(world.wait(1)) == [(Availability.ONLINE, Cause.CLAIM_EXPIRED)]


def test_the_next_moment_is_that_of_the_earliest_deadline_on_either_clock() -> None:
    world = World(idle_after_ms=30_000)
    assert world.rules.wait_ms(world.now()) is None
    world.do(connect("a", "v"), claim(Claimed.BUSY, until_ms=START_MS + 5000))
    assert world.rules.wait_ms(world.now()) == 5000
    world.clock.set_wall_clock(1000)
    assert world.rules.wait_ms(world.now()) == 4000
    world.do(closed("a", user_id="v"))
    assert world.rules.wait_ms(world.now()) == GRACE_MS
    world.clock.stall(HOUR_MS)
    assert world.rules.wait_ms(world.now()) == 0


# -- eviction --------------------------------------------------------------------------------------------------------


def test_evicted_connections_are_handed_back_and_what_they_send_then_is_nothing() -> None:
    world = World()
    world.do(connect("a"), connect("b"), connect("x", "v"))
    effects = world.do_all(*(Evict(user_id, True, Cause.STALE) for user_id in ("u", "nobody")))
    assert told(effects.changes) == [(Availability.OFFLINE, Cause.STALE)]
    assert [connection.connection_id for connection in effects.evicted] == ["a", "b"]
    for late in (active("a"), idle("b"), closed("a"), closed("b", Closing.LEFT)):
        assert world.do(late) == ([], [], [])
    assert world.rules.connections == world.rules.held == 1


def test_an_evicted_user_keeps_the_claim_and_may_come_back() -> None:
    world = World()
    world.do(connect(), claim(Claimed.BUSY), Evict("u", disconnect=True))
    assert told(world.do(connect("c2")).changes) == [(Availability.BUSY, Cause.CONNECT)]


# -- restart ---------------------------------------------------------------------------------------------------------


def test_who_comes_back_after_a_restart_never_flickers_with_any_number_of_devices() -> None:
    world = World()
    assert world.do(adopt(online_row())) == ([], [], [])
    assert world.view() == UserPresence("u", True, Availability.ONLINE, START_MS - HOUR_MS, None, None, 7)
    world.clock.stall(14_000)
    assert world.do(connect("a")).changes == world.do(connect("b")).changes == []
    assert world.wait(60_000) == []


def test_who_does_not_come_back_was_last_active_at_the_last_beat_of_the_dead_node() -> None:
    world = World()
    world.do(adopt(online_row()))
    (change,) = world.wait(15_000)
    assert (change.cause, change.last_active_ms) == (Cause.RESTART, START_MS - 5000)
    assert change.version > 7


def test_all_devices_of_a_user_who_was_away_come_back_idle() -> None:
    world = World()
    world.do(adopt(online_row(Availability.AWAY)))
    assert world.do(connect("a")).changes == world.do(connect("b")).changes == []
    assert world.view().availability is Availability.AWAY


def test_a_second_loss_does_not_shorten_the_grace_of_the_restart() -> None:
    """The grace of the second loss once replaced the longer one, and the second device came back in use."""
    world = World()
    world.do(adopt(online_row(Availability.AWAY)), connect("a"), closed("a"), connect("a2"))
    world.clock.stall(GRACE_MS + 1000)
    assert world.do(connect("b")).changes == []


def test_a_claim_outlives_the_restart_and_does_not_make_a_device_idle() -> None:
    world = World()
    kept = Claim(Claimed.AWAY, "lunch", START_MS + HOUR_MS)
    assert world.do(adopt(online_row(Availability.AWAY, claim=kept))) == ([], [], [])
    world.do(connect())
    assert world.rules.claim_of("u") == kept
    assert told(world.wait(HOUR_MS)) == [(Availability.ONLINE, Cause.CLAIM_EXPIRED)]


def test_a_claim_that_ran_out_while_nobody_served_is_told_at_once() -> None:
    world = World()
    over = Claim(Claimed.BUSY, "was busy", START_MS - 1)
    effects = world.do(adopt(online_row(Availability.BUSY, claim=over)))
    assert told(effects.changes) == [(Availability.ONLINE, Cause.CLAIM_EXPIRED)]
    assert [row.claim for row in effects.rows] == [None]


def test_an_absent_user_is_adopted_for_a_claim_and_otherwise_not_at_all() -> None:
    world = World()
    rows = [
        online_row(Availability.OFFLINE, user_id="invisible", is_online=False, claim=Claim(Claimed.INVISIBLE)),
        online_row(
            Availability.OFFLINE, user_id="over", is_online=False, claim=Claim(Claimed.BUSY, None, START_MS - 1)
        ),
        online_row(Availability.OFFLINE, user_id="plain", is_online=False),
    ]
    effects = world.do_all(*map(adopt, rows))
    assert effects.changes == []
    assert [(row.user_id, row.claim) for row in effects.rows] == [("over", None)]
    assert world.rules.held == 1
    assert world.do(connect("c", "invisible")).changes == []
    assert world.view("invisible").last_active_ms == START_MS - HOUR_MS


def test_a_row_that_contradicts_itself_is_read_by_what_the_application_would_have_written() -> None:
    world = World()
    effects = world.do_all(
        adopt(online_row(Availability.OFFLINE, user_id="on")), adopt(online_row(user_id="off", is_online=False))
    )
    assert effects.changes == []
    assert [(row.is_online, row.availability) for row in effects.rows] == [
        (True, Availability.ONLINE),
        (False, Availability.OFFLINE),
    ]
    assert world.view("on").availability is Availability.ONLINE
    assert world.rules.view("off") is None
    (hidden,) = world.do(adopt(online_row(user_id="hidden", claim=Claim(Claimed.INVISIBLE)))).changes
    assert (hidden.is_online, hidden.cause) == (False, Cause.RESTART)


def test_a_row_of_a_user_who_is_already_here_is_left_unread() -> None:
    world = World()
    world.do(connect())
    assert world.do(adopt(online_row(Availability.AWAY, claim=Claim(Claimed.BUSY)))) == ([], [], [])
    assert world.view().availability is Availability.ONLINE


def test_all_that_comes_after_a_row_is_newer_than_the_row() -> None:
    world = World()
    far = START_US + 10**9
    world.do(adopt(online_row(version=far)))
    assert world.do(connect("c", "v")).changes[0].version == far + 1


# -- repair ----------------------------------------------------------------------------------------------------------


def test_a_ghost_is_told_to_be_offline_and_keeps_its_last_activity_and_its_claim() -> None:
    world = World()
    busy = Claim(Claimed.BUSY)
    effects = world.do(Repair(online_row(Availability.BUSY, claim=busy, version=START_US + 99)))
    assert told(effects.changes) == [(Availability.OFFLINE, Cause.REPAIR)]
    assert effects.rows == [
        StoredUser("u", False, Availability.OFFLINE, START_MS - HOUR_MS, busy, START_US + 100),
    ]
    assert world.rules.claim_of("u") == busy


def test_a_missing_user_is_written_again_without_a_change() -> None:
    world = World()
    world.do(connect())
    effects = world.do(Repair(online_row(Availability.OFFLINE, is_online=False, version=START_US + 99)))
    assert effects.changes == []
    assert effects.rows == [StoredUser("u", True, Availability.ONLINE, START_MS, None, START_US + 100)]


def test_a_ghost_whom_the_rules_know_only_by_a_claim_is_repaired_too() -> None:
    world = World()
    world.do(claim(Claimed.BUSY))
    (change,) = world.do(Repair(online_row(), Cause.STALE)).changes
    assert (change.cause, change.last_active_ms) == (Cause.STALE, START_MS - HOUR_MS)
    assert world.do(Repair(online_row(version=START_US + 99))).changes == []


def test_where_both_say_offline_the_row_is_written_again_and_its_claim_is_taken_over() -> None:
    world = World()
    row = online_row(Availability.OFFLINE, is_online=False, version=7)
    effects = world.do(Repair(row))
    assert (effects.changes, effects.rows) == ([], [replace(row, version=START_US)])
    assert world.rules.held == 0
    busy = Claim(Claimed.BUSY)
    assert (
        world.do(
            Repair(
                replace(
                    row,
                    claim=busy,
                    odd=("lastActive"),
                )
            )
        )
        .rows[0]
        .claim
        == busy
    )
    assert world.rules.claim_of("u") == busy


@pytest.mark.parametrize("take", [lambda row: Repair(row), lambda row: Adopt(row, START_MS, GRACE_MS)])
def test_a_last_activity_that_is_still_to_come_is_taken_for_now(take: Callable[[StoredUser], Command]) -> None:
    world = World()
    busy = Claim(Claimed.BUSY, None, LATEST_MS + 1)
    world.do(take(replace(online_row(claim=busy), last_active_ms=START_MS + HOUR_MS)))
    row = world.rules.row_of("u")
    assert row is not None
    assert row.last_active_ms == START_MS
    assert row.claim == replace(busy, until_ms=LATEST_MS), "what is let out can be written as a time"


def test_an_adopted_user_of_whose_server_nothing_is_known_was_never_active_in_1970() -> None:
    world = World()
    world.do(Adopt(replace(online_row(), last_active_ms=None), 0, GRACE_MS))
    (change,) = world.wait(GRACE_MS)
    assert change.last_active_ms is None


# -- what can be asked, and memory -----------------------------------------------------------------------------------


def test_nobody_is_known_at_the_start() -> None:
    rules = World().rules
    assert rules.view("u") is None
    assert rules.own_view("u") is None
    assert rules.claim_of("u") is None
    assert rules.linger_of("u") is None
    assert rules.connections_of("u") == ()
    assert rules.online(10) == []
    assert rules.held == rules.connections == rules.version == 0


def test_a_linger_can_be_asked_for_its_end_and_its_cause() -> None:
    world = World()
    world.do(connect(), closed("c", Closing.ERROR))
    assert world.rules.linger_of("u") == (GRACE_MS, Cause.ERROR)


def test_users_who_came_and_went_are_forgotten() -> None:
    world = World(idle_after_ms=1000)
    for i in range(2000):
        world.do(connect(f"c{i}", f"u{i}"), closed(f"c{i}", Closing.LEFT if i % 2 else Closing.CLOSED, f"u{i}"))
    world.wait(GRACE_MS)
    assert world.rules.held == world.rules.connections == 0
    assert [world.rules.count(availability) for availability in Availability] == [0, 0, 0, 0]
    assert world.rules.wait_ms(world.now()) is None


def test_who_is_online_is_counted_by_how_they_look_and_listed_by_their_last_activity() -> None:
    world = World()
    for user_id in ("a", "b", "c", "d"):
        world.clock.stall(1000)
        world.do(connect(f"of-{user_id}", user_id))
    world.do(idle("of-a", "a"), SetClaim("b", Claim(Claimed.BUSY)), SetClaim("d", Claim(Claimed.INVISIBLE)))
    assert [world.rules.count(availability) for availability in Availability] == [1, 1, 1, 1]
    assert [shown.user_id for shown in world.rules.online(10)] == ["b", "c", "a"]
    assert [shown.user_id for shown in world.rules.online(1)] == ["b"]
    assert [shown.user_id for shown in world.rules.online(10, (START_MS + 3000, "c"))] == ["a"]


# -- several nodes -----------------------------------------------------------------------------------------------------


def test_a_connection_that_is_only_said_again_is_as_idle_as_its_device() -> None:
    world = World()
    assert told(world.do(Connect("u", "c", "n", is_idle=True)).changes) == [(Availability.AWAY, Cause.CONNECT)]
    assert told(world.do(active()).changes) == [(Availability.ONLINE, Cause.ACTIVE)]
    assert told(world.do(Connect("u", "c", "other-node")).changes) == []
    assert told(world.do(Connect("u", "c", "other-node", is_idle=True)).changes) == [(Availability.AWAY, Cause.IDLE)]


def test_who_was_on_a_node_that_left_has_a_grace_of_its_own_and_its_cause() -> None:
    world = World()
    world.do(connect())
    assert world.do(NodeLost("u", "n", START_MS, 10 * GRACE_MS, Cause.RESTART)).changes == []
    assert world.wait(10 * GRACE_MS - 1) == []
    assert told(world.wait(1)) == [(Availability.OFFLINE, Cause.RESTART)]


def test_who_was_told_otherwise_by_what_is_lost_is_told_anew_and_who_is_not_here_is_not() -> None:
    world = World()
    world.do(connect())
    row = online_row(Availability.BUSY, version=START_US + HOUR_MS)
    effects = world.do(Retell(row, GRACE_MS))
    assert told(effects.changes) == [(Availability.ONLINE, Cause.REPAIR)]
    assert effects.changes[0].version > row.version
    assert [each.version for each in effects.rows] == [effects.changes[0].version]
    assert World().do(Retell(row, GRACE_MS)).changes == []


def test_who_was_told_to_be_online_by_what_is_lost_and_is_not_there_lingers() -> None:
    world = World()
    world.do(SetClaim("u", Claim(Claimed.BUSY)))
    row = online_row(Availability.ONLINE, version=START_US + 1)
    assert told(world.do(Retell(row, 3 * GRACE_MS)).changes) == [(Availability.BUSY, Cause.REPAIR)]
    world.wait(GRACE_MS)
    assert world.do(Retell(row, GRACE_MS)).changes[0].is_online
    assert world.wait(GRACE_MS) == [], "a grace is not made shorter"
    assert told(world.wait(GRACE_MS)) == [(Availability.OFFLINE, Cause.RESTART)]


def test_whose_end_was_told_by_what_is_lost_has_none_of_the_connections_that_were_open_then() -> None:
    world = World()
    world.do(connect("before"))
    row = StoredUser("u", False, Availability.OFFLINE, None, None, START_US + 1_000_000)
    assert told(world.do(Retell(row, GRACE_MS)).changes) == [(Availability.OFFLINE, Cause.REPAIR)]
    assert world.wait(10 * GRACE_MS) == []
    world.do(connect("after"))
    assert told(world.do(Retell(row, GRACE_MS)).changes) == [(Availability.ONLINE, Cause.REPAIR)]


def test_whose_other_connection_has_opened_since_is_told_to_be_here_once() -> None:
    world = World()
    world.do(connect("before"))
    world.clock.advance(2000)
    world.do(connect("after"))
    row = StoredUser("u", False, Availability.OFFLINE, None, None, START_US + 1_000_000)
    assert told(world.do(Retell(row, GRACE_MS)).changes) == [(Availability.ONLINE, Cause.IDLE)]


def test_a_row_shows_its_user_with_a_version_that_the_registry_has_given_out() -> None:
    row = online_row(Availability.BUSY, version=9)
    for newest, version in ((20, 9), (5, 5)):
        view = presence_in(row, newest)
        assert (view.user_id, view.availability, view.version) == ("u", Availability.BUSY, version)


def test_an_end_that_is_told_anew_is_told_behind_a_claim_that_has_expired_meanwhile() -> None:
    world = World()
    world.do(connect(), SetClaim("u", Claim(Claimed.BUSY, until_ms=START_MS + 500)))
    world.clock.advance(1000)
    row = StoredUser("u", False, Availability.OFFLINE, None, None, START_US + 900_000)
    changes = told(world.do(Retell(row, GRACE_MS)).changes)
    assert changes == [(Availability.ONLINE, Cause.CLAIM_EXPIRED), (Availability.OFFLINE, Cause.REPAIR)]


def test_what_is_told_anew_shows_nobody_who_is_invisible() -> None:
    world = World()
    world.do(connect(), SetClaim("u", Claim(Claimed.INVISIBLE)))
    for is_online in (True, False):
        availability = Availability.ONLINE if is_online else Availability.OFFLINE
        row = StoredUser("u", is_online, availability, None, None, START_US + HOUR_MS)
        assert not world.do(Retell(row, GRACE_MS)).changes[0].is_online


def lost_with_a_grace(node: str = "lost", grace_ms: int = 10 * GRACE_MS) -> NodeLost:
    return NodeLost("u", node, START_MS, grace_ms, Cause.NODE_LOST, may_return=True)


@pytest.mark.parametrize("closing", [Closing.LEFT, Closing.CLOSED])
def test_who_may_still_be_on_a_lost_node_is_there_whatever_becomes_of_the_other_connections(closing: Closing) -> None:
    world = World()
    world.do(Connect("u", "there", "lost"), connect("here"))
    world.do(lost_with_a_grace())
    world.wait(GRACE_MS)
    assert world.do(closed("here", closing)).changes == []
    assert world.wait(9 * GRACE_MS - 1) == []
    assert told(world.wait(1)) == [(Availability.OFFLINE, Cause.NODE_LOST)]


def test_whose_lost_connections_have_all_come_back_is_awaited_no_more() -> None:
    world = World()
    world.do(Connect("u", "a", "lost"), Connect("u", "b", "lost"), connect("here"))
    world.do(lost_with_a_grace())
    world.do(connect("a"), connect("b"), closed("a", Closing.LEFT), closed("b", Closing.LEFT))
    assert told(world.do(closed("here", Closing.LEFT)).changes) == [(Availability.OFFLINE, Cause.LEFT)]


def test_who_is_awaited_is_no_longer_after_the_grace_nor_once_they_are_evicted_or_invisible() -> None:
    for moment in ("late", "evicted", "invisible"):
        world = World()
        world.do(Connect("u", "there", "lost"), connect("here"))
        world.do(lost_with_a_grace())
        if moment == "late":
            world.wait(10 * GRACE_MS)
            assert told(world.do(closed("here", Closing.LEFT)).changes) == [(Availability.OFFLINE, Cause.LEFT)]
        elif moment == "evicted":
            assert told(world.do(Evict("u", True)).changes) == [(Availability.OFFLINE, Cause.CLEANUP)]
            assert world.do(Advance("u")).changes == []
        else:
            assert told(world.do(claim(Claimed.INVISIBLE)).changes) == [(Availability.OFFLINE, Cause.LEFT)]
            world.do(closed("here", Closing.LEFT))
            assert world.do(SetClaim("u", None)).changes == []


def test_of_who_is_awaited_an_idle_device_leaves_an_idle_user_behind() -> None:
    world = World()
    world.do(Connect("u", "there", "lost"), connect("here"))
    world.do(idle("there"))
    world.do(lost_with_a_grace())
    assert told(world.do(closed("here", Closing.LEFT)).changes) == [(Availability.AWAY, Cause.NODE_LOST)]


def test_who_comes_to_another_node_with_one_tab_of_two_is_awaited_with_the_other() -> None:
    world = World()
    world.do(Connect("u", "a", "lost"), Connect("u", "b", "lost"))
    world.do(lost_with_a_grace())
    world.do(connect("c"))
    world.do(closed("c"))
    assert world.wait(10 * GRACE_MS - 1) == []
    assert told(world.wait(1)) == [(Availability.OFFLINE, Cause.NODE_LOST)]
    world.do(connect("d"))
    assert told(world.do(closed("d", Closing.LEFT)).changes) == [(Availability.OFFLINE, Cause.LEFT)]
