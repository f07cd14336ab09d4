"""What every store that keeps tenants guarantees of their users: no write of one reaches another with the same id."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import mongod
from herenow.model import Availability, Claim, Claimed, StoredUser
from herenow.store.base import Store
from herenow.store.mongo.documents import Fields
from herenow.store.mongo.store import MongoStore
from herenow.store.sqlite.store import SqlStore
from herenow.tenancy import key_of

NOW_MS = 1_740_000_000_000


def online(tenant: str | None, user_id: str, version: int = 5) -> StoredUser:
    return StoredUser(key_of(tenant, user_id), True, Availability.ONLINE, NOW_MS, None, version)


def offline(row: StoredUser, version: int) -> StoredUser:
    return replace(row, is_online=False, availability=Availability.OFFLINE, version=version)


# -- SQLite: the key is the id ---------------------------------------------------------------------------------------


async def test_sqlite_holds_the_same_id_in_many_tenants(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/app.db")
    await store.open()
    await store.init()
    assert store.keeps_tenants
    rows = [online(tenant, "alice") for tenant in (None, "acme", "globex")]
    assert (await store.apply(rows)).written == 3
    assert (await store.apply([offline(rows[1], 6)])).written == 1
    found = await store.read([row.user_id for row in rows])
    assert [found[row.user_id].is_online for row in rows] == [True, False, True]
    assert {user.user_id for user in (await store.online()).users} == {rows[0].user_id, rows[2].user_id}
    assert await store.reset(version=9, spare=_spare(rows[0].user_id)) == 1
    assert (await store.read([rows[0].user_id]))[rows[0].user_id].is_online
    await store.close()


def _spare(*keys: str) -> Any:
    async def spare(_: object) -> set[str]:
        return set(keys)

    return spare


# -- MongoDB: a field of the application says whose a document is -------------------------------------------------


@pytest.fixture
def users() -> Iterator[Any]:
    with mongod.shared().client() as client:
        yield client[mongod.fresh_database()].users


def make(users: Any, *, create_users: bool = False, tenant: str | None = "org") -> MongoStore:
    return MongoStore(mongod.shared().url(users.database.name), fields=Fields(tenant=tenant), create_users=create_users)


@pytest.fixture
async def store(users: Any) -> AsyncIterator[Store]:
    users.insert_many(
        [
            {"_id": "alice", "org": "acme"},
            {"_id": "bob"},
            {"_id": "carol", "org": None},
            {"_id": "dave", "org": "not a tenant"},
            {"_id": "erin", "org": ["acme"]},
            {"_id": "frank", "org": "globex"},
            {"_id": "grace", "org": "acme\n"},
        ]
    )
    store = make(users)
    await store.open()
    await store.init()
    yield store
    await store.close()


async def test_a_row_is_written_to_the_document_of_its_user_and_to_no_other(store: Store, users: Any) -> None:
    assert store.keeps_tenants
    theirs = {"alice": "acme", "frank": "globex"}
    everybody = [each["_id"] for each in users.find()]
    for user_id in everybody:
        for tenant in (None, "acme", "globex"):
            row = online(tenant, user_id)
            applied = await store.apply([row])
            if theirs.get(user_id) == tenant:
                assert (applied.written, applied.unknown) == (1, ()), (user_id, tenant)
                assert await store.read([row.user_id]) == {row.user_id: row}
                assert users.find_one(user_id)["isOnline"] is True
            else:
                assert (applied.written, applied.unknown) == (0, (row.user_id,)), (user_id, tenant)
                assert await store.read([row.user_id]) == {}
    assert {each.user_id for each in (await store.online()).users} == {
        key_of(theirs.get(user_id), user_id) for user_id in everybody
    }


async def test_a_batch_holds_users_of_all_tenants_even_with_one_id(store: Store) -> None:
    rows = [online(tenant, user_id) for user_id in ("alice", "frank", "bob") for tenant in (None, "globex", "acme")]
    applied = await store.apply(rows)
    assert applied.written == 3
    assert set(applied.unknown) == {row.user_id for row in rows} - {"acme\x1falice", "globex\x1ffrank", "bob"}
    found = await store.read([row.user_id for row in rows])
    assert set(found) == {"acme\x1falice", "globex\x1ffrank", "bob"}
    again = await store.apply(rows)
    assert (again.written, again.skipped, len(again.unknown)) == (0, 3, 6)


async def test_a_row_that_is_refused_takes_no_other_tenants_with_it(store: Store, users: Any) -> None:
    users.database.command("collMod", users.name, validator={"$nor": [{"_id": "alice", "isOnline": True}]})
    rows = [online("acme", "alice"), online(None, "alice"), online("globex", "frank")]
    applied = await store.apply(rows)
    assert (applied.written, applied.unknown, set(applied.refused)) == (1, ("alice",), {"acme\x1falice"})


async def test_pages_walks_and_resets_know_the_tenants(store: Store, users: Any) -> None:
    rows = [online("acme", "alice"), online(None, "bob"), online("globex", "frank")]
    claim = Claim(Claimed.BUSY)
    rows[0] = replace(rows[0], claim=claim)
    await store.apply(rows)
    keys = {row.user_id for row in rows}
    assert {key async for page in store.online_ids(page_size=1) for key in page} == keys
    assert [each.user_id for each in (await store.claimed()).users] == ["acme\x1falice"]
    assert {each.user_id for each in (await store.stale(NOW_MS + 1)).users} == keys
    assert await store.reset(version=9, spare=_spare("acme\x1falice", "frank")) == 2
    assert [each.user_id for each in (await store.online()).users] == ["acme\x1falice"]


async def test_a_user_who_moves_to_another_tenant_is_not_written_by_the_one_before(store: Store, users: Any) -> None:
    async def moved_meanwhile(_: object) -> set[str]:
        users.update_one({"_id": "alice"}, {"$set": {"org": "globex"}})
        return set()

    await store.apply([online("acme", "alice")])
    assert await store.reset(version=9, spare=moved_meanwhile) == 0, "the condition is in the write itself"
    assert users.find_one("alice")["isOnline"] is True
    late = await store.apply([offline(online("acme", "alice"), 10)])
    assert late.unknown == ("acme\x1falice",)
    assert (await store.apply([offline(online("globex", "alice"), 11)])).written == 1


@pytest.mark.parametrize("make_id", [lambda n: n, float], ids=["whole", "floating"])
async def test_numbers_as_ids_have_tenants_too(users: Any, make_id: Any) -> None:
    users.insert_many([{"_id": make_id(1), "org": "acme"}, {"_id": make_id(2)}])
    store = make(users)
    await store.open()
    await store.init()
    applied = await store.apply([online("acme", "1"), online(None, "1"), online("acme", "2"), online(None, "2")])
    assert (applied.written, set(applied.unknown)) == (2, {"1", "acme\x1f2"})
    assert set(await store.read(["acme\x1f1", "1", "2"])) == {"acme\x1f1", "2"}
    await store.close()


async def test_a_created_user_gets_their_tenant_and_takes_nobodys_document(users: Any) -> None:
    users.insert_one({"_id": "alice", "org": "globex", "isOnline": False})
    store = make(users, create_users=True)
    await store.open()
    await store.init()
    applied = await store.apply([online("acme", "alice"), online("acme", "bob"), online(None, "carol")])
    assert (applied.written, applied.unknown) == (2, ("acme\x1falice",))
    assert users.find_one("alice")["isOnline"] is False
    assert users.find_one("bob")["org"] == "acme"
    assert "org" not in users.find_one("carol")
    await store.close()


async def test_without_the_field_a_tenants_user_is_unknown_and_no_id_is_taken_for_a_key(users: Any) -> None:
    users.insert_many([{"_id": "alice", "org": "acme"}, {"_id": "acme\x1falice", "isOnline": True}])
    store = make(users, tenant=None)
    await store.open()
    await store.init()
    assert not store.keeps_tenants
    applied = await store.apply([online("acme", "alice"), online(None, "alice")])
    assert (applied.written, applied.unknown) == (1, ("acme\x1falice",))
    assert set(await store.read(["alice", "acme\x1falice"])) == {"alice"}
    assert {each.user_id for each in (await store.online()).users} == {"alice", "acme\ufffdalice"}
    await store.close()
