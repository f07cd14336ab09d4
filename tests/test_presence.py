"""The library form: start, stop, restart, reading and acting, with a real store behind it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from herenow.errors import NotStarted, StoreCorrupt, StoreInUse, StoreTooNew, StoreUrlInvalid
from herenow.keeper.writer import Writer
from herenow.model import Availability, Change, Claim, Claimed, Closing, StoredUser
from herenow.presence import Presence
from herenow.store.sqlite.store import SqlStore
from support import until
from wired import end_all_tasks


def make(tmp_path: Path, **settings: Any) -> Presence:
    return Presence(f"sqlite:///{tmp_path}/app.db", **{"dev": True, "offline_within_s": 0.5, **settings})


@pytest.fixture
async def presence(tmp_path: Path) -> AsyncIterator[Presence]:
    presence = make(tmp_path)
    await presence.start()
    await until(lambda: presence.audit.mended_at_start is not None)
    yield presence
    await presence.stop()


async def written(presence: Presence) -> None:
    await until(lambda: presence.writer.state().pending == 0)


# -- reading and following ---------------------------------------------------------------------------------------


async def test_get_knows_those_who_are_here_those_who_were_and_those_who_never_were(presence: Presence) -> None:
    await presence.registry.connect("here", "c1", node="n")
    await presence.registry.connect("was", "c2", node="n")
    await presence.registry.disconnect("was", "c2", Closing.LEFT)
    pending = await presence.get(["here", "was", "never"])
    await written(presence)
    users = await presence.get(["here", "was", "never", "here"])
    assert list(users) == ["here", "was", "never"]
    assert users == pending, "a row on its way to the store counts as if it were there"
    assert users["here"].is_online
    assert not users["was"].is_online
    assert users["was"].last_active_ms is not None
    assert users["never"].last_active_ms is None


async def test_online_goes_through_all_and_stats_counts_them(presence: Presence) -> None:
    for n in range(1_200):
        presence.registry.connect(f"user-{n}", f"c{n}", node="n")
    assert len({user.user_id async for user in presence.online()}) == 1_200
    stats = await presence.stats()
    assert (stats.online, stats.users, stats.connections) == (1_200, 1_200, 1_200)


async def test_a_change_handler_hears_all_in_order_and_one_that_raises_harms_nobody(presence: Presence) -> None:
    heard: list[Change] = []
    late: list[Change] = []

    def fail(change: Change) -> None:
        raise ZeroDivisionError

    async def fail_later(change: Change) -> None:
        raise ZeroDivisionError

    async def hear_later(change: Change) -> None:
        await asyncio.sleep(0)
        late.append(change)

    for handler in (fail, fail_later, hear_later):
        presence.on_change(handler)
    unsubscribe = presence.on_change(heard.append)
    for n in range(5):
        await presence.registry.connect("alice", f"c{n}", node="n")
        await presence.registry.disconnect("alice", f"c{n}", Closing.LEFT)
    assert [change.cause for change in heard] == ["connect", "left"] * 5
    assert [change.version for change in heard] == sorted(change.version for change in heard)
    await until(lambda: len(late) == 10)
    unsubscribe()
    unsubscribe()
    await presence.registry.connect("alice", "c", node="n")
    assert len(heard) == 10


async def test_before_the_start_and_after_the_stop_it_says_so(tmp_path: Path) -> None:
    presence = make(tmp_path)
    with pytest.raises(NotStarted):
        await presence.get(["a"])
    await presence.stop()
    await presence.start()
    await presence.stop()
    await presence.stop()
    for part in ("registry", "writer", "audit", "node"):
        with pytest.raises(NotStarted):
            getattr(presence, part)


# -- restart -----------------------------------------------------------------------------------------------------


async def crash(presence: Presence) -> None:
    """End a presence as a crash does: nothing is written any more, the store's lock is gone."""
    await end_all_tasks(presence)
    await presence.store.close()


