"""Users whom the application's database does not have, or has no more: served, or refused and sent away."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from bson import ObjectId
from fastapi import FastAPI

import mongod
from clients import Client, Refused
from herenow.errors import SettingsInvalid, StoreNotReady
from herenow.presence import Presence
from store.databases import execute, select
from support import serving
from wired import mount_wire

SECRET = "a secret of at least thirty-two bytes"
ALICE, BOB, CAROL, NOBODY = (f"507f1f77bcf86cd79943901{number}" for number in range(4))


class Shop:
    """An application's database with alice, bob and carol, as the application sees it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "app.db"
        self.url = f"sqlite:///{self.path}"
        execute(self.path, "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT)")
        self.add(ALICE, BOB, CAROL)

    def add(self, *users: str) -> None:
        for user in users:
            execute(self.path, f"INSERT INTO users (id, email) VALUES ('{user}', 'x@example.org')")

    def delete(self, *users: str) -> None:
        for user in users:
            execute(self.path, f"DELETE FROM users WHERE id = '{user}'")

    def rename(self, old: str, new: str) -> None:
        execute(self.path, f"ALTER TABLE {old} RENAME TO {new}")


class MongoShop(Shop):
    def __init__(self, directory: Path) -> None:
        self.name = mongod.fresh_database()
        self.url = mongod.shared().url(self.name)
        self.add(ALICE, BOB, CAROL)

    def add(self, *users: str) -> None:
        with mongod.shared().client() as client:
            client[self.name].users.insert_many([{"_id": ObjectId(user)} for user in users])

    def delete(self, *users: str) -> None:
        with mongod.shared().client() as client:
            client[self.name].users.delete_many({"_id": {"$in": [ObjectId(user) for user in users]}})

    def rename(self, old: str, new: str) -> None:
        with mongod.shared().client() as client:
            client[self.name][old].rename(new)


