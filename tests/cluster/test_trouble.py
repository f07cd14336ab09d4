"""Nodes in trouble with one another and with Redis, as others have met it: each of these was somebody's outage."""

import asyncio
import time
from pathlib import Path

import redis_server
from clients import Client
from cluster.cluster import LEASE_S, RESTART_GRACE_S, running
from herenow.registry.redis.refusals import FULL, LEADS_ELSEWHERE, NOT_NOW
from redis_proxy import Command, proxied, refuses
from support import http_get, until

EXTRA_S = 4.0
"""What a busy test machine may add to a bound."""

GIVES_UP_S = 3.9
"""By itself a tail that hears nothing gives its connection up after 4 s; it is to be caught up in 3."""

ENTRIES = 70_000
"""More than the log keeps."""

FILL = """
for number = 1, ARGV[1] do
  local place = string.format('%.0f', redis.call('INCR', KEYS[2]))
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', 65536, '*', 'schema', '1', 'place', place, 'tenant', 'busy')
end
"""
"""As ``commit.lua`` does it."""


async def test_a_node_that_stood_still_while_the_log_was_cut_shows_what_is_true(tmp_path: Path) -> None:
    """A cursor that was cut away silently goes on at the first entry that is left."""
    with running(tmp_path, 2) as cluster:
        first, second = cluster.nodes
        watcher = await Client.connect(second.url, "watcher")
        since = (await watcher.watch(all=True))["version"]
        alice, bob = await Client.connect(first.url, "alice"), await Client.connect(first.url, "bob")
        await watcher.until(lambda: watcher.shows("alice") == watcher.shows("bob") == "online")
        second.pause()
        carol = await Client.connect(first.url, "carol")  # what answers the read that waits
        await alice.leave()
        keys = [*cluster.keys("*:log"), *cluster.keys("*:sequence")]
        for _ in range(7):
            cluster.redis.call("EVAL", FILL, "2", *keys, str(ENTRIES // 7))
            await carol.call("presence:idle")  # the node that does not stand still is to read all of it
            await carol.call("presence:active")
        assert len(keys) == 2
        length = cluster.redis.call("XLEN", keys[0])
        assert isinstance(length, int)
        assert length < ENTRIES
        second.resume()
        await asyncio.wait_for(watcher.closed.wait(), 10)
        assert watcher.shows("alice") == "online", "it knows nothing of what was cut, and sends its clients back"
        watcher = await Client.connect(second.url, "watcher")
        answer = await watcher.watch(all=True, since=since)
        assert answer["full"]
        assert {user["userId"] for user in answer["users"] if user["isOnline"]} == {"bob", "carol", "watcher"}
        await bob.leave()
        await watcher.until(lambda: watcher.shows("bob") == "offline")
        await until(lambda: first.online_rows() == {"carol", "watcher"})
        await carol.close()


async def test_redis_is_full_and_a_node_is_killed_and_the_others_live_on_and_ghosts_end(tmp_path: Path) -> None:
    with running(tmp_path, 3) as cluster:
        first, second, third = cluster.nodes
        watcher = await Client.connect(third.url, "watcher")
        await watcher.watch("ghost", "alice")
        await Client.connect(first.url, "ghost")
        alice = await Client.connect(second.url, "alice")
        await watcher.until(lambda: watcher.shows("ghost") == watcher.shows("alice") == "online")
        cluster.redis.call("CONFIG", "SET", "maxmemory", "1")
        first.kill()
        await watcher.until(lambda: watcher.shows("ghost") == "offline", LEASE_S + RESTART_GRACE_S + EXTRA_S)
        assert watcher.causes("ghost") == ["connect", "node_lost"]
        assert watcher.causes("alice") == ["connect"]
        for node in (second, third):
            assert "has come back" not in node.log(), "none lost its lease"
            assert node.online() == {"alice", "watcher"}
        await until(lambda: second.online_rows() == {"alice", "watcher"}, 5)
        await alice.leave()
        await watcher.until(lambda: watcher.shows("alice") == "offline")


async def test_all_nodes_are_stopped_in_one_instant_and_one_of_them_tells_the_store(tmp_path: Path) -> None:
    with running(tmp_path, 3) as cluster:
        for number, node in enumerate(cluster.nodes):
            await Client.connect(node.url, f"user-{number}")
        await until(lambda: len(cluster.nodes[0].online_rows()) == 3)
        await asyncio.gather(*(asyncio.to_thread(node.stop) for node in cluster.nodes))
        assert cluster.nodes[0].online_rows() == set()
        told = [node.log().count("the store was told that nobody is online") for node in cluster.nodes]
        assert sorted(told) == [0, 0, 1]
        first = cluster.nodes[0]
        first.start()
        watcher = await Client.connect(first.url, "watcher")
        answer = await watcher.watch("user-0", "user-1", "user-2")
        assert {user["availability"] for user in answer["users"]} == {"online"}, "they may be on their way back"


async def test_redis_refuses_all_for_a_while_in_each_way_and_no_node_ends_and_nothing_is_lost(tmp_path: Path) -> None:
    redis = redis_server.shared("redis")
    async with proxied(redis.port) as proxy:
        word = ""

        async def refuse(_: int, command: Command) -> bytes | None:
            return refuses(word) if word and command[0] not in (b"HELLO", b"CLIENT", b"INFO") else None

        proxy.instead = refuse
        with running(tmp_path, 0, redis=redis) as cluster:
            node = cluster.make(1, cluster=proxy.url)
            cluster.nodes.append(node)
            await asyncio.to_thread(node.start)
            watcher = await Client.connect(node.url, "watcher")
            await watcher.watch(all=True)
            clients = {}
            for each in sorted({*NOT_NOW, *LEADS_ELSEWHERE, FULL}):
                word = ""
                await until(lambda: "degraded" not in http_get(f"{node.url}/readyz").json())
                clients[each] = await Client.connect(node.url, each)
                await watcher.until(lambda each=each: watcher.shows(each) == "online")
                word = each
                await clients[each].leave()
                await asyncio.sleep(0.6)
                assert node.is_running()
            word = ""
            await watcher.until(lambda: all(watcher.shows(each) == "offline" for each in clients), 10)
            assert (await watcher.call("presence:active"))["ok"]
            ready = await asyncio.to_thread(http_get, f"{node.url}/readyz")
            assert ready.status_code == 200, ready.text + node.log()
            assert "Traceback" not in node.log()


async def test_the_log_alone_is_black_holed_and_the_node_is_caught_up_soon(tmp_path: Path) -> None:
    """A connection that is dead, and nobody says so: the node beats, and commits, and hears of nothing."""
    async with proxied(redis_server.shared("redis").port) as proxy:
        with running(tmp_path, 1, redis=redis_server.shared("redis")) as cluster:
            deaf = cluster.make(2, cluster=proxy.url)
            await asyncio.to_thread(deaf.start)
            cluster.nodes.append(deaf)
            watcher = await Client.connect(deaf.url, "watcher")
            await watcher.watch(all=True)
            many, is_deaf = 0, asyncio.Event()

            async def swallow(older: int, command: Command) -> bytes | None:
                if command[0] == b"XREAD" and older < many:
                    is_deaf.set()
                    await asyncio.sleep(3600)
                return None

            proxy.instead = swallow
            for number in range(3):  # of a busy machine the tail itself may be faster, which waits for 4 s
                many = proxy.connections
                is_deaf.clear()
                await is_deaf.wait()  # the read that waits comes back with nothing; the next one is swallowed
                name = f"user-{number}"
                client = await Client.connect(cluster.nodes[0].url, name)
                began_s = time.monotonic()
                await watcher.until(lambda name=name: watcher.shows(name) == "online", 10)
                assert time.monotonic() - began_s < 3 + EXTRA_S
                await client.close()
                if has_noticed := "the log is read over a new connection" in deaf.log():
                    break
            assert has_noticed
            assert (await watcher.call("presence:idle"))["ok"]
