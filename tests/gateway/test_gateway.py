"""Presence over Socket.IO: the contract, over a real port, with a real store behind it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from fastapi import FastAPI

from captured import capture_logs
from clients import Client, Refused
from herenow.gateway.auth import Identity
from herenow.gateway.events import WireError
from herenow.gateway.handlers import Gateway
from herenow.gateway.throttle import USERS_AN_EVENT
from herenow.model import Availability, Claim, Claimed, StoredUser
from herenow.presence import Presence
from raw import Raw, client_frame
from support import closed, connect_socket, receive, serving, until, websocket
from wired import mount_wire

SECRET = "a secret of at least thirty-two bytes"


class Served:
    """A presence server of a test."""

    def __init__(self, url: str, presence: Presence, gateway: Gateway) -> None:
        self.url, self.presence, self.gateway = url, presence, gateway

    async def connect(self, user: str, *, watch: tuple[str, ...] = ()) -> Client:
        client = await Client.connect(self.url, user)
        if watch:
            await client.watch(*watch)
        return client

    async def row(self, user: str) -> tuple[bool, str] | None:
        """What the store says."""
        row = (await self.presence.store.read([user])).get(user)
        return None if row is None else (row.is_online, row.availability)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[Served]:
        given = {"dev": True, "offline_within_s": 0.6, **settings}
        presence = Presence(f"sqlite:///{tmp_path}/app.db", **given)
        app = FastAPI()
        gateway = mount_wire(presence, app)
        async with serving(app) as url:
            yield Served(url, presence, gateway)
        assert gateway.server.engine.connections == {}

    return run


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


# -- connecting --------------------------------------------------------------------------------------------------


async def test_ready_comes_first_and_once(server: Served) -> None:
    alice = await server.connect("alice")
    ready = alice.ready
    assert ready["userId"] == "alice"
    assert ready["bounds"] == {"offlineWithinMs": 600, "silentLossMs": 15_600, "restartMs": 15_000}
    assert ready["connectionId"] in server.gateway.server.namespace("/").sockets
    assert ready["version"] == server.presence.registry.version
    assert ready["serverTime"].endswith("Z")
    await alice.close()


async def test_a_connect_is_told_to_the_watchers_and_the_store(server: Served) -> None:
    bob = await server.connect("bob", watch=("alice",))
    assert bob.shows("alice") == "offline"
    assert bob.view["alice"]["lastActive"] is None
    alice = await server.connect("alice")
    await bob.until(lambda: bob.shows("alice") == "online")
    assert bob.causes("alice") == ["connect"]
    await until(lambda: server.presence.writer.state().pending == 0)
    assert await server.row("alice") == (True, "online")
    await alice.close()
    await bob.until(lambda: bob.shows("alice") == "offline")
    assert bob.causes("alice") == ["connect", "closed"]
    await until(lambda: server.presence.writer.state().pending == 0)
    assert await server.row("alice") == (False, "offline")
    await bob.close()


async def test_leaving_on_purpose_knows_no_grace(server: Served) -> None:
    bob = await server.connect("bob", watch=("alice", "carol"))
    alice, carol = await server.connect("alice"), await server.connect("carol")
    await bob.until(lambda: bob.shows("alice") == bob.shows("carol") == "online")
    start = time.monotonic()
    await alice.leave()
    assert (await carol.call("presence:leave", {}))["ok"]
    await carol.closed.wait()
    await bob.until(lambda: bob.shows("alice") == bob.shows("carol") == "offline")
    assert time.monotonic() - start < 0.4  # below the grace of this server
    assert bob.causes("alice") == bob.causes("carol") == ["connect", "left"]
    await bob.close()


async def test_a_reload_and_a_second_tab_are_seen_by_nobody(server: Served) -> None:
    bob = await server.connect("bob", watch=("alice",))
    first = await server.connect("alice")
    second = await server.connect("alice")
    await first.leave()
    third = await server.connect("alice")
    second.kill()
    await third.close()
    fourth = await server.connect("alice")
    await bob.settle(0.8)
    assert bob.causes("alice") == ["connect"]
    await fourth.close()
    await bob.close()


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ({}, "unauthorized"),
        ({"userId": 5}, "unauthorized"),
        ({"userId": ""}, "unauthorized"),
        ({"userId": "x" * 129}, "unauthorized"),
        ({"userId": "a\nb"}, "unauthorized"),
        ({"token": "x"}, "unauthorized"),
    ],
)
async def test_a_client_that_does_not_say_who_it_is_is_refused(server: Served, auth: Any, code: str) -> None:
    with pytest.raises(Refused) as refused:
        await Client.connect(server.url, **auth)
    assert refused.value.error["data"] == {"code": code, "temporary": False}
    assert refused.value.error["message"]
    assert (await server.presence.stats()).connections == 0


@pytest.mark.parametrize("auth", ["[1]", '"alice"', "true"])
async def test_an_auth_that_is_no_object_is_no_socketio(server: Served, auth: str) -> None:
    async with websocket(server.url) as ws:
        await ws.recv()
        await ws.send("40" + auth)
        assert await closed(ws) == 1002
    assert (await server.presence.stats()).connections == 0


async def test_what_else_an_auth_holds_is_not_looked_at(server: Served) -> None:
    alice = await Client.connect(server.url, userId="alice", device={"name": "x" * 100_000}, token=5)
    assert alice.ready["userId"] == "alice"
    await alice.close()


async def test_ready_comes_before_whatever_a_client_asks_for_at_once(server: Served) -> None:
    async with websocket(server.url) as ws:
        await ws.recv()
        await ws.send('40{"userId":"alice"}')
        assert str(await ws.recv()).startswith("40{")
        await ws.send('421["presence:watch",{"all":true}]')
        await ws.send('42["presence:claim",{"text":"hello"}]')
        packets = [str(await receive(ws)) for _ in range(3)]
    assert packets[0].startswith('42["presence:ready"')
    assert sorted(packet[:16] for packet in packets[1:]) == ['42["presence:dif', '431[{"ok":true,"']


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({"sub": "alice", **claims}, secret, algorithm=algorithm)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (lambda: token(secret="another secret of thirty-two bytes!"), "unauthorized"),
        (lambda: token(exp=int(time.time()) - 10), "token_expired"),
        (lambda: jwt.encode({"sub": "alice"}, "", algorithm="none"), "unauthorized"),
        (lambda: token(algorithm="HS512", secret=SECRET * 2), "unauthorized"),
        (lambda: jwt.encode({"name": "alice"}, SECRET), "unauthorized"),
        (lambda: token(sub="x" * 129), "unauthorized"),
        (lambda: token(sub=""), "unauthorized"),
        (lambda: "not.a.token", "unauthorized"),
        (lambda: 5, "unauthorized"),
        (lambda: "x" * 100_000, "unauthorized"),
    ],
)
async def test_only_a_good_token_gets_in(serve: Serve, given: Callable[[], Any], code: str) -> None:
    async with serve(dev=False, jwt_secret=SECRET) as server:
        with pytest.raises(Refused) as refused:
            await Client.connect(server.url, token=given())
        assert refused.value.error["data"] == {"code": code, "temporary": False}
        with pytest.raises(Refused):
            await Client.connect(server.url, "alice")  # the userId of --dev counts for nothing here
        good = await Client.connect(server.url, token=token(exp=int(time.time()) + 100))
        assert good.ready["userId"] == "alice"
        await good.close()


async def test_an_application_can_say_who_is_who(tmp_path: Path) -> None:
    async def authenticate(auth: Any, handshake: Any) -> Identity:
        await asyncio.sleep(0)
        if handshake.header("X-Key") is None and not auth:
            raise WireError("forbidden", "not you")
        return Identity("alice")

    presence = Presence(f"sqlite:///{tmp_path}/app.db", authenticate=authenticate)
    app = FastAPI()
    presence.mount(app)
    async with serving(app) as url:
        with pytest.raises(Refused) as refused:
            await Client.connect(url)
        assert refused.value.error == {"message": "not you", "data": {"code": "forbidden", "temporary": False}}
        alice = await Client.connect(url, any="thing")
        assert alice.ready["userId"] == "alice"
        await alice.close()


async def test_an_application_that_fails_to_say_lets_nobody_in_and_is_logged(tmp_path: Path) -> None:
    def authenticate(auth: Any, handshake: Any) -> Identity:
        raise ZeroDivisionError("a secret")

    presence = Presence(f"sqlite:///{tmp_path}/app.db", authenticate=authenticate)
    app = FastAPI()
    presence.mount(app)
    async with serving(app) as url:
        with capture_logs() as logs, pytest.raises(Refused) as refused:
            await Client.connect(url, any="thing")
    assert refused.value.error["message"] == "the server could not do it"
    data = refused.value.error["data"]
    assert data == {"code": "internal", "temporary": True, "retryAfterMs": data["retryAfterMs"]}
    assert "connect failed" in [line["event"] for line in logs]


async def test_connections_are_limited_for_each_user_and_in_all(serve: Serve) -> None:
    async with serve(max_connections_per_user=2, max_connections=3) as server:
        alices = [await server.connect("alice") for _ in range(2)]
        with pytest.raises(Refused) as refused:
            await server.connect("alice")
        data = refused.value.error["data"]
        assert (data["code"], data["temporary"]) == ("too_many_connections", True)
        assert 1_000 <= data["retryAfterMs"] <= 5_000
        bob = await server.connect("bob")
        with pytest.raises(Refused):
            await server.connect("carol")
        await alices[0].close()
        await until(lambda: len(server.gateway.server.namespace("/").sockets) == 2)
        again = await server.connect("alice")
        for client in (alices[1], bob, again):
            await client.close()


async def test_a_crowd_that_comes_at_once_is_limited_too(tmp_path: Path) -> None:
    """All of them asked how many there were before the first was one of them."""
    all_are_here = asyncio.Barrier(10)

    async def authenticate(auth: Any, handshake: Any) -> Identity:
        await all_are_here.wait()
        return Identity(auth["name"])

    presence = Presence(f"sqlite:///{tmp_path}/app.db", authenticate=authenticate, max_connections=3)
    app = FastAPI()
    presence.mount(app)
    async with serving(app) as url:
        came = await asyncio.gather(*(Client.connect(url, name=f"user-{n}") for n in range(10)), return_exceptions=True)
        clients = [each for each in came if isinstance(each, Client)]
        assert len(clients) == 3
        for client in clients:
            await client.close()


# -- watching ----------------------------------------------------------------------------------------------------


async def test_a_watcher_hears_only_of_those_it_watches(server: Served) -> None:
    bob = await server.connect("bob", watch=("alice",))
    alice, carol = await server.connect("alice"), await server.connect("carol")
    await bob.until(lambda: bob.shows("alice") == "online")
    await bob.settle()
    assert set(bob.view) == {"alice"}
    assert (await bob.call("presence:unwatch", {"users": ["alice", "nobody"]})) == {"ok": True}
    await alice.leave()
    await carol.leave()
    await bob.settle()
    assert bob.shows("alice") == "online"
    await bob.close()


async def test_a_watcher_of_all_gets_everybody_page_by_page(server: Served) -> None:
    others = [await server.connect(f"user-{n}") for n in range(5)]
    bob = await server.connect("bob")
    answer = await bob.watch(all=True)
    assert answer["full"] is True
    assert {user["userId"] for user in answer["users"]} == {"bob", *(f"user-{n}" for n in range(5))}
    assert "cursor" not in answer
    await others[0].leave()
    await bob.until(lambda: bob.shows("user-0") == "offline")
    assert (await bob.call("presence:unwatch", {"all": True}))["ok"]
    await others[1].leave()
    await bob.settle()
    assert bob.shows("user-1") == "online"
    for client in (*others[2:], bob):
        await client.close()


async def test_a_long_snapshot_comes_in_pages(server: Served) -> None:
    for n in range(1_500):
        server.presence.registry.connect(f"user-{n:04}", f"connection-{n}", node="test")
    bob = await server.connect("bob")
    first = await bob.watch(all=True)
    assert len(first["users"]) == 1_000
    second = await bob.watch(all=True, cursor=first["cursor"])
    assert "cursor" not in second
    assert len(bob.view) == 1_501
    assert (await bob.call("presence:watch", {"all": True, "cursor": "rubbish"}))["error"]["code"] == "bad_request"
    await bob.close()


async def test_who_comes_back_gets_only_what_is_newer(server: Served) -> None:
    alice, carol = await server.connect("alice"), await server.connect("carol")
    bob = await server.connect("bob")
    since = (await bob.watch("alice", "carol", "dave"))["version"]
    await bob.close()
    await carol.leave()
    await server.connect("dave")
    await asyncio.sleep(0.1)
    bob = await server.connect("bob")
    for payload in ({"users": ["alice", "carol", "dave"]}, {"all": True}):
        answer = await bob.watch(**payload, since=since)
        assert answer["full"] is False
        got = {user["userId"]: user["availability"] for user in answer["users"]}
        got.pop("bob", None)
        assert got == {"carol": "offline", "dave": "online"}
        assert answer["version"] > since
    old = await bob.watch("alice", since=5)
    assert (old["full"], [user["userId"] for user in old["users"]]) == (True, ["alice"])
    await alice.close()


async def test_watches_are_limited(serve: Serve) -> None:
    async with serve(max_watched_users=3) as server:
        bob = await server.connect("bob", watch=("a", "b", "b"))
        answer = await bob.call("presence:watch", {"users": ["a", "c", "d"]})
        assert answer == {
            "ok": False,
            "error": {"code": "too_many_watches", "message": "a connection may watch 3 users", "temporary": False},
        }
        assert (await bob.watch("a", "c"))["ok"]
        assert (await bob.call("presence:unwatch", {"users": ["a"]}))["ok"]
        assert (await bob.watch("d"))["ok"]
        await bob.close()


@pytest.mark.parametrize("event", ["presence:watch", "presence:unwatch"])
async def test_a_watch_is_on_users_or_on_all(server: Served, event: str) -> None:
    bob = await server.connect("bob")
    for payload in ({}, {"users": ["a"], "all": True}):
        assert (await bob.call(event, payload))["error"]["code"] == "bad_request"
    await bob.close()


async def test_get_asks_once_and_watches_nothing(server: Served) -> None:
    alice, bob = await server.connect("alice"), await server.connect("bob")
    answer = await bob.call("presence:get", {"users": ["alice", "nobody", "alice"]})
    assert [(user["userId"], user["isOnline"]) for user in answer["users"]] == [("alice", True), ("nobody", False)]
    await alice.leave()
    await bob.settle()
    assert bob.diffs == []
    answer = await bob.call("presence:get", {"users": ["alice"]})
    assert answer["users"][0]["lastActive"] is not None  # from the store, or the row on its way there
    await bob.close()


async def test_of_many_changes_in_a_window_only_the_net_is_sent(server: Served) -> None:
    bob, alice = await server.connect("bob", watch=("alice",)), await server.connect("alice")
    await bob.until(lambda: bob.shows("alice") == "online")
    await asyncio.sleep(0.1)
    claims = [alice.call("presence:claim", {"availability": "busy", "text": str(n)}) for n in range(40)]
    await asyncio.gather(*claims)
    await bob.until(lambda: bob.view["alice"].get("statusText") == "39")
    assert len(bob.diffs) < 10
    versions = [change["version"] for diff in bob.diffs for change in diff["changes"]]
    assert versions == sorted(versions)
    assert bob.diffs[-1]["version"] >= versions[-1]
    await alice.close()
    await bob.close()


# -- activity and claims -----------------------------------------------------------------------------------------


async def test_a_user_is_away_when_every_device_is_idle(server: Served) -> None:
    bob = await server.connect("bob", watch=("alice",))
    phone, laptop = await server.connect("alice"), await server.connect("alice")
    assert await phone.call("presence:idle", {}) == {"ok": True}
    await bob.settle()
    assert bob.shows("alice") == "online"
    await laptop.call("presence:idle")
    await bob.until(lambda: bob.shows("alice") == "away")
    assert bob.view["alice"]["isOnline"] is True
    assert await laptop.call("presence:active", {}) == {"ok": True}
    await bob.until(lambda: bob.shows("alice") == "online")
    assert bob.causes("alice") == ["connect", "idle", "active"]
    for client in (phone, laptop, bob):
        await client.close()


async def test_a_claim_is_shown_until_it_is_given_up_or_expires(server: Served) -> None:
    bob, alice = await server.connect("bob", watch=("alice",)), await server.connect("alice")
    answer = await alice.call("presence:claim", {"availability": "busy", "text": "in a call"})
    assert (answer["user"]["availability"], answer["user"]["statusText"]) == ("busy", "in a call")
    await bob.until(lambda: bob.shows("alice") == "busy")
    await alice.call("presence:claim", {"availability": None})
    await bob.until(lambda: bob.shows("alice") == "online")
    assert "statusText" not in bob.view["alice"]
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    await alice.call("presence:claim", {"availability": "away", "until": soon})
    await bob.until(lambda: bob.shows("alice") == "away")
    await bob.until(lambda: bob.shows("alice") == "online")
    assert bob.causes("alice")[-1] == "claim_expired"
    for client in (alice, bob):
        await client.close()


async def test_visible_again_within_a_window_is_seen_by_oneself_too(server: Served) -> None:
    alice = await server.connect("alice")
    await alice.watch(all=True)
    await alice.call("presence:claim", {"text": "warm up"})
    await asyncio.gather(
        alice.call("presence:claim", {"availability": "invisible"}),
        alice.call("presence:claim", {"availability": None}),
    )
    await alice.until(lambda: alice.view["alice"]["version"] == server.presence.registry.version)
    assert alice.view["alice"]["isOnline"] is True
    await alice.close()


async def test_who_is_told_to_be_invisible_is_so_after_a_crash_too(server: Served) -> None:
    """The row once went out up to 50 ms after the answer: killed in between, the next start showed the user online."""
    alice = await server.connect("alice")
    for _ in range(5):
        await alice.call("presence:claim", {"availability": None})
        await alice.call("presence:claim", {"availability": "invisible"})
        stored = (await server.presence.store.read(["alice"]))["alice"]
        assert (stored.is_online, stored.claim) == (False, Claim(Claimed.INVISIBLE))
    await alice.close()


async def test_an_invisible_user_looks_offline_to_all_but_themselves(server: Served) -> None:
    bob = await server.connect("bob", watch=("alice",))
    everybody = await server.connect("carol")
    await everybody.watch(all=True)
    phone, laptop = await server.connect("alice", watch=("alice", "bob")), await server.connect("alice")
    await laptop.watch(all=True)
    answer = await phone.call("presence:claim", {"availability": "invisible"})
    assert answer["user"]["isOnline"] is True
    for watcher in (bob, everybody):
        await watcher.until(lambda watcher=watcher: watcher.shows("alice") == "offline")
    for device in (phone, laptop):
        await device.settle()
        assert device.view["alice"]["isOnline"] is True, (device is phone, device.diffs)
        own = [change for diff in device.diffs for change in diff["changes"] if change["userId"] == "alice"]
        assert [change for change in own if not change["isOnline"]] == []
    answer = await bob.call("presence:get", {"users": ["alice"]})
    assert answer["users"][0]["isOnline"] is False
    hidden_since = answer["users"][0]["lastActive"]
    await laptop.call("presence:active", {})
    tablet = await server.connect("alice")
    await tablet.leave()
    await bob.settle()
    assert bob.causes("alice")[-1] == "left"
    assert (await bob.call("presence:get", {"users": ["alice"]}))["users"][0]["lastActive"] == hidden_since
    await phone.call("presence:claim", {"availability": None})
    await bob.until(lambda: bob.shows("alice") == "online")
    for client in (bob, everybody, phone, laptop):
        await client.close()


async def test_a_claim_that_is_too_long_or_no_claim_is_refused(server: Served) -> None:
    alice = await server.connect("alice")
    for payload in (
        {"availability": None, "text": "x"},
        {"availability": "busy", "until": "9999-12-31T23:59:59.999-10:00"},
        {"text": "x" * 141},
        {"availability": "busy", "until": "never"},
        {"availability": "offline"},
    ):
        assert (await alice.call("presence:claim", payload))["error"]["code"] == "bad_request"
    assert (await alice.call("presence:claim", {"text": "x" * 140}))["user"]["statusText"] == "x" * 140
    await alice.close()


async def test_an_until_that_has_passed_or_has_no_zone_or_ends_nothing_is_refused_and_leaves_the_claim(
    server: Served,
) -> None:
    """Each was taken: the first wiped the claim out, the second ended at another hour, the third did nothing."""
    alice = await server.connect("alice")
    await alice.call("presence:claim", {"availability": "busy", "text": "in a call"})
    for payload in (
        {"availability": "away", "until": "2020-01-01T00:00:00Z"},
        {"availability": "away", "until": "2099-01-01T00:00:00"},
        {"until": "2099-01-01T00:00:00Z"},
        {"text": "", "until": "2099-01-01T00:00:00Z"},
        {"availability": None, "until": "2099-01-01T00:00:00Z"},
    ):
        error = (await alice.call("presence:claim", payload))["error"]
        assert (error["code"], "until" in error["message"]) == ("bad_request", True), payload
    (user,) = (await alice.call("presence:get", {"users": ["alice"]}))["users"]
    assert (user["availability"], user["statusText"]) == ("busy", "in a call")
    await alice.close()


async def test_a_snapshot_of_all_is_never_older_than_the_greeting_and_holds_oneself(serve: Serve) -> None:
    """While changes gathered, all who came had the page of before: not in it themselves, and with an older version."""
    async with serve(flush_interval_s=0.2, offline_within_s=1.0) as server:
        bob = await server.connect("bob")
        await bob.watch(all=True)
        late = []
        for number in range(3):
            crowd = [await server.connect(f"{number} {name}") for name in ("carol", "dave")]
            answers = await asyncio.gather(bob.watch(all=True), *(client.watch(all=True) for client in crowd))
            for client, answer in zip(crowd, answers[1:], strict=True):
                assert answer["version"] >= client.ready["version"]
                assert client.ready["userId"] in {user["userId"] for user in answer["users"]}
            late += crowd
        for client in (bob, *late):
            await client.close()


# -- bad input ---------------------------------------------------------------------------------------------------


async def test_an_error_comes_as_an_event_where_no_acknowledgement_was_asked_for(server: Served) -> None:
    bob = await server.connect("bob")
    await bob.send("presence:watch", {"users": [5]})
    await bob.send("no such event", 1)
    await bob.until(lambda: len(bob.errors) == 2)
    assert [error["code"] for error in bob.errors] == ["bad_request", "unknown_event"]
    assert (await bob.call("x" * 1_000))["error"]["code"] == "unknown_event"
    assert len((await bob.call("x" * 1_000))["error"]["message"]) < 200
    await bob.close()


async def test_strings_of_nearly_a_megabyte_are_refused_and_harm_nobody(server: Served) -> None:
    alice, bob = await server.connect("alice"), await server.connect("bob")
    huge = "x" * 990_000
    for event, payload, code in (
        ("presence:get", {"users": [huge]}, "too_large"),
        ("presence:watch", {"all": True, "cursor": huge}, "too_large"),
        ("presence:claim", {"text": huge}, "too_large"),
        ("presence:idle", {"x": huge}, "too_large"),
        (huge, None, "unknown_event"),
    ):
        error = (await alice.call(event, payload))["error"]
        assert error["code"] == code
        assert len(error["message"]) < 250
    assert (await alice.call("presence:get", {"users": ["bob"]}))["ok"]
    await alice.close()
    await bob.close()


async def test_thousands_of_watches_are_kept_up_to_the_limit_and_forgotten_with_their_connection(
    server: Served,
) -> None:
    bob, carol = await server.connect("bob"), await server.connect("carol")
    for page in range(10):
        await bob.watch(*(f"user-{page}-{n}" for n in range(1_000)))
    refused = await bob.call("presence:watch", {"users": ["one more"]})
    assert refused["error"]["code"] == "too_many_watches"
    await carol.watch("user-9-999")
    someone = await server.connect("user-9-999")
    for watcher in (bob, carol):
        await watcher.until(lambda watcher=watcher: watcher.shows("user-9-999") == "online")
    await bob.close()
    await until(lambda: not server.gateway._audiences[None].watches.of("user-0-0"))
    await someone.close()
    await carol.close()


async def test_a_clock_that_jumps_back_an_hour_turns_no_version_back_and_is_believed(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, alice = await server.connect("bob", watch=("alice", "carol")), await server.connect("alice")
    await bob.until(lambda: bob.shows("alice") == "online")
    before = bob.view["alice"]
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600 * 10**9)
    carol = await server.connect("carol")
    await bob.until(lambda: bob.shows("carol") == "online")
    assert bob.view["carol"]["version"] > before["version"]
    await alice.call("presence:claim", {"availability": "busy"})
    await bob.until(lambda: bob.shows("alice") == "busy")
    await carol.close()
    await alice.leave()
    await bob.until(lambda: bob.shows("alice") == bob.shows("carol") == "offline")
    assert bob.view["alice"]["version"] > before["version"]
    moments = [datetime.fromisoformat(view["lastActive"]) for view in (bob.view["alice"], before)]
    assert moments[0] < moments[1] - timedelta(minutes=50)
    await until(lambda: server.presence.writer.state().pending == 0)
    assert [await server.row(user) for user in ("alice", "carol")] == [(False, "offline")] * 2
    assert (await server.presence.audit.round()).ghosts == 0
    await bob.close()


async def test_a_fault_of_the_servers_is_answered_and_logged(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(user_ids: Any) -> Any:
        raise ZeroDivisionError("a secret")

    bob = await server.connect("bob")
    monkeypatch.setattr(server.presence, "snapshot", fail)
    answer = await bob.call("presence:get", {"users": ["a"]})
    assert answer["error"] == {"code": "internal", "message": "the server could not do it", "temporary": True}
    await bob.close()


async def test_who_leaves_or_is_put_out_is_told_not_to_come_back(server: Served) -> None:
    """Otherwise the stock client reconnects after a second, and whoever left is online again."""
    for way in ("leave", "put out"):
        ws = await connect_socket(server.url, '40{"userId":"alice"}')
        await receive(ws)
        if way == "leave":
            await ws.send('421["presence:leave"]')
            assert await receive(ws) == '431[{"ok":true}]'
        else:
            await server.presence.disconnect("alice")
        assert await receive(ws) == "41"
        assert await closed(ws) == 1000


async def test_events_are_limited(serve: Serve) -> None:
    async with serve(max_events_per_s=10) as server:
        bob = await server.connect("bob")
        answers = await asyncio.gather(*(bob.call("presence:get", {"users": []}) for _ in range(40)))
        refused = [answer["error"] for answer in answers if not answer["ok"]]
        assert 5 <= len(refused) <= 20  # it is not read from for a while, in which its allowance grows
        assert refused[0]["code"] == "rate_limited"
        assert refused[0]["temporary"] is True
        await bob.close()


async def test_refused_events_fill_the_log_with_one_line_a_user_and_code(serve: Serve) -> None:
    """Within its limits, one client wrote 3.7 GB a day. The metric counts all."""
    async with serve(max_events_per_s=50) as server:
        bob, carol = await server.connect("bob"), await server.connect("carol")
        errors = server.presence.meters.errors
        with capture_logs() as logs:
            for _ in range(20):
                assert not (await bob.call("presence:get", {}))["ok"]
                assert not (await bob.call("presence:nothing"))["ok"]
            assert not (await carol.call("presence:get", {}))["ok"]
            await asyncio.gather(*(bob.call("presence:idle") for _ in range(200)))
        said = [(line["event"], line.get("code"), line["user"]) for line in logs if line["log_level"] == "info"]
        assert sorted(line for line in said if line[0] in ("event refused", "rate limited")) == sorted(
            [
                ("event refused", "bad_request", "bob"),
                ("event refused", "unknown_event", "bob"),
                ("event refused", "bad_request", "carol"),
                ("rate limited", None, "bob"),
            ],
            key=str,
        )
        counted = {code: errors.labels(code)._value.get() for code in ("bad_request", "unknown_event")}
        assert counted == {"bad_request": 21, "unknown_event": 20}
        assert errors.labels("rate_limited")._value.get() > 1
        for client in (bob, carol):
            await client.close()


async def test_connections_that_are_refused_fill_the_log_with_one_line_a_code(serve: Serve) -> None:
    async with serve() as server:
        with capture_logs() as logs:
            for _ in range(20):
                with pytest.raises(Refused):
                    await Client.connect(server.url, any="thing")
        assert len([line for line in logs if line["event"] == "connection refused"]) == 1
        assert server.presence.meters.refused.labels("unauthorized")._value.get() == 20


@pytest.mark.parametrize("last", ["41", None])
@pytest.mark.parametrize("payload", ['{"all":true}', '{"users":["bob","carol"]}'])
async def test_a_watch_that_comes_with_the_end_leaves_no_watcher(
    server: Served, payload: str, last: str | None
) -> None:
    """Both in one segment: the watch's turn comes when its connection has gone."""
    for _ in range(5):
        raw = await Raw.upgrade(server.url)
        await raw.send(client_frame(b'40{"userId":"alice"}'))
        await until(lambda: server.gateway._namespace.sockets)
        end = client_frame(b"\x03\xe8", 8) if last is None else client_frame(last.encode())
        await raw.send(client_frame(f'420["presence:watch",{payload}]'.encode()) + end)
        await until(lambda: not server.gateway._namespace.sockets)
        raw.abort()
    await asyncio.sleep(0.1)
    watches = server.gateway._audiences[None].watches
    assert (watches._of_all, watches._users_of, watches._of_user) == (set(), {}, {})


