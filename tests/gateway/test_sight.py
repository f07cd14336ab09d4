"""``can_watch``: the application says who may see whom, over a real port."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from clients import Client
from herenow.gateway.access.sight import Sight
from herenow.gateway.auth.identity import Identity
from herenow.gateway.events import WireError
from herenow.presence import Presence
from support import serving
from wired import mount_wire

Serve = Callable[..., AbstractAsyncContextManager[str]]


class App:
    """An application with friendships, which it may lose, and a database that may be away."""

    def __init__(self) -> None:
        self.friends: dict[str, set[str]] = {}
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.fault: Exception | None = None

    async def can_watch(self, viewer: str, users: Sequence[str]) -> set[str]:
        self.asked.append((viewer, tuple(users)))
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        return self.friends.get(viewer, set()) & set(users)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def serve(tmp_path: Path, app: App) -> Serve:
    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[str]:
        presence = Presence(
            f"sqlite:///{tmp_path}/app.db", dev=True, offline_within_s=0.6, can_watch=app.can_watch, **settings
        )
        web = FastAPI()
        gateway = mount_wire(presence, web)
        async with serving(web) as url:
            yield url
        assert gateway.server.engine.connections == {}
        sight = gateway._audiences[None].sight
        assert sight is not None and sight._until_s == {}

    return run


async def test_only_whom_the_application_names_can_be_watched_or_asked_about(serve: Serve, app: App) -> None:
    app.friends["alice"] = {"bob", "carol"}
    async with serve() as url:
        alice, bob, dave = [await Client.connect(url, name) for name in ("alice", "bob", "dave")]
        assert (await alice.watch("bob", "carol", "alice"))["ok"]
        for event in ("presence:watch", "presence:get"):
            answer = await alice.call(event, {"users": ["dave", "bob", "erin"]})
            assert [user["userId"] for user in answer["users"]] == ["bob"]
            assert answer["refused"] == [{"userId": name, "code": "forbidden"} for name in ("dave", "erin")]
        assert (await alice.call("presence:watch", {"all": True}))["error"]["code"] == "forbidden"
        assert (await dave.call("presence:get", {"users": ["dave"]}))["ok"], "everybody may see themselves"
        await dave.call("presence:claim", {"availability": "busy"})
        await bob.call("presence:claim", {"availability": "busy"})
        await alice.until(lambda: alice.shows("bob") == "busy")
        assert alice.shows("dave") is None
        for client in (alice, bob, dave):
            await client.close()


async def test_a_token_that_is_replaced_while_the_application_is_asked_opens_nothing(tmp_path: Path) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    def authenticate(auth: Any, handshake: Any) -> Identity:
        return Identity("alice", watch=frozenset([auth["token"]]))

    async def can_watch(viewer: str, users: Sequence[str]) -> Sequence[str]:
        asked.set()
        await may_answer.wait()
        return users

    presence = Presence(f"sqlite:///{tmp_path}/app.db", authenticate=authenticate, can_watch=can_watch)
    web = FastAPI()
    gateway = mount_wire(presence, web)
    async with serving(web) as url:
        alice = await Client.connect(url, token="bob")
        watching = asyncio.create_task(alice.call("presence:watch", {"users": ["bob"]}))
        await asked.wait()
        assert (await alice.call("presence:refresh", {"token": "carol"}))["ok"]
        may_answer.set()
        answer = await watching
        assert (answer["users"], answer["refused"]) == ([], [{"userId": "bob", "code": "forbidden"}])
        assert gateway._audiences[None].watches.of("bob") == frozenset()
        await alice.close()


async def test_a_yes_is_remembered_and_a_no_is_asked_anew(serve: Serve, app: App) -> None:
    app.friends["alice"] = {"bob"}
    async with serve() as url:
        alice = await Client.connect(url, "alice")
        for _ in range(3):
            await alice.call("presence:get", {"users": ["bob", "carol", "bob"]})
        assert app.asked == [("alice", ("bob", "carol")), ("alice", ("carol",)), ("alice", ("carol",))]
        app.friends["alice"].add("carol")
        assert (await alice.watch("bob", "carol"))["ok"]
        await alice.close()


async def test_who_is_no_friend_any_more_is_not_watched_any_more(serve: Serve, app: App) -> None:
    app.friends["alice"] = {"bob", "carol"}
    async with serve(can_watch_stale_s=0.3) as url:
        alice, bob, carol = [await Client.connect(url, name) for name in ("alice", "bob", "carol")]
        await alice.watch("bob", "carol")
        app.friends["alice"] = {"carol"}
        await alice.until(lambda: [error["code"] for error in alice.errors] == ["forbidden"])
        assert alice.errors[0]["message"] == "bob cannot be watched any more"
        for client in (bob, carol):
            await client.call("presence:claim", {"availability": "busy"})
        await alice.until(lambda: alice.shows("carol") == "busy")
        assert alice.shows("bob") == "online"
        for client in (alice, bob, carol):
            await client.close()


async def test_an_application_that_cannot_say_opens_nothing_and_closes_nothing(serve: Serve, app: App) -> None:
    app.friends["alice"] = {"bob", "carol"}
    async with serve(can_watch_stale_s=0.2) as url:
        alice, bob = [await Client.connect(url, name) for name in ("alice", "bob")]
        await alice.watch("bob")
        app.fault = RuntimeError("the database is away")
        await asyncio.sleep(0.5)
        refused = await alice.call("presence:watch", {"users": ["carol"]})
        assert refused["error"]["code"] == "internal"
        assert "database" not in refused["error"]["message"]
        await bob.call("presence:claim", {"availability": "busy"})
        await alice.until(lambda: alice.shows("bob") == "busy")
        app.fault = None
        assert (await alice.watch("carol"))["ok"]
        assert alice.errors == []
        await alice.close()
        await bob.close()


async def test_who_goes_while_the_application_thinks_leaves_no_watch(serve: Serve, app: App) -> None:
    app.friends["alice"] = {"bob"}
    async with serve() as url:
        alice = await Client.connect(url, "alice")
        await alice.send("presence:watch", {"users": ["bob"]}, 7)
        alice.kill()
        await asyncio.sleep(0.3)


async def test_a_sync_function_will_do_and_a_thousand_is_the_most_that_it_is_asked() -> None:
    asked: list[int] = []

    def can_watch(viewer: str, users: Sequence[str]) -> Sequence[str]:
        asked.append(len(users))
        return [user for user in users if user.endswith("7")]

    sight = Sight(can_watch, 10.0, 300)
    users = [f"user-{number}" for number in range(2500)]
    assert len(await sight.refused("alice", users, 0.0)) == 2250
    assert asked == [1000, 1000, 500]
    assert await sight.refused("alice", ["user-7"], 9.9) == []
    assert asked == [1000, 1000, 500]
    await sight.refused("alice", ["user-7"], 10.0)
    assert asked == [1000, 1000, 500, 1]
    await sight.refused("alice", ["user-7"], 10.0, anew=True)
    assert asked == [1000, 1000, 500, 1, 1]


async def test_what_is_remembered_of_a_viewer_is_bounded() -> None:
    sight = Sight(lambda viewer, users: users, 10.0, 300)
    for start in range(0, 5000, 200):
        assert await sight.refused("alice", [f"user-{number}" for number in range(start, start + 200)], 0.0) == []
        assert len(sight._until_s["alice"]) <= 300


async def test_one_that_cancels_itself_has_failed_and_no_more() -> None:
    def can_watch(viewer: str, users: Sequence[str]) -> Sequence[str]:
        raise asyncio.CancelledError

    with pytest.raises(WireError, match="could not say"):
        await Sight(can_watch, 10.0, 300).refused("alice", ["bob"], 0.0)


async def test_one_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herenow.gateway.access.sight.ANSWER_WITHIN_S", 0.05)

    async def can_watch(viewer: str, users: Sequence[str]) -> Sequence[str]:
        await asyncio.sleep(10)
        return users

    with pytest.raises(WireError, match="could not say"):
        await Sight(can_watch, 10.0, 10).refused("alice", ["bob"], 0.0)
