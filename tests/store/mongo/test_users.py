"""Users in an application's MongoDB collection: what is touched, how it is found, and what is refused."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from bson import Int64, ObjectId
from bson.binary import Binary, UuidRepresentation

from herenow.errors import StoreMismatch, StoreRefused
from herenow.model import Availability, Claim, Claimed, StoredUser
from herenow.store.base import Applied
from herenow.store.mongo import writes
from herenow.store.mongo.documents import Fields
from herenow.store.mongo.store import MongoStore
from store.rows import NOW_MS, offline, online
from store.shop import Shop

HEX = "507f1f77bcf86cd799439011"
SOME_UUID = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


async def test_the_fields_that_an_application_reads(shop: Shop, kept: MongoStore) -> None:
    shop.users.insert_one({"_id": "alice", "email": "a@example.org", "a.b": 1, "deep": {"$x": [1, 2.0]}})
    claim = Claim(Claimed.BUSY, "in a call", NOW_MS + 1)
    await kept.apply([StoredUser("alice", True, Availability.BUSY, NOW_MS + 250, claim, 7)])
    assert shop.find("alice") == {
        "email": "a@example.org",
        "a.b": 1,
        "deep": {"$x": [1, 2.0]},
        "isOnline": True,
        "lastActive": datetime(2025, 2, 19, 21, 20, 0, 250_000, UTC),
        "presence": {
            "availability": "busy",
            "version": 7,
            "claim": {
                "availability": "busy",
                "text": "in a call",
                "until": datetime(2025, 2, 19, 21, 20, 0, 1000, UTC),
            },
        },
    }
    assert isinstance(shop.find("alice")["presence"]["version"], Int64)
    await kept.reset(version=8)
    assert list(shop.find("alice")) == ["email", "a.b", "deep", "isOnline", "lastActive", "presence"]


async def test_the_names_of_the_fields_are_the_applications(shop: Shop) -> None:
    store = shop.store(collection="people", fields=Fields("online", "seen", "_herenow"))
    await store.init()
    shop.database.people.insert_one({"_id": "alice", "presence": "in the office"})
    await store.apply([online("alice", version=3)])
    assert shop.database.people.find_one() == {
        "_id": "alice",
        "presence": "in the office",
        "online": True,
        "seen": datetime(2025, 2, 19, 21, 20, tzinfo=UTC),
        "_herenow": {"availability": "online", "version": 3},
    }
    assert (await store.counts()).online == 1
    await store.close()


@pytest.mark.parametrize(
    ("raw", "user_id", "nobody"),
    [
        (ObjectId(HEX), HEX, [HEX.upper(), "alice", "x" * 24, "x" * 12, ""]),
        ("alice", "alice", [HEX, "Alice", "\ud800"]),
        (42, "42", ["042", "+42", "4 2", "4_2", "42.0", "٤٢", "9" * 19, "9" * 400]),
        (42.0, "42", ["42.0", "0x2a"]),
        (-(2**63), str(-(2**63)), ["-0", "-"]),
        (
            Binary.from_uuid(SOME_UUID, UuidRepresentation.STANDARD),
            str(SOME_UUID),
            [str(SOME_UUID).upper(), SOME_UUID.hex, f"{{{SOME_UUID}}}"],
        ),
    ],
)
async def test_an_id_is_what_the_collection_has_and_is_written_in_one_way(
    shop: Shop, kept: MongoStore, raw: Any, user_id: str, nobody: list[str]
) -> None:
    shop.users.insert_one({"_id": raw})
    storable = [wrong for wrong in nobody if wrong and "\ud800" not in wrong]
    applied = await kept.apply([online(user_id), *(online(wrong) for wrong in storable)])
    assert (applied.written, set(applied.unknown)) == (1, set(storable))
    assert list(await kept.read([user_id, *nobody])) == [user_id]
    assert [page async for page in kept.online_ids()] == [[user_id]]
    assert [user.user_id for user in (await kept.online()).users] == [user_id]
    assert await kept.reset(version=5) == 1
    assert shop.users.count_documents({}) == 1


async def test_ids_of_several_types_are_reported(shop: Shop) -> None:
    shop.users.insert_many([{"_id": "alice"}, {"_id": ObjectId(HEX)}])
    store = shop.store()
    with pytest.raises(StoreMismatch, match=f"ObjectId and str, such as alice and {HEX}"):
        await store.init()
    await store.close()


async def test_nobody_is_created_unless_it_is_wanted(shop: Shop, kept: MongoStore) -> None:
    assert await kept.apply([online("alice")]) == Applied(written=0, skipped=0, unknown=("alice",))
    assert shop.users.count_documents({}) == 0
    creating = shop.store(create_users=True)
    batch = [online(f"user-{n}", version=n + 1) for n in range(600)]
    assert await creating.apply(batch) == Applied(written=600, skipped=0)
    assert await creating.apply(batch) == Applied(written=0, skipped=600)
    await creating.close()


async def test_two_who_create_the_same_user_at_once_leave_the_newest(shop: Shop, kept: MongoStore) -> None:
    stores = [shop.store(create_users=True) for _ in range(4)]
    rows = [online("alice", version=version) for version in range(1, 21)]
    applied = await asyncio.gather(*(stores[n % 4].apply([row]) for n, row in enumerate(rows)))
    assert sum(each.written + each.skipped for each in applied) == 20
    assert shop.find("alice")["presence"]["version"] == 20
    for store in stores:
        await store.close()


@pytest.mark.parametrize("others", [0, 20])
async def test_who_is_created_between_two_looks_has_their_row(
    shop: Shop, kept: MongoStore, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not there to update, and there when it was asked who is missing: once taken for as new, and never written."""
    find_unknown = writes._find_unknown

    async def find_later(users: writes.UsersCollection, rows: list[Any]) -> frozenset[str]:
        shop.users.insert_one({"_id": "alice"})
        return await find_unknown(users, rows)

    monkeypatch.setattr(writes, "_find_unknown", find_later)
    shop.users.insert_many([{"_id": f"user-{n}"} for n in range(others)] or [{"_id": "somebody"}])
    rows = [online("alice", version=7), online("nobody", version=7), *(online(f"user-{n}") for n in range(others))]
    applied = await kept.apply(rows)
    assert (applied.written, applied.unknown, applied.skipped) == (1 + others, ("nobody",), 0)
    assert shop.find("alice")["presence"]["version"] == 7