@pytest.fixture(params=[Shop, MongoShop], ids=["sqlite", "mongodb"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    made: Shop = request.param(tmp_path)
    return made


class Served:
    def __init__(self, url: str, presence: Presence) -> None:
        self.url, self.presence = url, presence

    async def connect(self, user: str, **claims: Any) -> Client:
        return await Client.connect(self.url, token=jwt.encode({"sub": user, **claims}, SECRET))

    async def refusal(self, user: str, **claims: Any) -> dict[str, Any]:
        with pytest.raises(Refused) as refused:
            await self.connect(user, **claims)
        data: dict[str, Any] = refused.value.error["data"]
        return data


@asynccontextmanager
async def served(url: str, **settings: Any) -> AsyncIterator[Served]:
    given = {"unknown_users": "refuse", "jwt_secret": SECRET, "audit_every_s": 3600.0, **settings}
    presence = Presence(url, **given)  # rounds of the audit are called by hand
    app = FastAPI()
    mount_wire(presence, app)
    async with serving(app) as address:
        yield Served(address, presence)


async def test_whom_the_database_does_not_have_is_not_let_in(shop: Shop) -> None:
    async with served(shop.url) as server:
        alice = await server.connect(ALICE.upper() if isinstance(shop, MongoShop) else ALICE)
        await alice.watch(all=True)
        for stranger in (NOBODY, "no id at all"):
            assert await server.refusal(stranger) == {"code": "unknown_user", "temporary": False}
        await alice.settle()
        assert (alice.diffs, (await server.presence.stats()).users) == ([], 1)
        await alice.close()


async def test_a_crowd_at_the_door_is_few_reads(shop: Shop) -> None:
    async with served(shop.url) as server:
        asked: list[int] = []
        members = server.presence._members
        assert members is not None
        missing = members._missing

        async def counting(keys: Any) -> Any:
            asked.append(len(keys))
            return await missing(keys)

        members._missing = counting
        found = await asyncio.gather(*(server.connect(f"{number:024}") for number in range(60)), return_exceptions=True)
        assert all(isinstance(each, Refused) for each in found)
        assert sum(asked) == 60
        assert len(asked) <= 30, asked


async def test_who_is_deleted_is_sent_away_within_two_audits_and_gone_from_every_view(shop: Shop) -> None:
    async with served(shop.url) as server:
        bob = await server.connect(BOB)
        await bob.watch(ALICE)
        await bob.watch(all=True)
        alice, laptop, carol = await server.connect(ALICE), await server.connect(ALICE), await server.connect(CAROL)
        await carol.call("presence:claim", {"availability": "invisible"})
        await alice.call("presence:claim", {"text": "on stage"})
        await bob.until(lambda: "statusText" in bob.view.get(ALICE, {}))
        shop.delete(ALICE, CAROL)
        await server.presence.audit.round()
        await bob.settle()
        assert bob.shows(ALICE) == "online"
        await server.presence.audit.round()
        for client in (alice, laptop, carol):
            await client.until(client.closed.is_set)
            assert [(each["code"], each["temporary"]) for each in client.errors] == [("unknown_user", False)]
        await bob.until(lambda: bob.shows(ALICE) == "offline")
        stats = await server.presence.stats()
        assert (stats.users, stats.connections, stats.held) == (1, 1, 1), "nor is anything of them kept"
        for user in (ALICE, CAROL):
            assert (await server.refusal(user))["code"] == "unknown_user"
        await server.presence.audit.round()
        assert not bob.closed.is_set()
        await bob.close()


async def test_who_is_only_replaced_stays(shop: Shop) -> None:
    async with served(shop.url) as server:
        alice = await server.connect(ALICE)
        for _ in range(3):
            shop.delete(ALICE)
            await server.presence.audit.round()
            shop.add(ALICE)
            await server.presence.audit.round()
        assert (alice.closed.is_set(), alice.errors) == (False, [])
        await alice.close()


async def test_a_collection_that_is_gone_deletes_nobody(shop: Shop) -> None:
    async with served(shop.url) as server:
        alice = await server.connect(ALICE)
        shop.rename("users", "elsewhere")
        for _ in range(3):
            with pytest.raises(StoreNotReady):
                await server.presence.audit.round()
        await (await server.connect(NOBODY)).close()  # it cannot be known now
        assert (alice.closed.is_set(), alice.errors) == (False, [])
        shop.rename("elsewhere", "users")
        await alice.close()


async def test_a_database_that_hangs_refuses_nobody(tmp_path: Path) -> None:
    shop = MongoShop(tmp_path)
    async with served(shop.url) as server:
        assert (await server.refusal(NOBODY))["code"] == "unknown_user"
        mongod.shared().pause()
        try:
            alice, bob = await server.connect(ALICE), await server.connect(BOB)
        finally:
            mongod.shared().resume()
        await alice.close()
        await bob.close()


async def test_a_file_that_was_moved_away_refuses_nobody(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    async with served(shop.url) as server:
        shutil.move(shop.path, tmp_path / "elsewhere.db")
        alice = await server.connect(ALICE)
        shutil.move(tmp_path / "elsewhere.db", shop.path)
        await alice.close()


async def test_a_user_of_a_tenant_is_known_by_the_tenant_too(tmp_path: Path) -> None:
    shop = MongoShop(tmp_path)
    with mongod.shared().client() as client:
        client[shop.name].users.update_one({"_id": ObjectId(ALICE)}, {"$set": {"organisation": "acme"}})
    async with served(shop.url, tenant_field="organisation") as server:
        alice = await server.connect(ALICE, tenant="acme")
        for other in ({}, {"tenant": "globex"}):
            assert (await server.refusal(ALICE, **other))["code"] == "unknown_user"
        shop.delete(ALICE)
        for _ in range(2):
            await server.presence.audit.round()
        await alice.until(alice.closed.is_set)
        assert server.presence.tenants.names() in ((None,), (None, "acme"), (None, "acme", "globex"))
    async with served(shop.url) as server:
        assert (await server.refusal(BOB, tenant="acme"))["code"] == "forbidden"


async def test_by_default_everybody_is_served(shop: Shop) -> None:
    async with served(shop.url, unknown_users="serve") as server:
        alice, nobody = await server.connect(ALICE), await server.connect(NOBODY)
        shop.delete(ALICE)
        for _ in range(3):
            await server.presence.audit.round()
        assert not alice.closed.is_set()
        assert (await alice.call("presence:get", {"users": [NOBODY]}))["users"][0]["isOnline"]
        await alice.close()
        await nobody.close()


async def test_where_every_user_is_created_nobody_can_be_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="unknown_users is refuse and create_users is on"):
        Presence("mongodb://127.0.0.1/shop", unknown_users="refuse", create_users=True)
    with pytest.raises(StoreNotReady):
        await Presence(f"sqlite:///{tmp_path}/new.db", unknown_users="refuse").start()
    assert not (tmp_path / "new.db").exists()
    execute(tmp_path / "other.db", "CREATE TABLE orders (id TEXT)")
    with pytest.raises(StoreNotReady, match="it has no table users"):
        await Presence(f"sqlite:///{tmp_path}/other.db", unknown_users="refuse").start()
    assert select(tmp_path / "other.db", "SELECT name FROM sqlite_master") == [("orders",)]
    ours = Presence(f"sqlite:///{tmp_path}/ours.db")
    await ours.start()
    await ours.stop()
    with pytest.raises(SettingsInvalid, match="made as they come"):
        await Presence(f"sqlite:///{tmp_path}/ours.db", unknown_users="refuse").start()


async def test_who_came_before_anybody_could_know_what_ids_are_comes_back_under_the_right_one(
    tmp_path: Path,
) -> None:
    """A collection that was empty at the start: a user in capitals was another than the one in small letters."""
    shop = MongoShop(tmp_path)
    shop.delete(ALICE, BOB, CAROL)
    async with served(shop.url, unknown_users="serve") as server:
        early = await server.connect("507F1F77BCF86CD799439010")
        assert early.ready["userId"] == "507F1F77BCF86CD799439010"
        shop.add(ALICE)
        await server.presence.audit.round()
        await early.until(early.closed.is_set)
        assert early.errors == []
        again = await server.connect("507F1F77BCF86CD799439010")
        assert again.ready["userId"] == ALICE
        assert (await server.presence.stats()).users == 1
        await again.close()
