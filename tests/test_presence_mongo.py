"""Presence on MongoDB, in one process: another program that writes too, and the start after a crash."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

import mongod
from herenow.errors import StoreInUse, StoreNotReady
from herenow.presence import Presence
from support import until
from wired import end_all_tasks


@pytest.fixture
def users() -> Any:
    with mongod.shared().client() as client:
        yield client[mongod.fresh_database()].users


@pytest.fixture
async def presence(users: Any) -> AsyncIterator[Presence]:
    url = mongod.shared().url(users.database.name)
    presence = Presence(url, dev=True, audit_every_s=3600.0)  # rounds are called by hand
    users.insert_many([{"_id": "alice"}, {"_id": "ben"}])
    await presence.start()
    await until(lambda: presence.audit.mended_at_start is not None)  # its first look would meet what a test writes
    yield presence
    await presence.stop()


async def written(presence: Presence) -> None:
    await until(lambda: presence.writer.state().pending == 0)


async def test_what_another_program_writes_is_repaired_within_two_rounds(users: Any, presence: Presence) -> None:
    await presence.registry.connect("alice", "c1", node="n")
    await written(presence)
    users.update_one({"_id": "alice"}, {"$set": {"isOnline": False}})
    users.update_one({"_id": "ben"}, {"$set": {"isOnline": True}})
    for _ in range(2):
        await presence.audit.round()
    await written(presence)
    assert {each["_id"]: each["isOnline"] for each in users.find()} == {"alice": True, "ben": False}
    totals = presence.audit.totals
    assert (totals.ghosts, totals.missing, totals.repaired) == (2, 2, 2)
    assert (await presence.audit.round()).ghosts == 0


async def test_who_fights_back_meets_one_write_a_round(users: Any, presence: Presence) -> None:
    await presence.registry.connect("alice", "c1", node="n")
    await written(presence)
    versions = []
    for _ in range(6):
        users.update_one({"_id": "alice"}, {"$set": {"isOnline": False}})
        before = presence.writer.state().written
        await presence.audit.round()
        await written(presence)
        assert presence.writer.state().written - before <= 1
        versions.append(users.find_one("alice")["presence"]["version"])
    assert len(set(versions)) <= 4
    assert presence.audit.totals.repaired == 3
    assert (await presence.get(["alice"]))["alice"].is_online, "and nobody who watches sees any of it"


async def test_a_second_server_is_refused_and_the_next_one_adopts_who_was_left_online(
    users: Any, presence: Presence
) -> None:
    await presence.registry.connect("alice", "c1", node="n")
    await written(presence)
    second = Presence(presence.settings.database, dev=True)
    with pytest.raises(StoreInUse):
        await second.start()
    await end_all_tasks(presence)  # as a crash does
    gone = {"process": presence.node.process.rsplit("/", 1)[0] + "/1"}  # of another process that had its id
    users.database.herenow_nodes.update_one({}, {"$set": gone})
    await second.start()
    assert (await second.get(["alice"]))["alice"].is_online
    await second.stop()
    assert users.find_one("alice")["isOnline"] is False


async def test_a_database_without_users_is_another_than_was_meant(users: Any) -> None:
    """A wrong name once made an empty collection, and served nobody from it."""
    url = mongod.shared().url(users.database.name)
    with pytest.raises(StoreNotReady, match="no collection users; is the name right"):
        await Presence(url, dev=True).start()
    assert users.database.list_collection_names() == []
    creating = Presence(url, dev=True, create_users=True)
    await creating.start()
    await creating.stop()
    assert "users" in users.database.list_collection_names()