# what is refused


async def test_a_validator_refuses_one_user_and_the_others_are_written(shop: Shop, kept: MongoStore) -> None:
    shop.users.insert_many([{"_id": f"user-{n:03}", "email": "x"} for n in range(300)])
    shop.users.update_one({"_id": "user-007"}, {"$unset": {"email": 1}})
    shop.database.command("collMod", "users", validator={"$jsonSchema": {"required": ["email"]}})
    rows = [online(f"user-{n:03}", version=n + 1) for n in range(300)]
    applied = await kept.apply([*rows, online("nobody")])
    assert (applied.written, applied.skipped, applied.unknown) == (299, 0, ("nobody",))
    assert list(applied.refused) == ["user-007"]
    assert "email" in applied.refused["user-007"]
    again = await kept.apply([online(f"user-{n:03}", version=1000 + n) for n in range(5, 10)])
    assert (again.written, list(again.refused)) == (4, ["user-007"])
    assert await kept.reset(version=5000) == 299, "nor does it hold up a clean-up"


async def test_who_cannot_be_set_offline_is_told_of_once_the_others_are(shop: Shop, kept: MongoStore) -> None:
    shop.users.insert_many([{"_id": name, "isOnline": True} for name in ("ann", "ben", "cleo")])
    shop.users.update_many({"_id": {"$ne": "ben"}}, {"$set": {"email": "x"}})
    shop.database.command("collMod", "users", validator={"email": {"$type": "string"}})
    with pytest.raises(StoreRefused, match="set offline: 2; refused, and online as before: 1, such as ben: Document"):
        await kept.reset(version=5000)
    assert [shop.find(name)["isOnline"] for name in ("ann", "ben", "cleo")] == [False, True, False]


async def test_a_unique_index_of_the_application_refuses_a_user_who_would_be_created(shop: Shop) -> None:
    store = shop.store(create_users=True)
    await store.init()
    shop.users.create_index("email", unique=True)
    applied = await store.apply([online("alice"), online("bob")])  # neither has an e-mail address: null, twice
    assert applied.written == 1
    assert "email" in str(applied.refused)
    await store.close()


async def test_a_version_that_somebody_made_a_text_of_is_none(shop: Shop, kept: MongoStore) -> None:
    shop.users.insert_many([{"_id": "alice", "presence": {"version": "new"}}, {"_id": "bob", "presence": []}])
    assert (await kept.apply([online("alice"), online("bob")])).written == 2
    shop.users.update_one({"_id": "alice"}, {"$set": {"presence.version": 5.0}})
    assert (await kept.read(["alice"]))["alice"].version == 5
    assert (await kept.apply([offline("alice", version=5), offline("bob", version=2)])).skipped == 1
    shop.users.update_one({"_id": "alice"}, {"$set": {"presence.version": 2**60}})
    assert await kept.max_version() == 2, "the registry must be able to go on above it"