async def test_who_comes_back_within_the_restart_grace_never_flickers(tmp_path: Path) -> None:
    first = make(tmp_path, node_lease_s=2.5)
    await first.start()
    for name in ("stays", "goes"):
        await first.registry.connect(name, name, node="n")
    await first.registry.claim("stays", Claim(availability=Claimed.BUSY, text="in a call"))
    await first.registry.claim("hidden", Claim(availability=Claimed.INVISIBLE))
    await written(first)
    await crash(first)

    second = make(tmp_path, node_lease_s=2.5, node_name="other-name", restart_grace_s=8.0)
    await second.start()
    heard: list[Change] = []
    second.on_change(heard.append)
    users = await second.get(["stays", "goes"])
    assert (users["stays"].availability, users["stays"].status_text) == (Availability.BUSY, "in a call")
    assert users["goes"].is_online
    await second.registry.connect("stays", "again", node="n")
    await second.registry.connect("hidden", "hidden", node="n")
    await asyncio.sleep(0.1)
    assert heard == []
    await until(lambda: heard, 12)
    assert [(change.user_id, change.cause) for change in heard] == [("goes", "restart")]
    await written(second)
    rows = await second.store.read(["stays", "goes", "hidden"])
    assert {name: row.is_online for name, row in rows.items()} == {"stays": True, "goes": False, "hidden": False}
    await second.stop()


async def test_a_clean_stop_leaves_nobody_online_and_the_next_start_adopts_nobody(tmp_path: Path) -> None:
    first = make(tmp_path)
    await first.start()
    await first.registry.connect("alice", "c", node="n")
    await first.registry.connect("lingers", "l", node="n")
    await first.registry.disconnect("lingers", "l", Closing.CLOSED)
    await first.stop()
    second = make(tmp_path)
    await second.start()
    assert (await second.store.counts()).online == 0
    assert (await second.stats()).users == 0
    await second.stop()


async def test_a_store_that_was_wrong_before_the_first_start_comes_true(tmp_path: Path) -> None:
    """What the original system's scripts were for: users marked online for ever."""
    store = SqlStore(f"sqlite:///{tmp_path}/app.db")
    await store.init()
    ghosts = [StoredUser(f"ghost-{n}", True, Availability.ONLINE, 1_000 + n, None, 5) for n in range(2_500)]
    await store.apply(ghosts)
    await store.close()
    presence = make(tmp_path, restart_grace_s=8.0)
    await presence.start()
    assert (await presence.stats()).users == 2_500
    await until(lambda: presence._registry is not None and presence.writer.state().written == 2_500, 12)
    assert (await presence.store.counts()).online == 0
    assert (await presence.get(["ghost-7"]))["ghost-7"].last_active_ms == 1_007
    await presence.stop()


# -- the store's bad days ----------------------------------------------------------------------------------------


async def test_a_second_presence_on_the_same_store_is_refused(presence: Presence, tmp_path: Path) -> None:
    second = make(tmp_path, node_name="second")
    with pytest.raises(StoreInUse, match="belongs to another server"):
        await second.start()
    await presence.registry.connect("alice", "c", node="n")
    await written(presence)


async def test_a_database_that_is_full_for_a_while_loses_nothing(tmp_path: Path) -> None:
    presence = make(tmp_path)
    presence.store = SqlStore(presence.settings.database, pragmas={"max_page_count": 40})
    await presence.start()
    for n in range(5_000):
        presence.registry.connect(f"user-{n}", f"c{n}", node="n")
    await until(lambda: presence.writer.state().failures > 0)
    assert not presence.writer.state().healthy
    assert "full" in (presence.writer.state().last_error or "")
    assert (await presence.stats()).online == 5_000, "presence goes on in real time"
    roomy = SqlStore(presence.settings.database)
    await roomy.open()
    writer = presence.writer
    assert isinstance(writer, Writer)
    full, writer._store = writer._store, roomy  # somebody made room
    await until(lambda: presence.writer.state().pending == 0)
    assert (await roomy.counts()).online == 5_000
    await presence.stop()
    await roomy.close()
    await full.close()


