"""Connecting: who is let in, what they are told first, and who is told of it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from fastapi import FastAPI

from captured import capture_logs
from clients import Client, Refused
from gateway.served import Serve, Served
from herenow.gateway.auth.identity import Identity
from herenow.gateway.events import WireError
from herenow.presence import Presence
from support import closed, receive, serving, until, websocket

SECRET = "a secret of at least thirty-two bytes"


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