async def test_a_user_with_many_tabs_may_not_send_more_than_a_user_may(serve: Serve) -> None:
    async with serve(max_events_per_s=20, max_events_per_s_of_user=30) as server:
        tabs = [await server.connect("alice") for _ in range(4)]
        bob = await server.connect("bob")
        answers = await asyncio.gather(*(tab.call("presence:active") for _ in range(30) for tab in tabs))
        refused = [answer["error"] for answer in answers if not answer["ok"]]
        assert len(answers) - len(refused) >= 60
        assert {error["code"] for error in refused} == {"rate_limited"}
        assert any("this user's connections" in error["message"] for error in refused)
        assert (await bob.call("presence:active"))["ok"]
        for client in (*tabs, bob):
            await client.close()
        await until(lambda: not server.gateway._audiences[None].bucket_of)


async def test_many_users_in_one_event_count_as_more_events(server: Served) -> None:
    """Without it, three clients that ask for a thousand strangers fifty times a second keep the server busy."""
    bob = await server.connect("bob")
    strangers = {"users": [f"stranger-{n}" for n in range(1_000)]}
    for payload in (
        ("presence:get", strangers),
        ("presence:watch", {**strangers, "since": 0}),
        ("presence:watch", {"all": True, "since": 0}),
    ):
        began_s = time.monotonic()
        answers = await asyncio.gather(*(bob.call(*payload) for _ in range(60)))
        events = 100 + 50 * (time.monotonic() - began_s)  # the burst, and what came back since
        assert sum(answer["ok"] for answer in answers) <= events / (1 + 1_000 / USERS_AN_EVENT)
        assert {answer["error"]["code"] for answer in answers if not answer["ok"]} <= {"rate_limited"}
        await asyncio.sleep(0.5)
    await bob.close()


