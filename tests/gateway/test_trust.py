"""Tokens over a real port: how long a client may stay, and whom it may ask about."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from fastapi import FastAPI

from clients import Client, Refused
from herenow.presence import Presence
from support import serving
from wired import mount_wire

SECRET = "a secret of at least thirty-two bytes"

Serve = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[str]:
        app = FastAPI()
        settings = {"jwt_secret": SECRET, "jwt_leeway_s": 0, "offline_within_s": 0.6, **settings}
        presence = Presence(f"sqlite:///{tmp_path}/app.db", **settings)
        gateway = mount_wire(presence, app)
        async with serving(app) as url:
            yield url
        assert gateway.server.engine.connections == {}

    return run


def token(user: str = "alice", *, lives_s: float | None = None, **claims: Any) -> str:
    end = {} if lives_s is None else {"exp": time.time() + lives_s}
    return jwt.encode({"sub": user, **end, **claims}, SECRET)


async def connect(url: str, user: str = "alice", **claims: Any) -> Client:
    return await Client.connect(url, token=token(user, **claims))


def codes(client: Client) -> list[str]:
    return [error["code"] for error in client.errors]


async def test_a_token_ends_the_connection_after_a_warning_and_nobody_sees_a_quick_return(serve: Serve) -> None:
    async with serve() as url:
        bob = await connect(url, "bob")
        await bob.watch("alice")
        alice = await connect(url, lives_s=2.2)
        await bob.until(lambda: bob.shows("alice") == "online")
        await alice.until(lambda: codes(alice) == ["token_expiring"], 4)
        assert not alice.closed.is_set()
        assert alice.errors[0]["temporary"]
        await alice.until(alice.closed.is_set, 5)
        assert codes(alice) == ["token_expiring", "token_expired"]
        again = await connect(url)
        await bob.settle(0.8)
        assert bob.causes("alice") == ["connect"]
        await again.close()
        await bob.until(lambda: bob.shows("alice") == "offline")
        assert bob.causes("alice") == ["connect", "closed"]
        await bob.close()


async def test_a_newer_token_prolongs_the_stay(serve: Serve) -> None:
    async with serve() as url:
        alice = await connect(url, lives_s=2)
        end = time.time() + 100
        answer = await alice.call("presence:refresh", {"token": token(exp=end)})
        assert answer["ok"]
        assert answer["expires"].startswith("20")
        await alice.settle(3.2)
        assert not alice.closed.is_set()
        assert (await alice.call("presence:refresh", {"token": token()})) == {"ok": True, "expires": None}
        await alice.close()


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (lambda: token("bob"), "forbidden"),
        (lambda: token(lives_s=-5), "token_expired"),
        (lambda: "rubbish", "unauthorized"),
        (lambda: 5, "bad_request"),
        (lambda: None, "bad_request"),
    ],
)
async def test_a_refresh_that_fails_changes_nothing(serve: Serve, given: Callable[[], Any], code: str) -> None:
    async with serve() as url:
        alice = await connect(url)
        answer = await alice.call("presence:refresh", {"token": given()})
        assert answer["error"]["code"] == code
        assert (await alice.call("presence:get", {"users": ["alice"]}))["users"][0]["isOnline"]
        await alice.close()


@pytest.mark.parametrize("exp", [4_102_444_800_000, 1e306])
async def test_an_end_that_no_calendar_has_is_none(serve: Serve, exp: float) -> None:
    """Such a token, of milliseconds or of a huge number, was refused after its user was online already: for ever."""
    async with serve() as url:
        bob = await connect(url, "bob")
        await bob.watch("alice")
        alice = await connect(url, exp=exp)
        assert await alice.call("presence:refresh", {"token": token(exp=exp)}) == {"ok": True, "expires": None}
        await alice.close()
        await bob.until(lambda: bob.shows("alice") == "offline")
        await bob.close()


async def test_the_claim_watch_limits_what_may_be_asked(serve: Serve) -> None:
    async with serve() as url:
        alice = await connect(url, watch=["bob"])
        bob, carol = await connect(url, "bob"), await connect(url, "carol")
        for payload in ({"all": True}, {"all": True, "since": 0}):
            answer = await alice.call("presence:watch", payload)
            assert answer["error"]["code"] == "forbidden", payload
            assert "users" not in answer
        for event in ("presence:get", "presence:watch"):
            answer = await alice.call(event, {"users": ["carol"]})
            assert (answer["users"], answer["refused"]) == ([], [{"userId": "carol", "code": "forbidden"}])
        answer = await alice.call("presence:get", {"users": ["bob", "alice"]})
        assert [user["isOnline"] for user in answer["users"]] == [True, True]
        await alice.watch("bob", "alice")
        await carol.leave()
        await bob.leave()
        await alice.until(lambda: alice.shows("bob") == "offline")
        assert set(alice.view) == {"alice", "bob"}
        await alice.close()


async def test_of_some_who_may_not_be_seen_the_others_are_answered_and_watched(serve: Serve) -> None:
    """One friend too many in a list of a thousand was an error for all of them."""
    async with serve() as url:
        alice = await connect(url, watch=["bob", "dave"])
        bob, carol = await connect(url, "bob"), await connect(url, "carol")
        carols = [{"userId": "carol", "code": "forbidden"}]
        asked = {"users": ["carol", "bob", "alice", "dave", "bob"]}
        for event in ("presence:get", "presence:watch"):
            answer = await alice.call(event, asked)
            assert answer["ok"]
            assert [user["userId"] for user in answer["users"]] == ["bob", "alice", "dave"]
            assert answer["refused"] == carols
        newer = await alice.call("presence:watch", {**asked, "since": answer["version"]})
        assert (newer["full"], newer["users"], newer["refused"]) == (False, [], carols)
        assert "refused" not in await alice.call("presence:get", {"users": ["bob"]})
        await carol.leave()
        await bob.leave()
        await alice.until(lambda: alice.shows("bob") == "offline")
        assert alice.causes("carol") == []
        await alice.close()


async def test_a_refresh_that_takes_sight_away_takes_the_watches_too(serve: Serve) -> None:
    async with serve() as url:
        alice = await connect(url)
        bob, carol = await connect(url, "bob"), await connect(url, "carol")
        await alice.watch("bob", "carol")
        await alice.watch(all=True)
        assert (await alice.call("presence:refresh", {"token": token(watch=["bob"])}))["ok"]
        await carol.leave()
        await bob.leave()
        await alice.until(lambda: alice.shows("bob") == "offline")
        await alice.settle()
        assert alice.shows("carol") == "online"  # as it was
        assert alice.causes("carol") == []
        await alice.close()


async def test_while_the_loop_lags_nobody_new_is_let_in(serve: Serve) -> None:
    async with serve(overload_lag_s=0.05) as url:
        alice = await connect(url)

        async def hog() -> None:
            while True:
                time.sleep(0.2)  # noqa: ASYNC251  # to be late is the point
                await asyncio.sleep(0.01)

        hogging = asyncio.create_task(hog())
        await asyncio.sleep(1)
        with pytest.raises(Refused) as refused:
            await connect(url, "bob")
        data = refused.value.error["data"]
        assert (data["code"], data["temporary"]) == ("overloaded", True)
        assert 1_000 <= data["retryAfterMs"] <= 5_000
        assert (await alice.call("presence:get", {"users": ["bob"]}))["ok"]
        hogging.cancel()
        await asyncio.sleep(0.5)
        bob = await connect(url, "bob")
        await bob.close()
        await alice.close()
