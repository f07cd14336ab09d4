"""MongoDB in trouble: each trouble is an error of ours, a sentence that says what is wrong; and it passes."""

import asyncio
import time
from typing import Any

import pytest
from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure

import mongod
from herenow.errors import StoreDenied, StoreError, StoreInUse, StoreNotReady, StoreUnavailable, StoreUrlInvalid
from herenow.model import StoredUser
from herenow.store.mongo import connection
from herenow.store.mongo.errors import translate
from herenow.store.mongo.store import MongoStore
from herenow.store.mongo.url import parse_url, with_database
from herenow.store.nodes import Node
from store.rows import online
from store.shop import Shop
from support import free_port


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mongodb://localhost", "names no database"),
        ("mongodb://localhost/?w=1", "names no database"),
        ("mongodb+srv://user:geheim@cluster.example", "names no database"),
        ("mongodb://user:geheim@localhost/app?writeConcerns=1", "Unknown option"),
        ("mongodb://user:geheim@localhost/app?tls=perhaps", "tls"),
        ("mongodb://user:ge@heim@localhost/app", "%40 for @"),
        ("mongodb://user:geheim?@localhost/app", "names no"),
        ("mongodb://localhost:99999/app", "Port"),
        ("mongodb://localhost/app?w=0", "w=0"),
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(StoreUrlInvalid, match=reason) as refused:
        MongoStore(url)
    assert "geheim" not in str(refused.value) and "heim@" not in str(refused.value)


def test_a_certificate_that_is_not_there_is_told() -> None:
    with pytest.raises(StoreUrlInvalid, match=r"/nowhere/ca\.pem cannot be read: no such file"):
        MongoStore("mongodb://localhost/app?tls=true&tlsCAFile=/nowhere/ca.pem")


def test_the_name_of_a_database_holds_no_secret() -> None:
    url = "mongodb://user:geheim@one.example,two.example:27018/app?replicaSet=rs0&tlsCertificateKeyFilePassword=auch"
    assert MongoStore(url).name == "mongodb://one.example,two.example:27018/app"
    assert parse_url(url).database == "app"


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("mongodb://h/app", "mongodb://h/x"),
        ("mongodb://h,i/app?replicaSet=r", "mongodb://h,i/x?replicaSet=r"),
        ("mongodb://u:p@h/app", "mongodb://u:p@h/x?authSource=app"),
        ("mongodb://u:p@h/app?tls=true", "mongodb://u:p@h/x?tls=true&authSource=app"),
        ("mongodb://u:p@h/app?authSource=admin", "mongodb://u:p@h/x?authSource=admin"),
        ("mongodb://u@h/app?authMechanism=MONGODB-X509", "mongodb://u@h/x?authMechanism=MONGODB-X509"),
        ("mongodb+srv://u:p@h.example/app", "mongodb+srv://u:p@h.example/x"),
    ],
)
def test_another_database_of_the_server_is_reached_as_the_same_user(url: str, other: str) -> None:
    assert with_database(url, "x") == other


async def test_wrong_credentials_are_told_as_such(shop: Shop) -> None:
    store = MongoStore(f"mongodb://alice:geheim@127.0.0.1:{shop.server.port}/{shop.name}")
    with pytest.raises(StoreDenied, match="the user or the password is wrong") as refused:
        await store.open()
    assert "geheim" not in str(refused.value)
    await store.close()


async def test_nobody_there_is_told_at_once() -> None:
    store = MongoStore(f"mongodb://127.0.0.1:{free_port()}/app", timeout_s=0.3)
    began_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match="connection refused"):
        await store.open()
    assert time.monotonic() - began_s < 1.5
    await store.close()


