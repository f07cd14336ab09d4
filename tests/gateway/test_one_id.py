"""One document is one user, however a token, a payload, a path or a command writes its id: on a real database."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from bson import Int64, ObjectId
from fastapi import FastAPI

import mongod
from clients import Client
from herenow.cli import alone
from herenow.gateway.handlers import Gateway
from herenow.mounting import mount
from herenow.presence import Presence
from herenow.settings import Settings
from store.databases import execute
from support import http_client, serving, until

SECRET = "a secret of at least thirty-two bytes"
ADMIN = "an admin token of the tests"
A, B = "507f1f77bcf86cd799439011", "507f1f77bcf86cd799439012"

DATABASES = ["ObjectId", "number", "sqlite"]
WRITTEN = {
    "ObjectId": ((A, A.upper()), (B, B.upper())),
    "number": (("7", "007"), ("8", "+8")),
    "sqlite": (("7", "7.0"), ("8", " 8")),
}
"""Two users of each database, each in the one way and in another."""


class Served:
    def __init__(self, url: str, database: str, presence: Presence, gateway: Gateway) -> None:
        self.url, self.database, self.presence, self.gateway = url, database, presence, gateway
        headers = {"Authorization": f"Bearer {ADMIN}"}
        self.http = http_client(base_url=url, headers=headers)

    async def connect(self, user: str, **claims: Any) -> Client:
        return await Client.connect(self.url, token=jwt.encode({"sub": user, **claims}, SECRET))

    async def online(self) -> list[str]:
        await until(lambda: self.presence.writer.state().pending == 0)
        return [row.user_id for row in (await self.presence.store.online()).users]


def database(kind: str, directory: Path) -> str:
    """Make a database with the two users; returns its address."""
    if kind == "sqlite":
        execute(
            directory / "app.db", "CREATE TABLE users (id INTEGER PRIMARY KEY)", "INSERT INTO users VALUES (7), (8)"
        )
        return f"sqlite:///{directory}/app.db"
    name = mongod.fresh_database()
    ids: Sequence[Any] = [ObjectId(A), ObjectId(B)] if kind == "ObjectId" else [Int64(7), 8]
    with mongod.shared().client() as client:
        client[name].users.insert_many([{"_id": each} for each in ids])
    return mongod.shared().url(name)


@asynccontextmanager
async def served(url: str, **given: Any) -> AsyncIterator[Served]:
    settings = {"jwt_secret": SECRET, "admin_tokens": [ADMIN], "audit_every_s": 3600.0, **given}
    presence = Presence(url, **settings)
    app = FastAPI()
    gateway = mount(presence, app)
    async with serving(app) as address:
        server = Served(address, url, presence, gateway)
        yield server
        await server.http.aclose()


@pytest.mark.parametrize("kind", DATABASES)
async def test_one_document_is_one_user_through_every_door(tmp_path: Path, kind: str) -> None:
    """Two spellings were two users, of whom the database knew one, or who both wrote the same row."""
    (alice, other_alice), (bob, other_bob) = WRITTEN[kind]
    url = database(kind, tmp_path)
    async with served(url) as server:
        # tokens, and whom they may watch
        phone, laptop = await server.connect(other_alice), await server.connect(alice)
        assert [phone.ready["userId"], laptop.ready["userId"]] == [alice, alice]
        assert (await server.presence.stats()).users == 1
        assert await server.online() == [alice]
        token = jwt.encode({"sub": alice, "watch": [other_bob]}, SECRET)
        assert (await phone.call("presence:refresh", {"token": token}))["ok"]

        # payloads: each user once, and the answer says under which id
        asked = [other_bob, alice, other_alice]
        for event in ("presence:watch", "presence:get"):
            answer = await phone.call(event, {"users": asked})
            assert [user["userId"] for user in answer["users"]] == [bob, alice]
            assert answer["canonical"] == {other_bob: bob, other_alice: alice}
            assert "refused" not in answer
        newer = await phone.call("presence:watch", {"users": [other_bob], "since": answer["version"]})
        assert (newer["full"], newer["canonical"]) == (False, {other_bob: bob})
        assert "canonical" not in await phone.call("presence:get", {"users": [bob]})
        bobs = await server.connect(other_bob)
        await phone.until(lambda: phone.shows(bob) == "online")
        refused = await (stranger := await server.connect(bob, watch=[])).call("presence:get", {"users": [other_alice]})
        assert refused["refused"] == [{"userId": alice, "code": "forbidden"}]
        assert refused["canonical"] == {other_alice: alice}
        await stranger.leave()
        assert (await phone.call("presence:unwatch", {"users": [other_bob]}))["ok"]
        assert server.gateway._audiences[None].watches.of(bob) == frozenset()

        # HTTP
        assert (await server.http.get(f"/v1/users/{other_alice}")).json()["userId"] == alice
        batch = (await server.http.post("/v1/users:batchGet", json={"users": asked})).json()
        assert [user["userId"] for user in batch["users"]] == [bob, alice]
        assert batch["canonical"] == {other_bob: bob, other_alice: alice}
        claimed = await server.http.put(f"/v1/users/{other_alice}/claim", json={"availability": "busy"})
        assert (claimed.json()["user"]["userId"], claimed.json()["user"]["availability"]) == (alice, "busy")
        explained = (await server.http.get(f"/v1/admin/users/{other_alice}/explain")).json()
        assert (explained["userId"], len(explained["connections"]), explained["agrees"]) == (alice, 2, True)
        closed = await server.http.post(f"/v1/admin/users/{other_bob}/disconnect")
        assert closed.json() == {"closed": 1}
        await bobs.until(bobs.closed.is_set)

        # the library
        presence = server.presence
        found = await presence.get([other_alice, alice])
        assert {asked: user.user_id for asked, user in found.items()} == {other_alice: alice, alice: alice}
        assert (await presence.explain(other_alice)) is not None
        assert len(await presence.evict([other_alice], disconnect=True)) == 2
        assert await server.online() == []
    # a command, on the database alone
    assert (await alone.explain(Settings.load(database=url), other_alice, None)).stored is not None


async def test_can_watch_is_asked_about_the_one_id_and_may_answer_with_another(tmp_path: Path) -> None:
    asked: list[tuple[str, list[str]]] = []

    def can_watch(viewer: str, users: Sequence[str]) -> list[Any]:
        asked.append((viewer, list(users)))
        return ["008", None]

    url = database("number", tmp_path)
    presence = Presence(url, jwt_secret=SECRET, can_watch=can_watch)
    app = FastAPI()
    mount(presence, app)
    async with serving(app) as address:
        alice = await Client.connect(address, token=jwt.encode({"sub": "007"}, SECRET))
        answer = await alice.call("presence:get", {"users": ["+8", "7.0", "9"]})
        assert [user["userId"] for user in answer["users"]] == ["8", "7"]
        assert answer["refused"] == [{"userId": "9", "code": "forbidden"}]
        assert asked == [("7", ["8", "9"])]
        await alice.close()