async def test_more_changes_than_a_page_are_a_snapshot(server: Served) -> None:
    bob = await server.connect("bob")
    since = (await bob.watch(all=True))["version"]
    for n in range(1_001):
        server.presence.registry.connect(f"user-{n:04}", f"connection-{n}", node="test")
    answer = await bob.watch(all=True, since=since)
    assert (answer["full"], len(answer["users"]), "cursor" in answer) == (True, 1_000, True)
    await bob.close()


async def test_an_event_before_the_client_is_known_closes_it(server: Served) -> None:
    async with websocket(server.url) as ws:
        await ws.recv()
        await ws.send('42["presence:watch",{"all":true}]')
        with pytest.raises(Exception, match="1002"):
            while True:
                await ws.recv()
    assert (await server.presence.stats()).connections == 0


async def test_a_message_above_the_maximum_closes_only_its_sender(serve: Serve) -> None:
    async with serve(max_payload=10_000) as server:
        alice, bob = await server.connect("alice"), await server.connect("bob", watch=("alice",))
        await alice.send("presence:get", {"users": ["x" * 20_000]})
        await alice.closed.wait()
        assert alice.ws.close_code == 1009
        assert (await bob.call("presence:get", {"users": ["bob"]}))["ok"]
        await bob.until(lambda: bob.shows("alice") == "offline")
        assert bob.causes("alice") == ["error"]
        await bob.close()