@pytest.mark.parametrize(
    ("trouble", "kind", "reason"),
    [
        ({"errorCode": 14031}, StoreUnavailable, "its disk is full"),
        ({"errorCode": 13}, StoreDenied, "does not allow it"),
        ({"errorCode": 11602}, StoreUnavailable, "failCommand|no primary"),
        ({"errorCode": 189}, StoreUnavailable, "failCommand|no primary"),
        ({"errorCode": 50}, StoreUnavailable, "in time"),
        ({"errorCode": 112}, StoreUnavailable, "failCommand"),
        ({"closeConnection": True}, StoreUnavailable, "connection (is already )?closed"),
        ({"blockConnection": True, "blockTimeMS": 1500}, StoreUnavailable, "timed out"),
        ({"writeConcernError": {"code": 64, "errmsg": "waiting"}}, StoreUnavailable, "a majority"),
        ({"writeConcernError": {"code": 14031, "errmsg": "disk"}}, StoreUnavailable, "full"),
    ],
)
async def test_a_write_that_fails_is_told_and_works_again_afterwards(
    shop: Shop, kept: MongoStore, trouble: dict[str, Any], kind: type[StoreError], reason: str
) -> None:
    shop.users.insert_one({"_id": "alice"})
    async with shop.opened(timeout_s=0.5) as hasty:
        with shop.server.failing("update", **trouble):
            with pytest.raises(kind, match=reason) as failed:
                await hasty.apply([online("alice")])
            assert "\n" not in str(failed.value)
            assert "{" not in str(failed.value), "a person reads it"
        assert (await _soon(hasty, online("alice", version=2))).version == 2


async def test_trouble_among_rows_that_go_one_by_one_is_not_taken_for_theirs(shop: Shop, kept: MongoStore) -> None:
    shop.users.insert_one({"_id": "alice"})
    shop.database.command("collMod", "users", validator={"email": {"$exists": True}})
    failing = shop.server.failing("bulkWrite", "update", errorCode=14031)
    plain = kept.apply([online("alice")])
    assert (await plain).refused.keys() == {"alice"}
    with failing, pytest.raises(StoreUnavailable, match="full"):
        await kept.apply([online("alice", version=2)])


async def test_a_server_that_hangs_is_noticed_and_forgiven() -> None:
    """SIGSTOP: the connection lives, and nothing comes back."""
    with mongod.running() as server:
        store = MongoStore(server.url("app"), timeout_s=0.4, create_users=True)
        await store.init()
        server.pause()
        began_s = time.monotonic()
        for version in (1, 2):
            with pytest.raises(StoreUnavailable):
                await store.apply([online("alice", version=version)])
        with pytest.raises(StoreUnavailable):
            await store.roll()
        assert time.monotonic() - began_s < 3 * 0.4 + 0.5
        server.resume()
        assert (await _soon(store, online("alice", version=3))).version == 3
        await asyncio.sleep(0.2)
        assert (await store.read(["alice"]))["alice"].version == 3, "what had hung comes late, and changes nothing"
        server.kill()
        with pytest.raises(StoreUnavailable):
            await store.apply([online("alice", version=4)])
        server.start()
        assert (await _soon(store, online("alice", version=5))).version == 5
        await store.close()


async def test_a_server_that_hangs_in_something_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes through all users has no time-out of its own: `init` hung for ever."""
    monkeypatch.setattr(connection, "_LOOK_S", 0.3)
    with mongod.running() as server:
        store = MongoStore(server.url("app"), timeout_s=0.4, create_users=True)
        with server.failing("aggregate", blockConnection=True, blockTimeMS=1200):
            await store.init()  # it takes its time, and the server lives
            preparing = asyncio.create_task(store.max_version())
            await asyncio.sleep(0.1)
            server.pause()
            with pytest.raises(StoreUnavailable):
                async with asyncio.timeout(10):
                    await preparing
            server.resume()
        await store.close()


async def _soon(store: MongoStore, row: StoredUser) -> StoredUser:
    """Write a row as soon as the database takes it, and read it back."""
    async with asyncio.timeout(2):
        while True:
            try:
                await store.apply([row])
                return (await store.read([row.user_id]))[row.user_id]
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def test_of_many_who_claim_at_once_one_wins(shop: Shop, kept: MongoStore) -> None:
    stores = [shop.store() for _ in range(8)]
    nodes = [Node(f"node-{n}", 1, f"host-{n}", n, "", "", 1, 1, 5000) for n in range(8)]
    claims = [store.claim_node(node) for store, node in zip(stores, nodes, strict=True)]
    done = await asyncio.gather(*claims, return_exceptions=True)
    assert sum(each == () for each in done) == 1
    assert sum(isinstance(each, StoreInUse) for each in done) == 7
    for store in stores:
        await store.close()


def test_what_is_not_known_may_pass() -> None:
    for error in (
        OperationFailure("strange", code=4711),
        ConnectionFailure(""),
        ConfigurationError("The DNS query name does not exist: _mongodb._tcp.cluster.example."),
    ):
        translated = translate(error, "db")
        assert isinstance(translated, StoreUnavailable)
        assert translated.reason
    assert not isinstance(translate(OperationFailure("x", code=2), "db"), StoreNotReady)
