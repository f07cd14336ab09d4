"""Watching: some users, or all, in pages and with a version to go on from."""

import asyncio

import pytest

from gateway.served import Serve, Served


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