# -- slow readers ------------------------------------------------------------------------------------------------


async def test_a_slow_reader_gets_the_net_when_it_reads_again(serve: Serve) -> None:
    async with serve(write_buffer_high=20_000, max_status_text=100_000, max_events_per_s=10_000) as server:
        slow, quick = await server.connect("slow", watch=("alice",)), await server.connect("quick")
        await quick.watch(all=True)
        alice = await server.connect("alice")
        slow.ws.transport.pause_reading()
        socket = next(s for s in server.gateway.server.namespace("/").sockets.values() if s.data.user_id == "slow")
        count = 0
        while not socket.slow:
            count += 1
            await alice.call("presence:claim", {"text": f"{count} " + "x" * 90_000})
            await asyncio.sleep(0.06)
            assert count < 300
        for last in range(20):
            await alice.call("presence:claim", {"text": f"last {last}"})
        await quick.until(lambda: quick.view["alice"].get("statusText") == "last 19")
        assert len(socket.data.pending) == 1
        slow.ws.transport.resume_reading()
        await slow.until(lambda: slow.shows("alice") and slow.view["alice"].get("statusText") == "last 19", 20)
        assert len(slow.causes("alice")) < count + 20
        for client in (slow, quick, alice):
            await client.close()


async def test_a_reader_that_stays_slow_is_closed_and_may_come_back(serve: Serve) -> None:
    async with serve(
        write_buffer_high=20_000, max_status_text=100_000, max_events_per_s=10_000, slow_reader_timeout_s=0.4
    ) as server:
        slow, watcher = await server.connect("slow", watch=("alice",)), await server.connect("bob", watch=("slow",))
        alice = await server.connect("alice")
        slow.ws.transport.pause_reading()
        connections = server.gateway.server.namespace("/").sockets
        async with asyncio.timeout(20):
            while any(socket.data.user_id == "slow" for socket in connections.values()):
                await alice.call("presence:claim", {"text": "x" * 90_000 + str(time.monotonic())})
        slow.ws.transport.resume_reading()
        await slow.closed.wait()
        assert [error["code"] for error in slow.errors] == ["slow_reader"]
        assert slow.ws.close_code == 1006, "a close frame keeps some clients from coming back"
        await watcher.until(lambda: watcher.shows("slow") == "offline")
        assert watcher.causes("slow") == ["error"]  # after the grace: it was not its own wish
        for client in (alice, watcher):
            await client.close()


