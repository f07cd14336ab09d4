"""Tenants over Socket.IO: the same user id in two of them, at the same time, and not a word from one to the other."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from fastapi import FastAPI

import mongod
from captured import capture_logs
from clients import Client, Refused
from herenow.gateway.auth.identity import Identity
from herenow.gateway.handlers import Gateway
from herenow.presence import Presence
from support import serving, until
from wired import mount_wire

SECRET = "a secret of at least thirty-two bytes"
TENANTS = [None, "acme", "globex"]


def token(user: str, tenant: str | None, **claims: Any) -> str:
    of_tenant = {} if tenant is None else {"tenant": tenant}
    return jwt.encode({"sub": user, **of_tenant, **claims}, SECRET, algorithm="HS256")


class Served:
    """A server with tenants."""

    def __init__(self, url: str, presence: Presence, gateway: Gateway) -> None:
        self.url, self.presence, self.gateway = url, presence, gateway

    async def connect(self, user: str, tenant: str | None, **claims: Any) -> Client:
        return await Client.connect(self.url, token=token(user, tenant, **claims))

    async def three(self, user: str) -> list[Client]:
        """A user of this id in each of the tenants."""
        return [await self.connect(user, tenant) for tenant in TENANTS]

    async def written(self) -> None:
        await until(lambda: self.presence.writer.state().pending == 0)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[Served]:
        given = {"jwt_secret": SECRET, "offline_within_s": 0.6, **settings}
        presence = Presence(given.pop("database", f"sqlite:///{tmp_path}/app.db"), **given)
        app = FastAPI()
        gateway = mount_wire(presence, app)
        async with serving(app) as url:
            yield Served(url, presence, gateway)
        assert set(gateway._audiences) == {None}, "the last client of a tenant closes its audience"

    return run


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


async def end(*clients: Client) -> None:
    for client in clients:
        await client.leave()


def ids(answer: dict[str, Any]) -> list[str]:
    return [user["userId"] for user in answer["users"]]


# -- what is told ------------------------------------------------------------------------------------------------


async def test_a_watch_on_a_user_hears_of_the_one_in_the_same_tenant_and_of_no_other(server: Served) -> None:
    watchers = await server.three("bob")
    for watcher in watchers:
        answer = await watcher.watch("alice")
        assert [user["availability"] for user in answer["users"]] == ["offline"]
    for tenant, watcher in zip(TENANTS, watchers, strict=True):
        alice = await server.connect("alice", tenant)
        await watcher.until(lambda watcher=watcher: watcher.shows("alice") == "online")
        await alice.call("presence:claim", {"availability": "busy", "text": f"of {tenant}"})
        await alice.call("presence:idle", {})
        await watcher.until(lambda watcher=watcher: watcher.shows("alice") == "busy")
        await alice.call("presence:claim", {"availability": "invisible"})
        await watcher.until(lambda watcher=watcher: watcher.shows("alice") == "offline")
        await end(alice)
    await watchers[0].settle()
    for tenant, watcher in zip(TENANTS, watchers, strict=True):
        assert watcher.causes("alice") == ["connect", "claim", "left"]
        texts = {change.get("statusText") for diff in watcher.diffs for change in diff["changes"]}
        assert texts <= {None, f"of {tenant}"}
        assert b"tenant" not in str(watcher.diffs).encode(), "the claim of a token does not come back on the wire"
        assert "\x1f" not in str(watcher.diffs) + str(watcher.ready)
    await end(*watchers)


async def test_a_watch_on_all_hears_of_its_own_tenant_only(server: Served) -> None:
    watchers = await server.three("bob")
    for watcher in watchers:
        assert ids(await watcher.call("presence:watch", {"all": True})) == ["bob"]
    joined = [await server.connect(f"of-{tenant}", tenant) for tenant in TENANTS]
    for tenant, watcher in zip(TENANTS, watchers, strict=True):
        await watcher.until(lambda watcher=watcher, tenant=tenant: watcher.shows(f"of-{tenant}") == "online")
    await end(*joined)
    for tenant, watcher in zip(TENANTS, watchers, strict=True):
        await watcher.until(lambda watcher=watcher, tenant=tenant: watcher.shows(f"of-{tenant}") == "offline")
        told = {change["userId"] for diff in watcher.diffs for change in diff["changes"]}
        assert told - {"bob"} == {f"of-{tenant}"}
    await end(*watchers)


async def test_pages_cursors_and_get_speak_of_the_own_tenant(server: Served) -> None:
    crowd = [asyncio.create_task(server.connect(f"user-{n}", "acme")) for n in range(30)]
    users = [await each for each in crowd]
    in_acme, outside, in_globex = (
        await server.connect("bob", "acme"),
        *([await server.connect("bob", None), await server.connect("bob", "globex")]),
    )
    assert len(ids(await in_acme.call("presence:watch", {"all": True}))) == 31
    everybody = [f"user-{n}" for n in range(30)]
    for stranger in (outside, in_globex):
        assert ids(await stranger.call("presence:watch", {"all": True})) == ["bob"]
        # A cursor of another tenant is a place in time, and shows nobody.
        cursor = f"{time.time_ns() // 1_000_000 + 1000}:user-3"
        assert ids(await stranger.call("presence:watch", {"all": True, "cursor": cursor})) == ["bob"]
        got = (await stranger.call("presence:get", {"users": everybody}))["users"]
        assert {(user["availability"], user["lastActive"], user["version"]) for user in got} == {("offline", None, 0)}
    await end(*users)
    await server.written()  # gone, and known to the store now
    got = (await outside.call("presence:get", {"users": everybody}))["users"]
    assert {(user["lastActive"], user["version"]) for user in got} == {(None, 0)}
    mine = (await in_acme.call("presence:get", {"users": everybody}))["users"]
    assert all(user["lastActive"] is not None and user["version"] > 0 for user in mine)
    assert [user["userId"] for user in mine] == everybody
    await end(in_acme, outside, in_globex)


async def test_no_version_and_no_since_tells_that_another_tenant_is_busy(server: Served) -> None:
    quiet = await server.connect("bob", "globex")
    first = await quiet.call("presence:watch", {"all": True})
    before = (await quiet.call("presence:get", {"users": ["alice"]}))["version"]
    for _ in range(5):
        await end(*[await server.connect("alice", tenant) for tenant in (None, "acme")])
    after = await quiet.call("presence:get", {"users": ["alice"]})
    assert after["version"] == before
    newer = await quiet.call("presence:watch", {"all": True, "since": first["version"]})
    assert (newer["version"], newer["users"], newer["full"]) == (before, [], False)
    # A version of a busier tenant is one that this one never gave.
    busy = await server.connect("carol", "acme")
    foreign = await quiet.call("presence:watch", {"all": True, "since": busy.ready["version"]})
    assert foreign["full"] and ids(foreign) == ["bob"]
    assert quiet.diffs == [] or all(c["userId"] == "bob" for d in quiet.diffs for c in d["changes"])
    await end(quiet, busy)


async def test_an_invisible_user_sees_themself_in_their_own_tenant(server: Served) -> None:
    acme, globex = await server.connect("alice", "acme"), await server.connect("alice", "globex")
    for client in (acme, globex):
        await client.watch("alice")
    second = await server.connect("alice", "acme")
    await second.watch("alice")
    answer = await acme.call("presence:claim", {"availability": "invisible"})
    assert answer["user"]["isOnline"]
    await second.settle()
    assert second.shows("alice") == "online", "their other tab sees the truth"
    assert globex.diffs == []
    assert (await globex.call("presence:get", {"users": ["alice"]}))["users"][0]["availability"] == "online"
    await end(acme, second, globex)


# -- who may come in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", ["", "a b", "a/b", "a\x1fb", "ä", "a" * 65, 7, ["acme"], "acme\n"])
async def test_a_tenant_that_is_none_is_refused(server: Served, tenant: Any) -> None:
    with pytest.raises(Refused) as refused:
        await Client.connect(server.url, token=token("alice", tenant))
    assert refused.value.error["data"]["code"] == "unauthorized"
    assert "tenant" in refused.value.error["message"]


async def test_a_key_cannot_be_forged_by_an_id(server: Served) -> None:
    alice = await server.connect("alice", "acme")
    with pytest.raises(Refused):
        await server.connect("acme\x1falice", None)
    mallory = await server.connect("mallory", None)
    for event in ("presence:watch", "presence:get"):
        assert (await mallory.call(event, {"users": ["acme\x1falice"]}))["error"]["code"] == "bad_request"
    await end(alice, mallory)


async def test_the_token_of_another_tenant_refreshes_nobody(server: Served) -> None:
    alice = await server.connect("alice", "acme")
    for tenant in (None, "globex"):
        answer = await alice.call("presence:refresh", {"token": token("alice", tenant)})
        assert answer["error"]["code"] == "forbidden"
        assert answer["error"]["message"] == "the token is another user's"
    assert (await alice.call("presence:refresh", {"token": token("alice", "acme", watch=["bob"])}))["ok"]
    assert (await alice.call("presence:get", {"users": ["carol"]}))["refused"][0]["userId"] == "carol"
    await end(alice)


async def test_limits_are_of_one_tenant(serve: Serve) -> None:
    async with serve(max_connections_per_user=1, max_events_per_s=2, max_events_per_s_of_user=2) as server:
        clients = await server.three("alice")
        for tenant in TENANTS:
            with pytest.raises(Refused) as refused:
                await server.connect("alice", tenant)
            assert refused.value.error["message"] == "alice has 1 connections, which is the most"
        noisy, *others = clients
        codes = [(await noisy.call("presence:get", {"users": []})).get("error") for _ in range(6)]
        assert "rate_limited" in [code and code["code"] for code in codes]
        for other in others:
            assert (await other.call("presence:get", {"users": []}))["ok"]
        await end(*clients)


async def test_a_full_server_does_not_tell_a_tenant_how_many_others_there_are(serve: Serve) -> None:
    async with serve(max_connections=1) as server:
        alice = await server.connect("alice", "acme")
        with pytest.raises(Refused) as refused:
            await server.connect("bob", "globex")
        assert refused.value.error["message"] == "the server is full"
        with pytest.raises(Refused) as refused:
            await server.connect("bob", None)
        assert refused.value.error["message"] == "the server has its 1 connections"
        await end(alice)


async def test_can_watch_is_told_the_tenant_and_remembers_by_it(serve: Serve) -> None:
    asked: list[tuple[str | None, str, tuple[str, ...]]] = []

    async def can_watch(viewer: str, users: Sequence[str], *, tenant: str | None = None) -> set[str]:
        asked.append((tenant, viewer, tuple(users)))
        return set(users) if tenant == "acme" else set()

    async with serve(can_watch=can_watch) as server:
        outside, acme, globex = await server.three("bob")
        assert (await acme.call("presence:watch", {"users": ["alice"]}))["ok"]
        for refused in (outside, globex):
            for event in ("presence:get", "presence:watch"):
                answer = await refused.call(event, {"users": ["alice"]})
                assert (answer["users"], answer["refused"]) == ([], [{"userId": "alice", "code": "forbidden"}])
        assert {tenant for tenant, _, _ in asked} == {None, "acme", "globex"}
        alice = await server.connect("alice", "globex")
        await alice.settle()
        assert acme.diffs == []
        await end(outside, acme, globex, alice)


async def test_a_can_watch_that_knows_no_tenants_shows_them_nobody(serve: Serve) -> None:
    def can_watch(viewer: str, users: Sequence[str]) -> Sequence[str]:
        return users

    async with serve(can_watch=can_watch) as server:
        outside, acme, _ = clients = await server.three("bob")
        assert (await outside.call("presence:watch", {"users": ["alice"]}))["ok"]
        with capture_logs():
            assert (await acme.call("presence:watch", {"users": ["alice"]}))["error"]["code"] == "internal"
        await end(*clients)


async def test_authenticate_may_name_a_tenant(serve: Serve) -> None:
    def authenticate(auth: Any, handshake: Any) -> Identity:
        return Identity(auth["name"], tenant=auth["of"])

    async with serve(authenticate=authenticate) as server:
        alice = await Client.connect(server.url, name="alice", of="acme")
        assert (await server.presence.get(["alice"], tenant="acme"))["alice"].is_online
        assert not (await server.presence.get(["alice"]))["alice"].is_online
        for name, tenant in (("alice", "no tenant"), ("acme\x1falice", None)):
            with capture_logs() as logs, pytest.raises(Refused) as refused:
                await Client.connect(server.url, name=name, of=tenant)
            assert refused.value.error["data"]["code"] == "internal"
            assert [each["event"] for each in logs if each["log_level"] == "error"] == ["connect failed"]
        await end(alice)


async def test_a_development_server_believes_a_tenant_too(serve: Serve) -> None:
    async with serve(jwt_secret=None, dev=True) as server:
        alice = await Client.connect(server.url, "alice", tenant="acme")  # its auth is {userId} alone
        bob = await Client.connect(server.url, userId="bob", tenant="acme")
        answer = await bob.call("presence:get", {"users": ["alice", "bob"]})
        assert [user["isOnline"] for user in answer["users"]] == [False, True]
        await end(alice, bob)


async def test_a_collection_that_says_no_tenants_lets_nobody_of_one_in(serve: Serve) -> None:
    url = mongod.empty_collection()
    async with serve(database=url) as server:
        with capture_logs() as logs, pytest.raises(Refused) as refused:
            await server.connect("alice", "acme")
        assert refused.value.error["data"] == {"code": "forbidden", "temporary": False}
        assert refused.value.error["message"] == "this server cannot keep the users of tenants apart"
        assert any("tenant_field" in each.get("reason", "") for each in logs)
        await end(await server.connect("alice", None))


# -- a tenant that comes back --------------------------------------------------------------------------------------


async def test_versions_do_not_go_back_when_a_tenant_was_empty(server: Served) -> None:
    alice = await server.connect("alice", "acme")
    await alice.watch("alice")
    await alice.call("presence:claim", {"availability": "busy"})
    await alice.call("presence:claim", {"availability": None})
    version = (await alice.call("presence:get", {"users": ["alice"]}))["version"]
    await end(alice)
    tenants = server.presence.tenants
    await until(lambda: not server.gateway._audiences.get("acme"))
    for _ in range(2):
        await tenants.sweep()
    assert tenants.find("acme") is None
    again = await server.connect("alice", "acme")
    assert again.ready["version"] > version
    answer = await again.call("presence:watch", {"all": True, "since": version})
    assert answer["full"] and ids(answer) == ["alice"]
    await end(again)


async def test_a_tenant_with_a_client_is_never_swept_away(server: Served) -> None:
    watcher, alice = await server.connect("bob", "acme"), await server.connect("alice", "acme")
    await watcher.watch("alice")
    for _ in range(3):
        await server.presence.tenants.sweep()
    await end(alice)
    await watcher.until(lambda: watcher.shows("alice") == "offline")
    await end(watcher)


async def test_who_lingers_keeps_the_tenant(server: Served) -> None:
    alice = await server.connect("alice", "acme")
    await alice.close()
    await until(lambda: set(server.gateway._audiences) == {None})
    for _ in range(3):
        await server.presence.tenants.sweep()
    assert (await server.presence.get(["alice"], tenant="acme"))["alice"].is_online
    back = await server.connect("alice", "acme")
    assert (await server.presence.stats(tenant="acme")).lingers_saved == 1
    await end(back)
