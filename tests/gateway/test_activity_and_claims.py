"""Activity, idleness and claims, as watchers see them."""

import asyncio
import time

from gateway.served import Serve, Served
from herenow.model import Claim, Claimed


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