# -- the end -----------------------------------------------------------------------------------------------------


async def test_a_stop_tells_the_clients_and_writes_everyone_offline(serve: Serve, tmp_path: Path) -> None:
    async with serve() as server:
        alice = await server.connect("alice")
        lingering = await server.connect("bob")
        await lingering.close()
        await until(lambda: server.presence.writer.state().pending == 0)
    await alice.closed.wait()
    assert [error["code"] for error in alice.errors] == ["shutting_down"]
    async with serve() as again:
        rows = await again.presence.store.read(["alice", "bob"])
        assert {row.is_online for row in rows.values()} == {False}
        assert len(rows) == 2


async def test_polling_clients_are_served_too(server: Served) -> None:
    import socketio

    client = socketio.AsyncClient()
    diffs: asyncio.Queue[Any] = asyncio.Queue()
    client.on("presence:diff", diffs.put_nowait)
    await client.connect(server.url, auth={"userId": "poller"}, transports=["polling"])
    assert (await client.call("presence:watch", {"users": ["alice"]}))["ok"]
    alice = await server.connect("alice")
    async with asyncio.timeout(5):
        assert (await diffs.get())["changes"][0]["userId"] == "alice"
    await alice.close()
    await client.disconnect()


async def test_an_unknown_namespace_is_refused(server: Served) -> None:
    async with websocket(server.url) as ws:
        await ws.recv()
        await ws.send("40/admin,")
        assert await receive(ws) == '44/admin,{"message":"Invalid namespace"}'


