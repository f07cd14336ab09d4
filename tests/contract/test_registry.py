"""The contract of ``herenow.registry.base``, sentence by sentence, for every registry there is.

``contract.registries`` says which these are. The clock is turned by the test: nothing here sleeps.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from contract.registries import FACTORIES, GRACE_MS, LOG_CAPACITY, Factory, Opened
from herenow.model import Availability, Cause, Change, Claim, Claimed, Closing, StoredUser, UserPresence
from herenow.registry.base import Batch, Registry, Subscriber
from registry.manual_clock import START_MS

HOUR_MS = 3_600_000


@pytest.fixture(params=FACTORIES)
def factory(request: pytest.FixtureRequest) -> Factory:
    return FACTORIES[request.param]


@pytest.fixture
async def opened(factory: Factory) -> AsyncIterator[Opened]:
    opened = factory(None)
    yield opened
    await opened.registry.close()


@pytest.fixture
async def watching_idleness(factory: Factory) -> AsyncIterator[Opened]:
    """A registry where a connection is idle after ten seconds without activity."""
    opened = factory(10_000)
    yield opened
    await opened.registry.close()


def told(changes: list[Change]) -> list[tuple[str, Availability, Cause]]:
    return [(change.user_id, change.availability, change.cause) for change in changes]


# -- commands --------------------------------------------------------------------------------------------------------


async def test_a_connection_makes_a_user_online_for_watchers_readers_and_the_store(opened: Opened) -> None:
    await opened.registry.connect("alice", "c1", node="n")
    (change,) = opened.changes
    assert (change.user_id, change.is_online, change.cause) == ("alice", True, Cause.CONNECT)
    assert change.last_active_ms == opened.clock.unix_ms
    view = await opened.view("alice")
    assert view == UserPresence("alice", True, Availability.ONLINE, START_MS, None, None, change.version)
    assert opened.rows()["alice"] == StoredUser("alice", True, Availability.ONLINE, START_MS, None, change.version)
    assert opened.registry.as_of_ms is None, "it is so now"


async def test_idleness_and_activity_are_seen_when_all_connections_agree(opened: Opened) -> None:
    registry = opened.registry
    for connection_id in ("c1", "c2"):
        await registry.connect("alice", connection_id, node="n")
    await registry.idle("alice", "c1")
    await registry.idle("alice", "c2")
    await registry.active("alice", "c1")
    assert told(opened.changes)[1:] == [
        ("alice", Availability.AWAY, Cause.IDLE),
        ("alice", Availability.ONLINE, Cause.ACTIVE),
    ]


async def test_a_claim_is_seen_and_an_invisible_user_only_by_themselves(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n")
    await registry.claim("alice", Claim(Claimed.BUSY, "in a call"))
    assert (opened.changes[-1].availability, opened.changes[-1].status_text) == (Availability.BUSY, "in a call")
    await registry.claim("alice", Claim(Claimed.INVISIBLE))
    assert told(opened.changes)[-1] == ("alice", Availability.OFFLINE, Cause.LEFT)
    own = await registry.own_view("alice")
    assert own is not None
    assert own.availability is Availability.ONLINE
    assert opened.rows()["alice"].claim == Claim(Claimed.INVISIBLE)
    await registry.claim("alice", None)
    assert told(opened.changes)[-1] == ("alice", Availability.ONLINE, Cause.CONNECT)


async def test_a_claim_of_an_absent_user_reaches_the_store_and_no_watcher(opened: Opened) -> None:
    await opened.registry.claim("alice", Claim(Claimed.BUSY))
    assert opened.changes == []
    row = opened.rows()["alice"]
    assert (row.is_online, row.last_active_ms, row.claim) == (False, None, Claim(Claimed.BUSY))
    assert await opened.view("alice") is None


async def test_evicting_hands_the_connections_back_and_makes_strangers_of_them(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n")
    await registry.connect("bob", "c2", node="n")
    evicted = await registry.evict(["alice"], disconnect=True)
    assert [connection.connection_id for connection in evicted] == ["c1"]
    assert told(opened.changes)[-1] == ("alice", Availability.OFFLINE, Cause.CLEANUP)
    count = len(opened.changes)
    await registry.active("alice", "c1")
    await registry.disconnect("alice", "c1", Closing.CLOSED)
    await opened.clock.advance(GRACE_MS)
    assert len(opened.changes) == count
    assert [each.user_id for each in await registry.evict(None, disconnect=True, cause=Cause.STALE)] == ["bob"]
    assert told(opened.changes)[-1] == ("bob", Availability.OFFLINE, Cause.STALE)


async def test_a_batch_says_which_connections_must_be_closed_and_why_also_of_who_is_invisible(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n1")
    await registry.connect("alice", "c2", node="n2")
    await registry.connect("bob", "c1", node="n1")
    await registry.claim("bob", Claim(Claimed.INVISIBLE))
    opened.batches.clear()
    evicted = await registry.evict(["alice", "bob"], disconnect=True, cause=Cause.LEFT)
    told_of = [each for batch in opened.batches for each in batch.evicted]
    assert told_of == list(evicted)
    assert [(each.user_id, each.connection_id, each.node, each.cause) for each in told_of] == [
        ("alice", "c1", "n1", Cause.LEFT),
        ("alice", "c2", "n2", Cause.LEFT),
        ("bob", "c1", "n1", Cause.LEFT),
    ]


async def test_a_connection_is_of_one_user_though_another_has_one_with_the_same_id(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n")
    await registry.connect("bob", "c1", node="n")
    await registry.disconnect("alice", "c1", Closing.LEFT)
    assert told(opened.changes)[2:] == [("alice", Availability.OFFLINE, Cause.LEFT)]
    assert await registry.connections_on("n") == (("bob", "c1"),)


async def test_when_the_last_node_leaves_all_are_offline_at_once(opened: Opened) -> None:
    registry = opened.registry
    for user in ("here", "lingers"):
        await registry.connect(user, "c1", node="n")
    await registry.disconnect("lingers", "c1", Closing.CLOSED)
    await registry.leave("n")
    assert set(told(opened.changes)[2:]) == {
        ("here", Availability.OFFLINE, Cause.RESTART),
        ("lingers", Availability.OFFLINE, Cause.RESTART),
    }
    assert not any(row.is_online for row in opened.rows().values())
    assert await registry.connections_on("n") == ()


async def test_a_clean_up_without_disconnecting_spares_who_is_connected(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n")
    await registry.connect("bob", "c2", node="n")
    await registry.disconnect("bob", "c2", Closing.CLOSED)
    assert await registry.evict(None, disconnect=False) == ()
    assert told(opened.changes)[2:] == [("bob", Availability.OFFLINE, Cause.CLEANUP)]


async def test_a_lost_node_takes_its_connections_along_after_the_grace(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n1")
    await registry.connect("bob", "c2", node="n2")
    await opened.clock.advance(5000)
    await registry.node_lost("n1", last_beat_ms=START_MS + 4000)
    await opened.clock.advance(GRACE_MS)
    assert told(opened.changes)[2:] == [("alice", Availability.OFFLINE, Cause.NODE_LOST)]
    assert opened.changes[-1].last_active_ms == START_MS + 4000


async def test_adopted_users_linger_and_only_those_who_stay_away_are_seen_to_go(opened: Opened) -> None:
    registry = opened.registry
    rows = [
        StoredUser("alice", True, Availability.ONLINE, START_MS - HOUR_MS, None, 5),
        StoredUser("bob", True, Availability.BUSY, START_MS - HOUR_MS, Claim(Claimed.BUSY), 6),
        StoredUser("carol", False, Availability.OFFLINE, START_MS - HOUR_MS, Claim(text="on holiday"), 7),
    ]
    await registry.adopt(rows, last_beat_ms=START_MS - 3000, grace_ms=15_000)
    assert (await registry.stats()).users == 2
    await opened.clock.advance(14_999)
    await registry.connect("bob", "c1", node="n")
    assert opened.changes == []
    await opened.clock.advance(1)
    assert told(opened.changes) == [("alice", Availability.OFFLINE, Cause.RESTART)]
    assert opened.changes[0].last_active_ms == START_MS - 3000
    await registry.connect("carol", "c2", node="n")
    assert opened.changes[-1].status_text == "on holiday"


async def test_rows_that_are_wrong_are_answered_with_newer_ones_that_are_true(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n")
    newer = opened.changes[-1].version + 10
    await registry.repair(
        [
            StoredUser("alice", False, Availability.OFFLINE, START_MS, None, newer),
            StoredUser("ghost", True, Availability.ONLINE, START_MS - HOUR_MS, None, 3),
        ]
    )
    assert told(opened.changes)[1:] == [("ghost", Availability.OFFLINE, Cause.REPAIR)]
    assert opened.rows()["alice"].is_online
    assert opened.rows()["alice"].version > newer
    assert not opened.rows()["ghost"].is_online


async def test_what_the_store_is_to_say_is_known_of_who_is_held_and_of_who_went(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n")
    await registry.connect("bob", "c2", node="n")
    await registry.connect("carol", "c3", node="n")
    await registry.claim("alice", Claim(Claimed.INVISIBLE))
    await registry.disconnect("bob", "c2", Closing.LEFT)
    await registry.disconnect("carol", "c3", Closing.LEFT)
    await registry.claim("carol", Claim(Claimed.BUSY))  # held again, but for what others last saw
    last = {each.user_id: each for each in opened.changes}
    rows = await registry.rows(["alice", "bob", "carol", "nobody"])
    assert {user_id: (row.claim, row.last_active_ms) for user_id, row in rows.items()} == {
        "alice": (Claim(Claimed.INVISIBLE), last["alice"].last_active_ms),
        "bob": (None, last["bob"].last_active_ms),
        "carol": (Claim(Claimed.BUSY), last["carol"].last_active_ms),
    }
    assert not any(row.is_online for row in rows.values())
    assert (rows["bob"].version, rows["alice"].version) == (last["bob"].version, last["alice"].version)
    assert set(await registry.known(9)) == {"alice", "bob", "carol"}
    assert set(await registry.known(0)) == {"alice", "carol"}


async def test_a_repair_of_who_went_puts_back_what_is_remembered(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("bob", "c2", node="n")
    await registry.disconnect("bob", "c2", Closing.LEFT)
    wrong = StoredUser("bob", False, Availability.OFFLINE, 5, Claim(Claimed.INVISIBLE), 0)
    await registry.repair([wrong, replace(wrong, user_id="stranger")])
    assert (opened.rows()["bob"].claim, opened.rows()["bob"].last_active_ms) == (
        None,
        opened.changes[-1].last_active_ms,
    )
    stranger = opened.rows()["stranger"]
    assert (stranger.claim, stranger.last_active_ms) == (wrong.claim, 5), "whom only the store knows"


# -- order, atomicity, idempotence -----------------------------------------------------------------------------------


async def test_commands_apply_in_the_order_of_the_calls_awaited_or_not(opened: Opened) -> None:
    registry = opened.registry
    registry.connect("alice", "c1", node="n")
    registry.disconnect("alice", "c1", Closing.LEFT)
    registry.connect("alice", "c2", node="n")
    last = registry.disconnect("alice", "c2", Closing.LEFT)
    await last
    assert [change.is_online for change in opened.changes] == [True, False, True, False]


async def test_a_command_whose_caller_gave_up_waiting_applies_all_the_same(opened: Opened) -> None:
    registry = opened.registry

    async def connect() -> None:
        await registry.connect("alice", "c1", node="n")

    task = asyncio.create_task(connect())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await registry.stats()).connections == 1


COMMANDS: dict[str, Callable[[Registry], Awaitable[Any]]] = {
    "connect": lambda registry: registry.connect("alice", "c9", node="n"),
    "disconnect": lambda registry: registry.disconnect("alice", "c1", Closing.CLOSED),
    "leave": lambda registry: registry.disconnect("alice", "c1", Closing.LEFT),
    "active": lambda registry: registry.active("alice", "c1"),
    "idle": lambda registry: registry.idle("alice", "c1"),
    "claim": lambda registry: registry.claim("alice", Claim(Claimed.AWAY)),
    "invisible": lambda registry: registry.claim("alice", Claim(Claimed.INVISIBLE)),
    "give up": lambda registry: registry.claim("alice", None),
    "evict": lambda registry: registry.evict(["alice"], disconnect=True),
    "lose the node": lambda registry: registry.node_lost("n", last_beat_ms=START_MS),
    "adopt": lambda registry: registry.adopt(
        [StoredUser("bob", True, Availability.ONLINE, START_MS, None, 1)], last_beat_ms=START_MS, grace_ms=5000
    ),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
async def test_a_command_said_twice_does_nothing_the_second_time(
    opened: Opened, command: Callable[[Registry], Awaitable[Any]]
) -> None:
    await opened.registry.connect("alice", "c1", node="n")
    await command(opened.registry)
    stats, batches = await opened.registry.stats(), len(opened.batches)
    await command(opened.registry)
    assert await opened.registry.stats() == stats
    assert len(opened.batches) == batches


async def test_what_is_not_known_is_nothing(opened: Opened) -> None:
    registry = opened.registry
    await registry.disconnect("alice", "?", Closing.CLOSED)
    await registry.active("alice", "?")
    await registry.idle("alice", "?")
    await registry.node_lost("?", last_beat_ms=START_MS)
    assert await registry.evict(["?"], disconnect=True) == ()
    assert opened.batches == []
    assert (await registry.get(["?"])).users == {}
    assert await registry.own_view("?") is None
    assert await registry.explain("?") is None
    assert await registry.connections_of("?") == ()


# -- expiry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", [Closing.CLOSED, Closing.TIMEOUT, Closing.ERROR])
async def test_after_an_unclean_end_the_user_lingers_for_the_grace_and_no_longer(
    opened: Opened, closing: Closing
) -> None:
    await opened.registry.connect("alice", "c1", node="n")
    await opened.clock.advance(1000)
    await opened.registry.disconnect("alice", "c1", closing)
    await opened.clock.advance(GRACE_MS - 1)
    assert len(opened.changes) == 1
    await opened.clock.advance(1)
    assert told(opened.changes)[1:] == [("alice", Availability.OFFLINE, Cause(closing.value))]
    assert opened.changes[-1].last_active_ms == START_MS + 1000


async def test_who_comes_back_within_the_grace_is_not_seen_to_have_been_gone(opened: Opened) -> None:
    await opened.registry.connect("alice", "c0", node="n")
    for i in range(20):
        await opened.registry.disconnect("alice", f"c{i}", Closing.CLOSED)
        await opened.clock.advance(GRACE_MS - 1)
        await opened.registry.connect("alice", f"c{i + 1}", node="n")
    await opened.clock.advance(HOUR_MS)
    assert len(opened.changes) == 1


async def test_a_claim_ends_by_itself_present_or_absent(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n")
    await registry.claim("alice", Claim(Claimed.BUSY, None, START_MS + 5000))
    await registry.claim("bob", Claim(Claimed.AWAY, None, START_MS + 6000))
    await opened.clock.advance(4999)
    assert opened.changes[-1].availability is Availability.BUSY
    await opened.clock.advance(1)
    assert told(opened.changes)[-1] == ("alice", Availability.ONLINE, Cause.CLAIM_EXPIRED)
    await opened.clock.advance(1000)
    assert opened.rows()["bob"].claim is None
    assert (await registry.stats()).held == 1


async def test_a_claim_ends_soon_after_the_wall_clock_was_set_past_its_end(opened: Opened) -> None:
    await opened.registry.connect("alice", "c1", node="n")
    await opened.registry.claim("alice", Claim(Claimed.BUSY, None, START_MS + HOUR_MS))
    opened.clock.set_wall_clock(by_ms=HOUR_MS)
    await opened.clock.advance(60_000)
    assert told(opened.changes)[-1] == ("alice", Availability.ONLINE, Cause.CLAIM_EXPIRED)


async def test_a_silent_connection_becomes_idle_by_itself_where_that_is_asked_for(watching_idleness: Opened) -> None:
    opened = watching_idleness
    await opened.registry.connect("alice", "c1", node="n")
    await opened.clock.advance(9000)
    await opened.registry.active("alice", "c1")
    await opened.clock.advance(9999)
    assert len(opened.changes) == 1
    await opened.clock.advance(1)
    assert told(opened.changes)[1:] == [("alice", Availability.AWAY, Cause.IDLE)]


async def test_a_wall_clock_that_jumps_back_an_hour_turns_no_version_back_and_is_believed(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n")
    opened.clock.set_wall_clock(by_ms=-HOUR_MS)
    await registry.disconnect("alice", "c1", Closing.CLOSED)
    await opened.clock.advance(GRACE_MS)
    await registry.connect("alice", "c2", node="n")
    assert [change.is_online for change in opened.changes] == [True, False, True]
    versions = [change.version for change in opened.changes]
    assert versions == sorted(set(versions))
    moments = [change.last_active_ms or 0 for change in opened.changes]
    assert moments == [START_MS, START_MS - HOUR_MS, START_MS - HOUR_MS + GRACE_MS]
    assert moments[0] == START_MS


# -- delivery --------------------------------------------------------------------------------------------------------


async def test_changes_are_delivered_before_the_command_resolves(opened: Opened) -> None:
    version = opened.registry.version
    future = opened.registry.connect("alice", "c1", node="n")
    assert opened.batches == []
    await future
    assert opened.registry.version == opened.changes[-1].version > version


async def test_every_subscriber_gets_every_batch_once_in_the_order_of_versions(opened: Opened) -> None:
    second: list[Batch] = []
    opened.registry.subscribe(second.append)
    for i in range(30):
        opened.registry.connect(f"user-{i}", f"c{i}", node="n")
        if i % 7 == 0:
            await asyncio.sleep(0)
    await opened.registry.stats()
    assert second == opened.batches
    versions = [change.version for change in opened.changes]
    assert len(versions) == 30
    assert versions == sorted(set(versions))


async def test_a_stamp_lies_between_the_changes_before_it_and_those_after_it(opened: Opened) -> None:
    await opened.registry.connect("alice", "a", node="n")
    first, second = await opened.registry.stamp(), await opened.registry.stamp()
    await opened.registry.connect("bob", "b", node="n")
    before, after = [change.version for change in opened.changes]
    assert before < first < second < after


async def test_a_batch_has_one_row_for_each_user_and_it_is_the_latest(opened: Opened) -> None:
    registry = opened.registry
    registry.connect("alice", "c1", node="n")
    registry.idle("alice", "c1")
    registry.claim("alice", Claim(Claimed.BUSY))
    await registry.connect("bob", "c2", node="n")
    for batch in opened.batches:
        assert len({row.user_id for row in batch.rows}) == len(batch.rows)
    row = opened.rows()["alice"]
    assert (row.availability, row.version) == (Availability.BUSY, opened.changes[2].version)


async def test_a_subscription_ends_when_it_is_told_to_and_only_that_one(opened: Opened) -> None:
    batches: list[Batch] = []
    end_first = opened.registry.subscribe(batches.append)
    opened.registry.subscribe(batches.append)
    await opened.registry.connect("alice", "c1", node="n")
    assert len(batches) == 2
    end_first()
    end_first()
    await opened.registry.disconnect("alice", "c1", Closing.LEFT)
    assert len(batches) == 3


async def test_a_subscriber_that_raises_is_reported_and_harms_nobody(opened: Opened) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    calls: list[Batch] = []

    def broken(batch: Batch) -> None:
        calls.append(batch)
        raise ValueError("a subscriber's own mistake")

    after: list[Batch] = []
    opened.registry.subscribe(broken)
    opened.registry.subscribe(after.append)
    await opened.registry.connect("alice", "c1", node="n")
    await opened.registry.disconnect("alice", "c1", Closing.LEFT)
    assert calls == after == opened.batches
    assert [str(report["exception"]) for report in reports] == ["a subscriber's own mistake"] * 2


async def test_a_subscriber_may_issue_commands_and_subscribe_others_for_later_batches(opened: Opened) -> None:
    registry = opened.registry
    later: list[Batch] = []
    answered: list[Awaitable[None]] = []

    def answer(batch: Batch) -> None:
        if batch.changes[0].user_id == "alice":
            answered.append(registry.connect("bot", "c2", node="n"))
            registry.subscribe(later.append)

    subscriber: Subscriber = answer
    registry.subscribe(subscriber)
    await registry.connect("alice", "c1", node="n")
    await answered[0]
    assert [[change.user_id for change in batch.changes] for batch in opened.batches] == [["alice"], ["bot"]]
    assert later == opened.batches[1:]


# -- reads -----------------------------------------------------------------------------------------------------------


async def test_a_read_sees_the_commands_that_were_issued_before_it(opened: Opened) -> None:
    registry = opened.registry
    registry.connect("alice", "c1", node="n")
    before = registry.get(["alice", "bob"])
    registry.connect("bob", "c2", node="n")
    assert set((await before).users) == {"alice"}
    assert set((await registry.get(["alice", "bob"])).users) == {"alice", "bob"}


async def test_what_is_returned_is_the_readers_own(opened: Opened) -> None:
    await opened.registry.connect("alice", "c1", node="n")
    snapshot = await opened.registry.get(["alice"])
    snapshot.users.clear()
    assert set((await opened.registry.get(["alice"])).users) == {"alice"}
    view = await opened.view("alice")
    await opened.registry.idle("alice", "c1")
    assert view is not None
    assert view.availability is Availability.ONLINE


async def test_a_snapshot_and_the_changes_after_its_version_make_the_next_snapshot(opened: Opened) -> None:
    registry, dice = opened.registry, random.Random(7)
    everybody = [f"user-{i}" for i in range(5)]
    snapshot = await registry.get(everybody)
    views, read_at = dict(snapshot.users), snapshot.version
    for step in range(300):
        user = dice.choice(everybody)
        connection = f"{user}-{dice.randrange(2)}"
        deeds: list[Callable[[], Awaitable[None]]] = [
            partial(registry.connect, user, connection, node="n"),
            partial(registry.disconnect, user, connection, Closing.CLOSED),
            partial(registry.disconnect, user, connection, Closing.LEFT),
            partial(registry.idle, user, connection),
            partial(registry.claim, user, Claim(Claimed.INVISIBLE)),
            partial(registry.claim, user, None),
        ]
        await dice.choice(deeds)()
        await opened.clock.advance(dice.choice([0, 100, 1500]))
        if step % 10 == 9:
            for change in opened.changes:
                if change.version > read_at:
                    views[change.user_id] = UserPresence(
                        *(getattr(change, each) for each in UserPresence.__struct_fields__)
                    )
            snapshot = await registry.get(everybody)
            read_at = snapshot.version
            online = {user: view for user, view in views.items() if view.is_online}
            assert {user: view for user, view in snapshot.users.items() if view.is_online} == online


async def test_who_is_online_comes_in_pages_most_recently_active_first(opened: Opened) -> None:
    registry = opened.registry
    for i in range(25):
        registry.connect(f"user-{i:02}", f"c{i}", node="n")
        await opened.clock.advance(10)
    await registry.disconnect("user-03", "c3", Closing.LEFT)
    await registry.claim("user-04", Claim(Claimed.INVISIBLE))
    expected = [f"user-{i:02}" for i in range(24, -1, -1) if i not in (3, 4)]
    pages, cursor = [], None
    while True:
        page = await registry.online(10, cursor)
        pages.append([view.user_id for view in page.users])
        cursor = page.cursor
        if cursor is None:
            break
    assert [len(page) for page in pages] == [10, 10, 3]
    assert [user for page in pages for user in page] == expected
    assert (await registry.online(23)).cursor is None


async def test_no_user_who_keeps_their_place_is_skipped_or_given_twice_between_pages(opened: Opened) -> None:
    registry = opened.registry
    for i in range(9):
        await opened.clock.advance(1)
        await registry.connect(f"user-{i}", f"c{i}", node="n")
    first = await registry.online(3)
    assert [view.user_id for view in first.users] == ["user-8", "user-7", "user-6"]
    await registry.disconnect("user-6", "c6", Closing.LEFT)  # the one at whom the page ended
    await registry.disconnect("user-4", "c4", Closing.LEFT)
    await opened.clock.advance(1)
    await registry.connect("new", "c9", node="n")
    await registry.claim("user-2", Claim(Claimed.BUSY))  # moves to the front, by a change
    second = await registry.online(3, first.cursor)
    assert [view.user_id for view in second.users] == ["user-5", "user-3", "user-1"]
    missed = await registry.changes_since(first.version)
    assert missed is not None
    assert [change.user_id for change in missed] == ["user-6", "user-4", "new", "user-2"]


async def test_users_who_were_active_in_the_same_millisecond_are_paged_apart(opened: Opened) -> None:
    for i in range(7):
        opened.registry.connect(f"user-{i}", f"c{i}", node="n")
    first = await opened.registry.online(4)
    second = await opened.registry.online(4, first.cursor)
    assert [view.user_id for view in (*first.users, *second.users)] == [f"user-{i}" for i in range(6, -1, -1)]


@pytest.mark.parametrize("cursor", ["", "x", "12", ":alice", "-1:alice", "1.5:alice", "9" * 5000 + ":alice"])
async def test_a_cursor_that_no_page_gave_is_refused(opened: Opened, cursor: str) -> None:
    with pytest.raises(ValueError):
        await opened.registry.online(10, cursor)
    await opened.registry.connect("alice", "c1", node="n")
    assert len((await opened.registry.online(10)).users) == 1


async def test_the_connections_of_a_user_are_described(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n1", transport="websocket", address="192.0.2.7")
    await opened.clock.advance(500)
    await registry.connect("alice", "c2", node="n2")
    await registry.idle("alice", "c2")
    await opened.clock.advance(500)
    await registry.active("alice", "c1")
    first, second = await registry.connections_of("alice")
    assert (first.connection_id, first.user_id, first.node) == ("c1", "alice", "n1")
    assert (first.transport, first.address, first.is_idle) == ("websocket", "192.0.2.7", False)
    assert (first.opened_ms, first.last_activity_ms) == (START_MS, START_MS + 1000)
    assert (second.connection_id, second.node, second.is_idle) == ("c2", "n2", True)
    assert (second.transport, second.address, second.opened_ms) == (None, None, START_MS + 500)


async def test_an_explanation_holds_all_that_decides(opened: Opened) -> None:
    registry = opened.registry
    claim = Claim(Claimed.BUSY, "in a call", START_MS + HOUR_MS)
    await registry.connect("alice", "c1", node="n")
    await registry.claim("alice", claim)
    present = await registry.explain("alice")
    assert present is not None
    assert present.view == present.own_view == await opened.view("alice")
    assert present.claim == claim
    assert present.connections == await registry.connections_of("alice")
    assert (present.lingers_ms, present.linger_cause) == (None, None)
    await registry.disconnect("alice", "c1", Closing.TIMEOUT)
    await opened.clock.advance(500)
    lingering = await registry.explain("alice")
    assert lingering is not None
    assert (lingering.connections, lingering.lingers_ms, lingering.linger_cause) == ((), 1500, Cause.TIMEOUT)


async def test_the_time_that_it_tells_is_the_one_that_it_stamps_with(opened: Opened) -> None:
    await opened.registry.connect("alice", "c1", node="n")
    assert opened.registry.now().unix_ms == opened.changes[0].last_active_ms == opened.clock.unix_ms
    opened.clock.set_wall_clock(-900)
    assert opened.registry.now().unix_ms == opened.changes[0].last_active_ms, "it was only trimmed"


async def test_the_counts_add_up(opened: Opened) -> None:
    registry = opened.registry
    for user in ("alice", "bob", "carol", "dave"):
        await registry.connect(user, f"of-{user}", node="n")
    await registry.connect("alice", "second", node="n")
    await registry.idle("bob", "of-bob")
    await registry.claim("carol", Claim(Claimed.BUSY))
    await registry.claim("dave", Claim(Claimed.INVISIBLE))
    await registry.claim("erin", Claim(Claimed.AWAY))
    stats = await registry.stats()
    assert (stats.online, stats.away, stats.busy, stats.users) == (1, 1, 1, 3)
    assert (stats.connections, stats.held) == (5, 5)
    assert stats.version == registry.version == opened.changes[-1].version


async def test_the_changes_since_a_version_are_the_latest_of_each_user(opened: Opened) -> None:
    registry = opened.registry
    start = registry.version
    assert await registry.changes_since(start) == ()
    for user in ("alice", "bob"):
        await registry.connect(user, f"of-{user}", node="n")
    await registry.idle("alice", "of-alice")
    _, bob, alice = opened.changes
    assert await registry.changes_since(start) == (bob, alice)
    assert await registry.changes_since(bob.version) == (alice,)
    assert await registry.changes_since(alice.version) == ()


async def test_changes_that_are_not_all_known_are_not_given_in_part(opened: Opened) -> None:
    registry = opened.registry
    start = registry.version
    assert await registry.changes_since(start - 1) is None
    assert await registry.changes_since(start + HOUR_MS * 1000) is None
    for i in range(LOG_CAPACITY + 1):
        await registry.connect(f"user-{i}", f"c{i}", node="n")
    assert await registry.changes_since(start) is None
    newest = await registry.changes_since(opened.changes[0].version)
    assert newest is not None
    assert len(newest) == LOG_CAPACITY


async def test_the_latest_changes_of_a_user_are_told_latest_first(opened: Opened) -> None:
    registry = opened.registry
    await registry.connect("alice", "c1", node="n")
    await registry.connect("bob", "c2", node="n")
    await registry.claim("alice", Claim(Claimed.BUSY))
    await registry.claim("alice", Claim(None))
    await registry.disconnect("alice", "c1", Closing.LEFT)
    mine = tuple(each for each in reversed(opened.changes) if each.user_id == "alice")
    assert [each.cause for each in mine] == [Cause.LEFT, Cause.CLAIM, Cause.CLAIM, Cause.CONNECT]
    assert await registry.changes_of("alice", 10) == mine
    assert await registry.changes_of("alice", 2) == mine[:2]
    assert await registry.changes_of("nobody", 10) == ()


# -- the end ---------------------------------------------------------------------------------------------------------


async def test_closing_applies_what_was_issued_and_refuses_all_that_comes_after(opened: Opened) -> None:
    registry = opened.registry
    registry.connect("alice", "c1", node="n")
    registry.disconnect("alice", "c1", Closing.CLOSED)
    await registry.close()
    await registry.close()
    assert told(opened.changes) == [("alice", Availability.ONLINE, Cause.CONNECT)]
    await opened.clock.advance(HOUR_MS)
    await asyncio.sleep(0)
    assert len(opened.changes) == 1
    with pytest.raises(RuntimeError):
        await registry.stats()
    with pytest.raises(RuntimeError):
        registry.subscribe(opened.batches.append)
