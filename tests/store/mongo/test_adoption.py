"""Adopting an application's MongoDB collection: what is found, what is filled, and what stays as it is."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId
from msgspec.structs import replace

from herenow.errors import StoreMismatch, StoreNotReady, StoreTooNew
from herenow.model import Claim, Claimed
from herenow.store.base import Gaps
from herenow.store.mongo.store import MongoStore
from store.rows import NOW_MS, offline, online
from store.shop import Shop

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PEOPLE: list[dict[str, Any]] = [
    {"_id": ObjectId(), "name": "Ann", "email": "ann@example.org", "password": "$2b$10$x"},
    {"_id": ObjectId(), "name": "Ben", "email": "ben@example.org", "isOnline": True},
    {"_id": ObjectId(), "name": "Cleo", "isOnline": None, "lastActive": None},
    {"_id": ObjectId(), "name": "Dan", "isOnline": "yes", "lastActive": datetime(2025, 1, 1, tzinfo=UTC)},
]
INDEXES = (
    "create the index herenow_online on users (isOnline, lastActive descending, _id descending)",
    "create the index herenow_claims on users (_id) where there is a claim",
    "create the index herenow_away_or_busy on users (presence.availability, isOnline) where away or busy",
)
NOTE = "note the schema version 1 in herenow_schema"


@pytest.fixture
async def unprepared(shop: Shop) -> Any:
    store = shop.store()
    await store.open()
    yield store
    await store.close()


def everything(shop: Shop) -> list[dict[str, Any]]:
    return list(shop.users.find().sort("_id"))


async def test_an_applications_collection_is_adopted(shop: Shop, unprepared: MongoStore) -> None:
    shop.users.insert_many(PEOPLE)
    shop.users.create_index([("isOnline", 1), ("lastActive", -1)])
    before = everything(shop)
    would = await unprepared.init(dry_run=True)
    assert everything(shop) == before
    assert shop.database.list_collection_names() == ["users"]
    report = await unprepared.init()
    assert would.steps == report.steps
    filling = (
        "set isOnline to false where it is missing or null: 2 users; "
        "isOnline to false where it is neither true nor false: 1 user; "
        "lastActive to 1970-01-01 (never) where it is missing: 2 users"
    )
    assert report.steps == (filling, *INDEXES, NOTE)
    dan = PEOPLE[3]["_id"]
    assert report.found == (
        "4 users in users, their _id is of the type ObjectId",
        f"isOnline is not true or false: string in 1 of them, such as {dan}",
        "indexes: _id_, isOnline_1_lastActive_-1",
        "the index isOnline_1_lastActive_-1 is the beginning of herenow_online, which serves its queries as well",
    )
    ann, ben, cleo, dan = PEOPLE
    assert everything(shop) == [
        {**ann, "isOnline": False, "lastActive": EPOCH},
        {**ben, "lastActive": EPOCH},
        {**cleo, "isOnline": False},  # a null of the application means never, as before
        {**dan, "isOnline": False},
    ]
    assert (await unprepared.init()).steps == ()
    users = await unprepared.read([str(each["_id"]) for each in PEOPLE])
    assert [user.last_active_ms for user in users.values()] == [None, None, None, 1_735_689_600_000]


async def test_users_are_filled_range_by_range_with_progress(shop: Shop, unprepared: MongoStore) -> None:
    shop.users.insert_many([{"_id": n} for n in range(2_300)])
    progress: list[tuple[int, int]] = []
    report = await unprepared.init(on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(1000, 2300), (2000, 2300), (2300, 2300)]
    assert "2,300 users" in report.steps[0]
    assert shop.users.count_documents({"isOnline": False, "lastActive": EPOCH}) == 2300


async def test_a_filling_that_was_interrupted_is_taken_up_again(shop: Shop, unprepared: MongoStore) -> None:
    shop.users.insert_many([{"_id": n} for n in range(2_300)])

    class Died(Exception):
        pass

    def die(done: int, total: int) -> None:
        raise Died

    with pytest.raises(Died):
        await unprepared.init(on_progress=die)
    assert not unprepared.prepared
    with pytest.raises(StoreNotReady):
        await unprepared.counts()
    report = await unprepared.init()
    assert "1,300 users" in report.steps[0]
    assert (await unprepared.init()).steps == ()


async def test_several_who_prepare_at_once_do_no_harm(shop: Shop) -> None:
    shop.users.insert_many([{"_id": n} for n in range(100)])
    stores = [shop.store() for _ in range(4)]
    await asyncio.gather(*(store.init() for store in stores))
    assert (await stores[0].init()).steps == ()
    for store in stores:
        await store.close()


async def test_a_name_that_is_wrong_does_not_look_like_an_empty_database(shop: Shop, unprepared: MongoStore) -> None:
    shop.database.people.insert_one({})
    for question in (unprepared.counts(), unprepared.roll(), unprepared.apply([online("alice")])):
        with pytest.raises(StoreNotReady, match="herenow init"):
            await question
    assert shop.database.list_collection_names() == ["people"]
    report = await unprepared.init(dry_run=True)
    assert report.found == ("there is no collection users yet; the others are: people",)
    assert report.steps[0] == "create the collection users"


async def test_an_index_that_somebody_dropped_is_missed_and_no_question_fails(shop: Shop, kept: MongoStore) -> None:
    """Mongoose's ``syncIndexes()`` drops what its schema does not name. Without, all takes longer, and is right."""
    shop.users.insert_many([{"_id": f"user-{n}"} for n in range(12)])
    shop.users.insert_many(
        [{"_id": f"odd-{n}", "isOnline": True, "lastActive": odd} for n, odd in enumerate((None, 7))]
    )
    busy = Claim(Claimed.BUSY)
    rows = [online(f"user-{n}", last_active_ms=NOW_MS + 1000 * (n // 3)) for n in range(11)]
    await kept.apply([*rows, replace(offline("user-11"), claim=busy)])

    async def answers() -> list[object]:
        pages = [(page := await kept.online(limit=4)).users]
        while page.cursor is not None:
            pages.append((page := await kept.online(limit=4, after=page.cursor)).users)
        stale = await kept.stale(NOW_MS + 1500, after_ms=NOW_MS + 2500)
        return [pages, stale, await kept.claimed(), await kept.counts(), [ids async for ids in kept.online_ids()]]

    before = await answers()
    assert len(before[1].users) == 10  # type: ignore[attr-defined]
    shop.users.drop_indexes()
    assert await answers() == before
    gaps = await kept.gaps()
    assert [part.partition(" is missing: ")[0] for part in gaps.parts] == [
        "the index herenow_online on users",
        "the index herenow_claims on users",
        "the index herenow_away_or_busy on users",
    ]
    assert await kept.reset(version=9, before_ms=NOW_MS + 1500) == 8
    again = shop.store()
    await again.open()
    assert not again.prepared
    assert ((await again.roll()).nodes, (await again.counts()).odd) == ([], 0)
    assert (await again.init()).steps[1:] == INDEXES
    assert await kept.gaps() == Gaps()
    await again.close()


@pytest.mark.parametrize("lists", [{"isOnline": [True], "lastActive": [1]}, {"isOnline": [], "lastActive": [None]}])
async def test_lists_in_our_fields_do_not_stop_an_adoption(shop: Shop, unprepared: MongoStore, lists: Any) -> None:
    """MongoDB makes no index over two lists of one document, and ``init`` ended there."""
    shop.users.insert_many([{"_id": "alice", **lists}, {"_id": "ben"}])
    await unprepared.init()
    assert shop.find("alice") == {"isOnline": False, "lastActive": EPOCH}
    shop.users.update_one({"_id": "ben"}, {"$set": {"presence": ["mine"]}})
    assert (await unprepared.init()).steps == (), "what stands in the place of our notes later is mended by the audit"
    page = await unprepared.sift(version=2**50, after_ms=NOW_MS)
    assert [(user.user_id, user.odd) for user in page.users] == [("ben", ("presence",))]
    await unprepared.reset(version=9)
    assert (await unprepared.apply([online("ben", version=10)])).written == 1
    assert shop.find("ben")["presence"] == {"availability": "online", "version": 10}


async def test_a_collation_of_the_collection_is_that_of_our_indexes_too(shop: Shop, unprepared: MongoStore) -> None:
    shop.database.create_collection("users", collation={"locale": "fr", "strength": 1})
    ids = [ObjectId(), ObjectId()]
    shop.users.insert_many([{"_id": each, "isOnline": True} for each in ids])
    assert (await unprepared.init()).steps
    assert (await unprepared.init()).steps == ()
    async with shop.opened() as another:
        assert another.prepared
        assert {user.user_id for user in (await another.online(limit=1)).users} < set(map(str, ids))
        assert (await another.apply([online(str(ids[0]))])).written == 1
        assert await another.reset(version=online("").version + 1) == 2


async def test_ids_that_a_collation_makes_one_are_not_taken(shop: Shop, unprepared: MongoStore) -> None:
    shop.database.create_collection("users", collation={"locale": "fr", "strength": 1})
    shop.users.insert_one({"_id": "alice"})
    with pytest.raises(StoreMismatch, match=r"users has a collation \(fr\)"):
        await unprepared.init()


async def test_an_index_of_another_kind_under_our_name_is_told(shop: Shop, unprepared: MongoStore) -> None:
    shop.users.create_index("email", name="herenow_online")
    with pytest.raises(StoreMismatch, match="drop that first"):
        await unprepared.init()


async def test_what_a_newer_herenow_made_is_left_alone(shop: Shop, kept: MongoStore) -> None:
    shop.database.herenow_schema.update_one({}, {"$set": {"version": 2}})
    newer = shop.store()
    with pytest.raises(StoreTooNew):
        await newer.open()
    with pytest.raises(StoreTooNew):
        await newer.init()
    await newer.close()


@pytest.mark.parametrize("presence", ["in the office", {"status": "here"}, None, [1]])
async def test_a_field_presence_of_the_applications_own_is_not_overwritten(
    shop: Shop, unprepared: MongoStore, presence: object
) -> None:
    shop.users.insert_one({"_id": "alice", "presence": presence})
    with pytest.raises(StoreMismatch, match="HERENOW_PRESENCE_FIELD"):
        await unprepared.init()
    assert shop.find("alice") == {"presence": presence}


async def test_a_view_is_no_collection(shop: Shop, unprepared: MongoStore) -> None:
    shop.database.people.insert_one({"_id": "alice"})
    shop.database.create_collection("users", viewOn="people", pipeline=[])
    with pytest.raises(StoreMismatch, match="users is a view"):
        await unprepared.init()


# validators


async def test_schema_adds_the_fields_to_the_validator_and_keeps_what_is_there(
    shop: Shop, unprepared: MongoStore
) -> None:
    own = {"bsonType": "object", "required": ["email"], "properties": {"email": {"bsonType": "string"}}}
    shop.database.create_collection(
        "users", validator={"$jsonSchema": own, "age": {"$gte": 0}}, validationLevel="moderate", validationAction="warn"
    )
    shop.users.insert_one({"_id": "alice", "email": "a@example.org", "age": 3})
    would = await unprepared.init(dry_run=True, schema=True)
    report = await unprepared.init(schema=True)
    assert would.steps == report.steps
    assert "a validator (level moderate, action warn)" in report.found
    (options,) = [each["options"] for each in shop.database.list_collections(filter={"name": "users"})]
    assert options == {
        "validator": {
            "$jsonSchema": {
                "bsonType": "object",
                "required": ["email", "isOnline", "lastActive"],
                "properties": {
                    "email": {"bsonType": "string"},
                    "isOnline": {"bsonType": "bool"},
                    "lastActive": {"bsonType": ["date", "null"]},
                    "presence": {"bsonType": "object"},
                },
            },
            "age": {"$gte": 0},
        },
        "validationLevel": "moderate",
        "validationAction": "warn",
    }
    assert (await unprepared.init(schema=True)).steps == ()


async def test_with_schema_herenows_own_writes_are_valid_and_wrong_ones_are_not(
    shop: Shop, unprepared: MongoStore
) -> None:
    shop.users.insert_one({"_id": "alice"})
    await unprepared.init(schema=True)
    row = online("alice", last_active_ms=None)
    assert (await unprepared.apply([row])).written == 1
    assert await unprepared.reset(version=5) == 1
    for wrong in ({"_id": "ben"}, {"_id": "ben", "isOnline": 1, "lastActive": None}):
        with pytest.raises(Exception, match="failed validation"):
            shop.users.insert_one(wrong)


async def test_a_schema_that_knows_no_other_fields_is_opened_for_ours(shop: Shop, unprepared: MongoStore) -> None:
    closed = {"properties": {"_id": {}, "email": {}}, "additionalProperties": False}
    shop.database.create_collection("users", validator={"$jsonSchema": closed})
    shop.users.insert_one({"_id": "alice", "email": "a@example.org"})
    with pytest.raises(StoreMismatch, match=r"additionalProperties is false.*`herenow init --schema` does so"):
        await unprepared.init()
    await unprepared.init(schema=True)
    assert (await unprepared.apply([online("alice")])).written == 1


async def test_who_cannot_be_filled_is_told_of_and_the_others_are(shop: Shop, unprepared: MongoStore) -> None:
    shop.users.insert_many([{"_id": "ann", "email": 1}, {"_id": "ben"}, {"_id": "cleo", "email": 1}])
    shop.database.command("collMod", "users", validator={"email": {"$exists": True}})
    report = await unprepared.init()
    assert "but for 1 whom the database refuses, such as ben" in report.steps[0]
    assert [each.get("isOnline") for each in everything(shop)] == [False, None, False]
    again = await unprepared.init()  # with nobody left whom it could fill
    assert len(again.steps) == 1 and "but for 1 whom the database refuses, such as ben" in again.steps[0]
    shop.users.drop_index("herenow_claims")
    assert len((await unprepared.init()).steps) == 2  # the server does so at its start, and must come up
    assert not (await unprepared.init()).steps[1:]


async def test_a_validator_is_not_put_over_wrong_values(shop: Shop, unprepared: MongoStore) -> None:
    shop.users.insert_one({"_id": "alice", "isOnline": "yes", "lastActive": NOW_MS})
    with pytest.raises(StoreMismatch, match=r"isOnline is string.*lastActive is long"):
        await unprepared.init(schema=True)
    assert shop.database.list_collection_names() == ["users"]