async def test_evicted_connections_are_closed(server: Served) -> None:
    alice, bob = await server.connect("alice"), await server.connect("bob", watch=("alice",))
    assert await server.presence.disconnect("alice") == 1
    await alice.closed.wait()
    await bob.until(lambda: bob.shows("alice") == "offline")
    assert bob.causes("alice") == ["left"]
    assert await server.presence.disconnect("alice") == 0
    ws = await connect_socket(server.url, '40{"userId":"alice"}')
    await bob.until(lambda: bob.shows("alice") == "online")
    await ws.close()
    await bob.close()


# -- the page that a crowd shares --------------------------------------------------------------------------------


async def test_all_who_join_at_once_and_share_a_page_know_each_other_in_the_end(serve: Serve) -> None:
    async with serve(flush_interval_s=0.2, offline_within_s=2.0) as server:
        names = [f"user-{number}" for number in range(40)]

        async def join(name: str) -> tuple[Client, int]:
            client = await server.connect(name)
            return client, (await client.watch(all=True))["version"]

        joined = await asyncio.gather(*map(join, names))
        assert len({version for _, version in joined}) < len(names), "nobody shared a page: this test shows nothing"
        for client, _ in joined:
            await client.until(lambda client=client: all(client.shows(name) == "online" for name in names))
        for client, _ in joined:
            await client.close()