async def test_who_has_a_last_active_that_is_no_date_is_on_one_page_and_was_never_active(
    shop: Shop, kept: MongoStore
) -> None:
    odd: list[Any] = ["yesterday", 7, None, {"$x": 1}, True]
    shop.users.insert_many([{"_id": f"odd-{n}", "isOnline": True, "lastActive": value} for n, value in enumerate(odd)])
    shop.users.insert_many([{"_id": "missing", "isOnline": True}, {"_id": "alice"}, {"_id": "no", "isOnline": "yes"}])
    await kept.apply([online("alice")])
    everybody = ["alice", *(f"odd-{n}" for n in range(5)), "missing"]
    for limit in (1, 2, 3, 100):
        found: list[StoredUser] = []
        cursor = None
        while True:
            page = await kept.online(after=cursor, limit=limit)
            found += page.users
            cursor = page.cursor
            if cursor is None:
                break
        assert sorted(user.user_id for user in found) == sorted(everybody)
        assert sorted(user.last_active_ms or 0 for user in found) == [0] * 5 + [7, NOW_MS], "a number may be one"
        assert [user.odd for user in found if user.user_id == "odd-0"] == [("lastActive",)]
    assert len((await kept.stale(NOW_MS)).users) == 6
    assert await kept.reset(version=10, before_ms=NOW_MS) == 7, "and whoever is neither"


# the index


def stages(plan: Any) -> set[str]:
    """The names of all stages in what ``explain`` said."""
    if isinstance(plan, dict):
        own = {plan["stage"]} if "stage" in plan else set()
        return own.union(*(stages(value) for value in plan.values()))
    return set().union(*map(stages, plan)) if isinstance(plan, list) else set()


async def test_whoever_asks_who_is_online_goes_through_the_index(shop: Shop, kept: MongoStore) -> None:
    """By the server's own word, of every command that it carried out."""
    shop.users.insert_many([{"_id": f"user-{n:03}"} for n in range(200)])
    claim = Claim(Claimed.BUSY)
    await kept.apply([StoredUser(f"user-{n:03}", True, Availability.BUSY, NOW_MS, claim, 1) for n in range(0, 200, 9)])
    shop.database.command("profile", 2)
    await kept.online(after=(await kept.online(limit=5)).cursor, limit=5)
    await kept.stale(NOW_MS + 1, after=(await kept.stale(NOW_MS + 1, limit=5)).cursor)
    await kept.claimed(after=(await kept.claimed(limit=5)).cursor)
    await kept.counts()
    await kept.read(["user-000", "user-001"])
    assert [len(ids) async for ids in kept.online_ids(page_size=10)] == [10, 10, 3]
    await kept.reset(version=2, before_ms=NOW_MS, on_progress=lambda done, total: None)
    await kept.apply([online("user-009", version=3), online("nobody")])
    shop.database.command("profile", 0)
    of_users = {"ns": f"{shop.name}.users", "planSummary": {"$exists": True, "$ne": "RECORD_STORE_FAST_COUNT"}}
    profiled = list(shop.database["system.profile"].find(of_users))
    assert len(profiled) > 15
    for each in profiled:
        used = stages(each.get("execStats", {}))
        assert "COLLSCAN" not in each["planSummary"], each
        if "$nin" not in str(each["command"]):  # of whom isOnline says neither are few, and are sorted
            assert not each.get("hasSortStage") and "SORT" not in used, each
        if each["op"] == "query":
            assert each["docsExamined"] <= each["nreturned"] + 1, each
    walks = [each for each in profiled if each["command"].get("projection") == {"_id": 1, "lastActive": 1}]
    assert [each["docsExamined"] for each in walks] == [0] * len(walks), "they read the index alone"
    assert len(walks) >= 4


async def test_a_query_of_the_application_goes_through_the_index(shop: Shop, kept: MongoStore) -> None:
    query = shop.users.find({"isOnline": True}).sort("lastActive", -1).limit(20)
    assert stages(query.explain()["queryPlanner"]["winningPlan"]) == {"LIMIT", "FETCH", "IXSCAN"}


@pytest.mark.parametrize("written", [Int64(2**52), Int64(2**63 - 1), 1e300, "a word", None, [7], True, -5])
async def test_a_version_that_no_clock_gives_is_written_over(shop: Shop, kept: MongoStore, written: object) -> None:
    """Another program wrote it: the row would else be wrong for ever."""
    shop.users.insert_one({"_id": "alice", "isOnline": True, "presence": {"version": written}})
    assert (await kept.read(["alice"]))["alice"].version == 0
    assert await kept.max_version() == 0
    assert (await kept.apply([offline("alice", version=7)])).written == 1
    shop.users.update_one({"_id": "alice"}, {"$set": {"isOnline": True, "presence.version": written}})
    assert await kept.reset(version=8) == 1
    assert shop.find("alice")["presence"]["version"] == 8