async def test_drift_is_repaired_when_it_is_seen_twice(presence: Presence) -> None:
    """Another program writes the two fields behind our back."""
    await presence.registry.connect("alice", "c", node="n")
    await written(presence)
    version = presence.registry.version
    await presence.store.apply(
        [
            StoredUser("alice", False, Availability.OFFLINE, 5, None, version + 1),
            StoredUser("ghost", True, Availability.ONLINE, 7, None, version - 1),
        ]
    )
    await presence.registry.connect("bob", "b", node="n")  # so that what was written is older than the round
    await presence.registry.claim("alice", Claim(availability=Claimed.BUSY, text="kept"))
    await written(presence)
    version = presence.registry.version
    await presence.store.apply([StoredUser("alice", False, Availability.OFFLINE, 5, None, version + 1)])
    await presence.registry.connect("bob", "b2", node="n")
    heard: list[Change] = []
    presence.on_change(heard.append)
    first = await presence.audit.round()
    assert (first.ghosts, first.missing, first.repaired) == (1, 1, 0)
    second = await presence.audit.round()
    assert second.repaired == 2
    await written(presence)
    rows = await presence.store.read(["alice", "ghost"])
    assert {name: row.is_online for name, row in rows.items()} == {"alice": True, "ghost": False}
    assert rows["alice"].claim == Claim(availability=Claimed.BUSY, text="kept"), "a repair must not lose the claim"
    third = await presence.audit.round()
    assert (third.ghosts, third.missing) == (0, 0)
    assert [change.cause for change in heard if change.user_id == "alice"] == []


async def test_a_row_ahead_of_the_registry_is_repaired_and_misleads_no_client(presence: Presence) -> None:
    """Another program wrote it, or a clock that was an hour ahead: a client keeps what has the higher version."""
    ahead = presence.registry.version + 3_600_000_000
    await presence.registry.connect("alice", "c", node="n")
    await written(presence)
    await presence.store.apply(
        [
            StoredUser("alice", False, Availability.OFFLINE, 5, None, ahead),
            StoredUser("ghost", True, Availability.ONLINE, 7, None, ahead),
        ]
    )
    shown = (await presence.get(["ghost"]))["ghost"]
    assert not shown.is_online
    await presence.registry.connect("ghost", "g", node="n")
    assert (await presence.get(["ghost"]))["ghost"].version > shown.version
    await presence.evict(["ghost"], disconnect=True)
    await written(presence)
    assert [(await presence.audit.round()).repaired for _ in range(3)] == [0, 2, 0]
    await written(presence)
    rows = await presence.store.read(["alice", "ghost"])
    assert {name: row.is_online for name, row in rows.items()} == {"alice": True, "ghost": False}
    await presence.registry.claim("alice", Claim(availability=Claimed.BUSY))
    await written(presence)
    assert (await presence.store.read(["alice"]))["alice"].availability is Availability.BUSY


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"this is no database at all, but a text of some length" * 100, StoreCorrupt),
        (b"SQLite format 3\x00" + b"\xff" * 4_096, StoreCorrupt),
    ],
)
async def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    (tmp_path / "app.db").write_bytes(content)
    with pytest.raises(error, match=r"app\.db"):
        await make(tmp_path).start()
    assert (tmp_path / "app.db").read_bytes() == content


async def test_a_database_of_a_newer_herenow_is_left_alone(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/app.db")
    await store.init()
    await store.close()
    import sqlite3

    with sqlite3.connect(tmp_path / "app.db") as connection:
        connection.execute("UPDATE herenow_schema SET version = 99")
    connection.close()
    with pytest.raises(StoreTooNew, match="99"):
        await make(tmp_path).start()


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    presence = Presence(f"sqlite:///{tmp_path}/nowhere/app.db", dev=True)
    with pytest.raises(StoreUrlInvalid, match="nowhere"):
        await presence.start()