async def test_a_page_is_not_kept_while_nobody_is_told_of_changes(serve: Serve) -> None:
    """Without a watcher there is no flush, and the page of the last one would stand for ever."""
    async with serve(flush_interval_s=0.5, offline_within_s=2.0) as server:
        alice = await server.connect("alice")
        await alice.watch(all=True)
        await alice.watch(all=True)  # the flush that told her of herself is over: this page would be kept
        await alice.leave()
        bob = await server.connect("bob")
        carol = await server.connect("carol")
        page = await carol.watch(all=True)
        assert {user["userId"] for user in page["users"]} == {"bob", "carol"}
        await bob.close()
        await carol.close()


async def test_a_change_that_cannot_be_told_takes_no_other_with_it(serve: Serve) -> None:
    """A time that no text has, or half a character, once lost the diffs of everybody in the same window."""
    async with serve() as served:
        bob = await served.connect("bob")
        await bob.watch(all=True)
        registry = served.presence.registry
        registry.connect("half", "h", node="n")
        await registry.adopt(
            [StoredUser("early", True, Availability.BUSY, -5, Claim(Claimed.BUSY), 1)], last_beat_ms=0, grace_ms=60_000
        )
        with capture_logs() as logs:
            registry.claim("half", Claim(Claimed.BUSY, "\ud800"))
            registry.claim("early", Claim(Claimed.AWAY))
            await registry.connect("whole", "w", node="n")
            await bob.until(lambda: (bob.shows("early"), bob.shows("whole")) == ("away", "online"))
        assert {line["part"] for line in logs if "part" in line} == {"encoding"}, "it is said"


async def test_an_event_that_meets_the_stop_is_no_fault(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had waited for its turn, and found what it needed closed: a traceback for each."""
    waiting, go_on = list[Any](), asyncio.Event()

    async def wait(client: Any) -> None:
        waiting.append(client)
        await go_on.wait()

    async def closed(_: str) -> None:
        raise RuntimeError("the registry is closed")

    async with serve() as server:
        alice = await Client.connect(server.url, "alice")
        monkeypatch.setattr(server.gateway._throttle, "wait", wait)
        monkeypatch.setattr(server.presence.registry, "active", closed)
        with capture_logs() as lines:
            await alice.send("presence:active", {})
            await until(lambda: waiting)
            server.gateway.stop()
            go_on.set()
            await until(lambda: not waiting[0].running)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == []
