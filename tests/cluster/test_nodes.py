"""Nodes of one cluster, each a process of its own: what one knows all know, and none of them is needed."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

import redis_server
from clients import Client, Refused
from cluster.cluster import LEASE_S, RESTART_GRACE_S, Cluster, running
from cluster.sentinel import watched
from e2e.relay import Relay
from herenow.times import from_iso
from support import http_get, until

EXTRA_S = 4.0
"""What a busy test machine may add to a bound."""


async def test_users_on_one_node_are_seen_on_the_others_and_stored(tmp_path: Path) -> None:
    with running(tmp_path, 3) as cluster:
        first, second, third = cluster.nodes
        bob = await Client.connect(second.url, "bob")
        await bob.watch("alice")
        alice = await Client.connect(first.url, "alice")
        await bob.until(lambda: bob.shows("alice") == "online")
        await until(lambda: first.online_rows() == {"alice", "bob"})
        assert third.online() == {"alice", "bob"}
        assert third.stats()["connections"] == 2
        await alice.leave()
        await bob.until(lambda: bob.shows("alice") == "offline")
        await until(lambda: first.online_rows() == {"bob"})
        await bob.close()


async def test_a_node_is_killed_and_who_comes_back_elsewhere_was_never_gone(tmp_path: Path) -> None:
    """C2 and C6: also where it kept the store."""
    with running(tmp_path, 3) as cluster:
        first, second, third = cluster.nodes
        watcher = await Client.connect(third.url, "watcher")
        await watcher.watch("alice", "ghost")
        await Client.connect(first.url, "alice")
        await Client.connect(first.url, "ghost")
        await watcher.until(lambda: watcher.shows("alice") == watcher.shows("ghost") == "online")
        first.kill()
        killed_s = time.monotonic()
        await asyncio.sleep(1)
        alice = await Client.connect(second.url, "alice")
        await watcher.until(lambda: watcher.shows("ghost") == "offline", LEASE_S + RESTART_GRACE_S + EXTRA_S)
        assert time.monotonic() - killed_s > RESTART_GRACE_S - EXTRA_S
        assert watcher.causes("alice") == ["connect"]
        await until(lambda: second.online_rows() == {"alice", "watcher"}, 5)
        await alice.close()
        await watcher.close()


async def test_nodes_are_killed_and_renewed_twice_and_no_ghost_is_left(tmp_path: Path) -> None:
    """Elsewhere, renewals spread what a crash had left."""
    with running(tmp_path, 2) as cluster:
        first, second = cluster.nodes
        for turn in range(2):
            await Client.connect(first.url, f"killed-{turn}")
            await Client.connect(second.url, f"renewed-{turn}")
            first.kill()
            await asyncio.to_thread(first.start)
            await asyncio.to_thread(second.stop)
            await asyncio.to_thread(second.start)
        stays = await Client.connect(first.url, "stays")
        await until(lambda: first.online() == second.online() == {"stays"}, LEASE_S + RESTART_GRACE_S + EXTRA_S)
        await until(lambda: first.online_rows() == {"stays"}, 5)
        assert first.stats()["connections"] == 1
        assert len(cluster.keys("*:on:*")) == 1
        (nodes,) = cluster.keys("*:nodes")
        members = cluster.redis.call("HKEYS", nodes)
        assert isinstance(members, list)
        assert {key.rpartition(":outcomes:")[2] for key in cluster.keys("*:outcomes:*")} <= {
            member.decode() for member in members
        }
        await stays.close()


async def test_all_nodes_are_renewed_one_after_the_other_and_nobody_sees_it(tmp_path: Path) -> None:
    """C3: a deployment."""
    with running(tmp_path, 2) as cluster:
        watcher = await Client.connect(cluster.nodes[1].url, "watcher")
        await watcher.watch("alice")
        alice = await Client.connect(cluster.nodes[0].url, "alice")
        await watcher.until(lambda: watcher.shows("alice") == "online")
        told = list(watcher.diffs)
        for _ in range(2):
            old, other = cluster.nodes
            assert old.stop() < 5
            assert "alice" in other.online()
            alice = await Client.connect(other.url, "alice")
            old.start()
            cluster.nodes.reverse()
            if old is cluster.nodes[1]:
                await asyncio.sleep(0.1)
            await watcher.settle()
            if watcher.closed.is_set():
                break
            assert watcher.diffs == told
        await until(lambda: {"alice"} <= cluster.nodes[0].online_rows())
        await alice.close()


async def test_the_last_node_to_leave_tells_the_store_and_who_is_back_in_time_was_never_gone(tmp_path: Path) -> None:
    with running(tmp_path, 2) as cluster:
        first, second = cluster.nodes
        await Client.connect(first.url, "alice")
        await Client.connect(second.url, "bob")
        await until(lambda: first.online_rows() == {"alice", "bob"})
        for node in cluster.nodes:
            await asyncio.to_thread(node.stop)
        assert first.online_rows() == set()
        first.start()
        watcher = await Client.connect(first.url, "watcher")
        answer = await watcher.watch("alice", "bob")
        assert {user["userId"]: user["availability"] for user in answer["users"]} == {
            "alice": "online",
            "bob": "online",
        }
        alice = await Client.connect(first.url, "alice")
        await watcher.until(lambda: watcher.shows("bob") == "offline", RESTART_GRACE_S + EXTRA_S)
        assert watcher.causes("alice") == []
        await until(lambda: first.online_rows() == {"alice", "watcher"})
        await alice.close()


@pytest.mark.parametrize("pause_s", [1.0, 4.0])
async def test_a_node_that_stood_still_does_no_harm_when_it_goes_on(tmp_path: Path, pause_s: float) -> None:
    """C4: a zombie."""
    with running(tmp_path, 2) as cluster:
        first, second = cluster.nodes
        watcher = await Client.connect(second.url, "watcher")
        await watcher.watch("alice", "idle")
        alice = await Client.connect(first.url, "alice")
        idle = await Client.connect(first.url, "idle")
        await idle.call("presence:idle")
        await watcher.until(lambda: watcher.shows("alice") == "online" and watcher.shows("idle") == "away")
        count = len(watcher.diffs)
        first.pause()
        began_s = time.monotonic()
        assert second.online() == {"alice", "idle", "watcher"}
        answer = await watcher.call("presence:get", {"users": ["alice", "nobody"]})
        assert [user["isOnline"] for user in answer["users"]] == [True, False]
        assert time.monotonic() - began_s < 1, "nobody is asked who stands still"
        await asyncio.sleep(pause_s)
        first.resume()
        await asyncio.sleep(3)
        assert watcher.diffs[count:] == []
        assert (await alice.call("presence:active"))["ok"]
        await until(lambda: second.stats().get("connections") == 3)
        await until(lambda: first.online_rows() == {"alice", "idle", "watcher"})
        for client in (alice, idle, watcher):
            await client.leave()
        await until(lambda: first.online_rows() == set())


@pytest.mark.parametrize("kind", redis_server.KINDS)
async def test_redis_comes_back_with_nothing_and_nobody_is_seen_to_go(tmp_path: Path, kind: str) -> None:
    """C5: killed and restarted without its data."""
    redis = redis_server.RedisServer(kind)
    redis.start()
    try:
        with running(tmp_path, 2, redis=redis) as cluster:
            watcher, clients = await _some_clients(cluster)
            count = len(watcher.diffs)
            redis.kill()
            await asyncio.sleep(2)
            assert all(not client.closed.is_set() for client in clients)
            redis.start()
            await until(lambda: cluster.nodes[0].stats().get("connections") == len(clients) + 1, 10)
            await asyncio.sleep(RESTART_GRACE_S)
            _see_nobody_went(watcher, count)
            assert cluster.nodes[0].online() == cluster.nodes[1].online() == cluster.nodes[0].online_rows()
            await _leave(cluster, watcher, clients)
    finally:
        redis.close()


async def test_redis_is_emptied_under_the_nodes_and_nobody_is_seen_to_go(tmp_path: Path) -> None:
    """C5: FLUSHALL."""
    with running(tmp_path, 2) as cluster:
        watcher, clients = await _some_clients(cluster)
        count = len(watcher.diffs)
        quiet = await _bytes_in(cluster, 2)
        cluster.redis.call("FLUSHALL")
        await until(lambda: cluster.nodes[0].stats().get("connections") == len(clients) + 1, 10)
        await asyncio.sleep(RESTART_GRACE_S - 2)
        assert await _bytes_in(cluster, 2) < 1.5 * quiet, "all is quiet again"
        _see_nobody_went(watcher, count)
        assert cluster.nodes[0].online() == cluster.nodes[1].online() == cluster.nodes[0].online_rows()
        await _leave(cluster, watcher, clients)


async def test_redis_loses_the_users_of_a_tenant_and_nobody_is_seen_to_go_who_is_there(tmp_path: Path) -> None:
    """C5: as where its policy throws out what was not asked for lately; or somebody has deleted the wrong key."""
    with running(tmp_path, 2) as cluster:
        watcher, clients = await _some_clients(cluster)
        count = len(watcher.diffs)
        (key,) = cluster.keys("*:t::users")
        await clients.pop(5).close()
        assert cluster.redis.call("DEL", key) == 1
        clients.append(await Client.connect(cluster.nodes[0].url, "new"))
        await until(lambda: any("Redis has lost users" in node.log() for node in cluster.nodes))
        await watcher.until(lambda: watcher.shows("user-5") == "offline", RESTART_GRACE_S + EXTRA_S)
        told = [change for diff in watcher.diffs[count:] for change in diff["changes"]]
        assert [(change["userId"], change["cause"]) for change in told] == [("user-5", "restart")]
        assert cluster.nodes[0].stats()["connections"] == len(clients) + 1 == cluster.nodes[1].stats()["users"]
        await until(lambda: cluster.nodes[0].online() == cluster.nodes[1].online() == cluster.nodes[0].online_rows())
        await _leave(cluster, watcher, clients)


async def _bytes_in(cluster: Cluster, seconds: float) -> int:
    """What Redis and all nodes say to each other meanwhile."""
    before = _bytes(cluster)
    await asyncio.sleep(seconds)
    return _bytes(cluster) - before


def _bytes(cluster: Cluster) -> int:
    found = cluster.redis.call("INFO", "stats")
    assert isinstance(found, dict)
    return int(found["total_net_input_bytes"]) + int(found["total_net_output_bytes"])


async def test_what_redis_has_lost_is_said_again_after_one_beat_however_long_the_leader_leads(tmp_path: Path) -> None:
    """C5, with beats so far apart that what waits for one too many is late.

    A node saw by one beat that it was no member, led by the next, and said what it serves by the one after. A leader
    that had led for longer than the grace took it that nobody who was adopted had come back in time.
    """
    beat_s, grace_s = 2.0, 8.15
    with running(
        tmp_path, 2, node_beat_s=beat_s, node_lease_s=5.0, restart_grace_s=grace_s, offline_within_s=0.65
    ) as cluster:
        watcher, clients = await _some_clients(cluster)
        await asyncio.sleep(grace_s)
        count = len(watcher.diffs)
        for _ in range(3):
            cluster.redis.call("FLUSHALL")
            emptied_s = time.monotonic()
            await until(lambda: cluster.nodes[0].stats().get("connections") == len(clients) + 1, 10)
            assert time.monotonic() - emptied_s < beat_s + 2, "C5 has two seconds where the beats have one"
            _see_nobody_went(watcher, count)
        await _leave(cluster, watcher, clients)


async def test_what_is_compared_with_an_empty_redis_is_neither_closed_nor_repaired(tmp_path: Path) -> None:
    """C5: where a roll call or an audit fell twice into the time before all was said again.

    Connections were closed as strays, and their users written offline as ghosts.
    """
    with running(tmp_path, 1, audit_every_s=0.3, node_beat_s=2.0, node_lease_s=5.0) as cluster:
        (node,) = cluster.nodes
        watcher, alice = await Client.connect(node.url, "watcher"), await Client.connect(node.url, "alice")
        await watcher.watch("alice")
        await until(lambda: node.online_rows() == {"alice", "watcher"})
        for _ in range(2):
            cluster.redis.call("FLUSHALL")
            await until(lambda: node.stats().get("connections") == 2, 10)
        await watcher.settle()
        assert not alice.closed.is_set() and not watcher.closed.is_set()
        assert watcher.diffs == []
        assert node.online_rows() == {"alice", "watcher"}


async def _some_clients(cluster: Cluster) -> tuple[Client, list[Client]]:
    watcher = await Client.connect(cluster.nodes[1].url, "watcher")
    names = [f"user-{number}" for number in range(10)]
    await watcher.watch(*names)
    clients = [await Client.connect(cluster.nodes[at % 2].url, name) for at, name in enumerate(names)]
    await clients[3].call("presence:idle")
    await watcher.until(lambda: all(watcher.shows(name) for name in names) and watcher.shows(names[3]) == "away")
    await until(lambda: len(cluster.nodes[0].online_rows()) == 11)
    return watcher, clients


def _see_nobody_went(watcher: Client, count: int) -> None:
    told = [change for diff in watcher.diffs[count:] for change in diff["changes"]]
    assert [change for change in told if not change["isOnline"]] == []


async def _leave(cluster: Cluster, watcher: Client, clients: list[Client]) -> None:
    for client in (*clients, watcher):
        assert not client.closed.is_set()
        await client.leave()
    await until(lambda: cluster.nodes[0].online_rows() == set())
    assert cluster.nodes[1].online() == set()


async def test_a_failover_loses_the_last_that_redis_took_and_nobody_who_is_there_is_seen_to_go(tmp_path: Path) -> None:
    """C5: a Sentinel lets a replica take over that lacks the last seconds."""
    async with watched() as redis:
        with running(tmp_path, 2, url=redis.url) as cluster:
            watcher, clients = await _some_clients(cluster)
            await watcher.watch("late", "gone")
            gone = await Client.connect(cluster.nodes[0].url, "gone")
            await watcher.until(lambda: watcher.shows("gone") == "online")
            redis.lose()
            clients.append(await Client.connect(cluster.nodes[0].url, "late"))
            await clients[4].call("presence:idle")
            await gone.leave()
            await watcher.until(lambda: watcher.shows("late") == "online" and watcher.shows("gone") == "offline")
            await watcher.until(lambda: watcher.shows("user-4") == "away")
            count = len(watcher.diffs)
            await redis.fail_over()
            await until(lambda: cluster.nodes[0].stats().get("connections") == len(clients) + 1, 20)
            await asyncio.sleep(6)
            told = [change for diff in watcher.diffs[count:] for change in diff["changes"]]
            assert [each for each in told if not each["isOnline"] and each["userId"] != "gone"] == []
            assert cluster.nodes[0].online() == cluster.nodes[1].online() == {
                "watcher", "late", *(f"user-{number}" for number in range(10))
            }  # fmt: skip
            shown = {user for user in watcher.view if watcher.view[user]["isOnline"]}
            assert shown == cluster.nodes[0].online() - {"watcher"}
            assert watcher.shows("user-4") == "away"
            await until(lambda: cluster.nodes[0].online_rows() == cluster.nodes[0].online(), 10)
            await _leave(cluster, watcher, clients)


async def test_redis_is_full_and_who_goes_is_seen_to_go(tmp_path: Path) -> None:
    """C5: no memory is left: nobody new is let in, and nobody is kept for ever."""
    with running(tmp_path, 2) as cluster:
        watcher, clients = await _some_clients(cluster)
        cluster.redis.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Refused) as refused:
            await Client.connect(cluster.nodes[0].url, "new")
        assert refused.value.error["data"]["code"] == "unavailable"
        assert refused.value.error["data"]["temporary"]
        await clients[0].leave()
        await clients[1].close()
        await watcher.until(lambda: watcher.shows("user-0") == watcher.shows("user-1") == "offline")
        await asyncio.sleep(2 * LEASE_S)
        assert len(http_get(f"{cluster.nodes[0].url}/v1/online", timeout=5).json()["users"]) == 9
        cluster.redis.call("CONFIG", "SET", "maxmemory", "0")
        clients[:2] = [await Client.connect(cluster.nodes[0].url, "new")]
        await _leave(cluster, watcher, clients)


async def test_a_node_that_is_cut_off_from_redis_is_given_up_and_does_no_harm_when_it_is_back(tmp_path: Path) -> None:
    """C4: a partition between one node and Redis, both ways and one way."""
    redis = redis_server.RedisServer()
    redis.start()
    relay = Relay(redis.port)
    await relay.start()
    try:
        with running(tmp_path, 1, redis=redis) as cluster:
            cut = cluster.make(2, cluster=f"redis://127.0.0.1:{relay.port}")
            await asyncio.to_thread(cut.start)
            cluster.nodes.append(cut)
            watcher = await Client.connect(cluster.nodes[0].url, "watcher")
            await watcher.watch("alice", "bob")
            alice, bob = await Client.connect(cut.url, "alice"), await Client.connect(cut.url, "bob")
            await watcher.until(lambda: watcher.shows("alice") == watcher.shows("bob") == "online")
            count = len(watcher.diffs)
            for trouble in (relay.silence, relay.lose_answers):
                trouble()
                await asyncio.sleep(2 * LEASE_S)
                relay.resume()
                relay.cut()
                await until(lambda: cluster.nodes[0].stats().get("connections") == 3, 10)
            assert watcher.diffs[count:] == []
            relay.silence()
            await bob.close()
            await watcher.until(lambda: watcher.shows("bob") == "offline", LEASE_S + RESTART_GRACE_S + EXTRA_S)
            assert watcher.shows("alice") == "offline", "for all that anybody can know"
            relay.resume()
            relay.cut()
            await watcher.until(lambda: watcher.shows("alice") == "online", 10)
            await asyncio.sleep(3)
            assert watcher.shows("bob") == "offline"
            await until(lambda: cluster.nodes[0].online_rows() == {"alice", "watcher"})
            await alice.close()
    finally:
        await relay.stop()
        redis.close()


async def test_who_comes_back_to_another_node_gets_what_is_new(tmp_path: Path) -> None:
    """C8, also where that node has begun since."""
    with running(tmp_path, 2) as cluster:
        first, second = cluster.nodes
        watcher, alice = await Client.connect(first.url, "watcher"), await Client.connect(first.url, "alice")
        since = (await watcher.watch(all=True))["version"]
        await watcher.close()
        await alice.call("presence:idle")
        await asyncio.to_thread(second.stop)
        await asyncio.to_thread(second.start)
        watcher = await Client.connect(second.url, "watcher")
        answer = await watcher.watch(all=True, since=since)
        assert not answer["full"]
        told = [(user["userId"], user["availability"]) for user in answer["users"] if user["userId"] != "watcher"]
        assert told == [("alice", "away")]
        for node in (first, second):  # and again, though nothing has happened to anybody else
            await watcher.close()
            watcher = await Client.connect(node.url, "watcher")
            answer = await watcher.watch(all=True, since=answer["version"])
            assert not answer["full"]
            assert {user["userId"] for user in answer["users"]} <= {"watcher"}


async def test_settings_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    with running(tmp_path, 1) as cluster:
        for settings, said in (
            ({"stale_after_s": 400}, "stale_after_s is 400.0 here, and 300.0 at the node n1"),
            ({"node_name": "n1"}, "node_name n1 is another node's, which lives: process"),
            ({"cluster": "redis://127.0.0.1:1"}, "waiting for Redis"),
        ):
            other = cluster.make(2, **settings)
            with pytest.raises(AssertionError):
                await asyncio.to_thread(other.start, 4.0)
            await until(lambda other=other, said=said: said in other.log())  # type: ignore[misc]
            if other.is_running():
                other.kill()
        cluster.redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        other = cluster.make(3)
        with pytest.raises(AssertionError):
            await asyncio.to_thread(other.start)
        assert "throws keys away when its memory is full (maxmemory-policy allkeys-lru)" in other.log()
        assert (await Client.connect(cluster.nodes[0].url, "alice")).ready["userId"] == "alice"


async def test_nodes_on_two_machines_that_keep_a_file_are_refused(tmp_path: Path) -> None:
    with running(tmp_path, 1) as cluster:
        (name,) = cluster.keys("*:nodes")
        first = cluster.redis.call("HGETALL", name)
        assert isinstance(first, dict)
        (record,) = (msgspec.json.decode(each) for each in first.values())
        elsewhere = msgspec.json.encode({**record, "name": "far", "host": "another-machine", "process": "b/1/2"})
        cluster.redis.call("HSET", name, "far:1", elsewhere.decode())
        other = cluster.make(2)
        with pytest.raises(AssertionError):
            await asyncio.to_thread(other.start)
        assert "the node far is on another-machine: nodes on several machines need a MongoDB" in other.log()


async def test_while_redis_is_away_the_nodes_serve_and_say_so_and_nothing_is_restarted(tmp_path: Path) -> None:
    """An orchestrator that restarted them would make an outage of Redis one of everybody."""
    with running(tmp_path, 1) as cluster:
        (node,) = cluster.nodes
        watcher, alice = await Client.connect(node.url, "watcher"), await Client.connect(node.url, "alice")
        await watcher.watch("alice", "bob")
        bob = await Client.connect(node.url, "bob")
        await watcher.until(lambda: watcher.shows("bob") == "online")
        kept = await Client.connect(node.url, "kept")
        await kept.close()
        await until(lambda: "kept" in node.online_rows())
        cluster.redis.kill()
        killed_ms = time.time() * 1000
        await watcher.until(lambda: [error["code"] for error in watcher.errors] == ["registry_unavailable"])
        # What a node knew is told, and said to be old; whom it knew nothing of, the store has.
        answer = await alice.watch("alice", "bob", "kept", "nobody")
        shown = [(user["userId"], user["availability"]) for user in answer["users"]]
        assert shown == [("alice", "online"), ("bob", "online"), ("kept", "online"), ("nobody", "offline")]
        assert answer["stale"] and abs(from_iso(answer["asOf"]) - killed_ms) < 3000
        for path, found in (("users/bob", "bob"), ("online", None)):
            told = http_get(f"{node.url}/v1/{path}", timeout=10).json()
            if found is None:  # nobody has asked for a page before, so none is kept
                assert told["error"]["code"] == "registry_unavailable"
            else:
                assert told["stale"] and told["isOnline"] and told["userId"] == found
        await bob.close()
        with pytest.raises(Refused) as refused:
            await Client.connect(node.url, "carol")
        assert refused.value.error["data"]["code"] == "unavailable"
        answer = await alice.call("presence:active")
        assert (answer["error"]["code"], answer["error"]["temporary"]) == ("unavailable", True)
        assert http_get(f"{node.url}/v1/stats", timeout=10).json()["error"]["code"] == "registry_unavailable"
        await asyncio.sleep(6)
        assert http_get(f"{node.url}/healthz").status_code == 200
        ready = http_get(f"{node.url}/readyz")
        assert ready.status_code == 200
        assert "Redis does not answer" in ready.json()["degraded"]
        assert not watcher.closed.is_set() and not alice.closed.is_set()
        assert watcher.shows("alice") == watcher.shows("bob") == "online"
        cluster.redis.start()
        await watcher.until(lambda: watcher.shows("bob") == "offline", RESTART_GRACE_S + EXTRA_S)
        assert (await alice.call("presence:active"))["ok"]
        assert [error["code"] for error in watcher.errors] == ["registry_unavailable", "registry_back"]
        assert "stale" not in await alice.watch("bob", "kept")
        assert http_get(f"{node.url}/readyz").json().get("degraded") is None
        assert "Traceback" not in node.log()
        await until(lambda: node.online_rows() == {"alice", "watcher"})
