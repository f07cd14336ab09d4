"""Redis gives way to another one, whose clock differs: time goes on evenly, and nobody is seen to go."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import Client, Refused
from cluster.cluster import LEASE_S, RESTART_GRACE_S, Cluster, Node, running
from cluster.succession import Succession
from support import http_get, until

EXTRA_S = 4.0
"""What a busy test machine may add to a bound."""

OFFLINE_WITHIN_S = 2.0

AGREED_WITHIN_S = 2.0
"""After Redis is back, all nodes have said again what they serve."""


@pytest.fixture
def succession() -> Iterator[Succession]:
    succession = Succession()
    yield succession
    succession.close()


async def test_redis_gives_way_three_times_between_clocks_that_differ_and_nobody_is_seen_to_go(
    tmp_path: Path, succession: Succession
) -> None:
    """C5 and C7: two failovers that lose the last seconds, and between them a planned one: the old master lives on."""
    with running(tmp_path, 2, redis=succession.master) as cluster:
        first, second = cluster.nodes
        watcher = await Client.connect(second.url, "watcher")
        await watcher.watch(all=True)
        clients = {"watcher": watcher}
        for number in range(6):
            name = f"user-{number}"
            clients[name] = await Client.connect(cluster.nodes[number % 2].url, name)
        for turn, clock_s in enumerate((-600, 600, 0)):
            late, gone, idle = f"late-{turn}", f"user-{turn}", f"user-{turn + 3}"
            await succession.follow(clock_s=clock_s)
            if turn != 1:
                succession.lose()
            clients[late] = await Client.connect(cluster.nodes[turn % 2].url, late)
            await clients.pop(gone).leave()
            await clients[idle].call("presence:idle")
            if turn == 2:
                await clients["user-4"].call("presence:active")
                await watcher.until(lambda: watcher.shows("user-4") == "online")
            await watcher.until(lambda late=late: watcher.shows(late) == "online")
            await watcher.until(lambda gone=gone: watcher.shows(gone) == "offline")
            count = len(watcher.diffs)
            await (succession.hand_over() if turn == 1 else succession.fail_over())
            clients[gone] = await _connect_soon(cluster.nodes[turn % 2].url, gone)  # Redis never heard that they went
            await until(lambda: _connections(cluster) == [len(clients)] * 2, AGREED_WITHIN_S + EXTRA_S)
            await _see_that_time_goes_on(cluster, watcher, f"quick-{turn}")
            await until(lambda: first.online() == second.online() == first.online_rows() == set(clients))
            assert {name for name, user in watcher.view.items() if user["isOnline"]} == set(clients)
            assert watcher.shows(idle) == "away"
            told = [change for diff in watcher.diffs[count:] for change in diff["changes"]]
            assert {each["userId"] for each in told if not each["isOnline"]} == {f"quick-{turn}"}
            assert watcher.shows(gone) == "online"
        assert [watcher.shows(f"user-{number}") for number in (3, 4, 5)] == ["away", "online", "away"]
        for client in clients.values():
            assert not client.closed.is_set()
            await client.leave()
        await until(lambda: first.online_rows() == set())
        for node in cluster.nodes:
            assert node.log().count('"joined"') == 1
            assert "Traceback" not in node.log()


async def _connect_soon(url: str, user: str) -> Client:
    """Connect as a client does that is told to come again."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await Client.connect(url, user)
            except Refused:
                await asyncio.sleep(0.05)


def _connections(cluster: Cluster) -> list[int]:
    return [node.stats().get("connections", -1) for node in cluster.nodes]


async def _see_that_time_goes_on(cluster: Cluster, watcher: Client, name: str) -> None:
    client = await _connect_soon(cluster.nodes[0].url, name)  # which may be told to come again until the next beat
    await watcher.until(lambda: watcher.shows(name) == "online")
    closed_s = time.monotonic()
    await client.close()
    await watcher.until(lambda: watcher.shows(name) == "offline", OFFLINE_WITHIN_S + EXTRA_S)
    assert time.monotonic() - closed_s > OFFLINE_WITHIN_S / 2


async def test_the_leader_and_the_master_die_together_and_no_linger_ends_early_by_another_clock(
    tmp_path: Path, succession: Succession
) -> None:
    """C2, C3 and C7: the clock of the next one is ten minutes ahead, and nobody is left who has led."""
    with running(tmp_path, 3, redis=succession.master) as cluster:
        first, second, third = cluster.nodes
        watcher = await Client.connect(second.url, "watcher")
        await watcher.watch("moved", "lost", "ghost")
        await Client.connect(third.url, "moved")
        await Client.connect(first.url, "lost")
        await Client.connect(first.url, "ghost")
        await watcher.until(lambda: len(watcher.view) == 3)
        await succession.follow(clock_s=600)
        await asyncio.to_thread(third.stop)
        first.kill()
        await succession.fail_over()
        killed_s = time.monotonic()
        await asyncio.sleep(RESTART_GRACE_S / 2)
        back = [await Client.connect(second.url, name) for name in ("moved", "lost")]
        await watcher.until(lambda: watcher.shows("ghost") == "offline", LEASE_S + RESTART_GRACE_S + EXTRA_S)
        assert time.monotonic() - killed_s > RESTART_GRACE_S - 1
        assert watcher.causes("moved") == watcher.causes("lost") == ["connect"]
        await until(lambda: second.online_rows() == {"moved", "lost", "watcher"}, 5)
        for client in (*back, watcher):
            await client.leave()


async def test_a_leader_that_stood_still_writes_nothing_more_though_redis_forgot_who_was_elected(
    tmp_path: Path, succession: Succession
) -> None:
    """C4 and C6: the failover loses the election, so that Redis has the name of the one that stands still."""
    with running(tmp_path, 3, redis=succession.master) as cluster:
        first, second, third = cluster.nodes
        watcher = await Client.connect(third.url, "watcher")
        await watcher.watch("alice", "bob", "carol")
        alice, bob = await Client.connect(second.url, "alice"), await Client.connect(first.url, "bob")
        await watcher.until(lambda: watcher.shows("alice") == watcher.shows("bob") == "online")
        await until(lambda: second.online_rows() == {"alice", "bob", "watcher"})
        assert _has_led(cluster) == [1, 0, 0]
        await succession.follow()
        succession.lose()
        first.pause()
        await until(lambda: sum(_has_led(cluster)) == 2, LEASE_S + EXTRA_S)
        await alice.leave()
        carol = await Client.connect(second.url, "carol")
        await until(lambda: second.online_rows() == {"bob", "carol", "watcher"}, 5)
        await succession.fail_over()
        there = {"bob", "carol", "watcher"}
        await until(lambda: _sees(second) == _sees(third) == second.online_rows() == there, 10)
        first.resume()
        await until(lambda: _sees(first) == _sees(second) == there, 10)
        await asyncio.sleep(1)
        assert second.online_rows() == there
        assert watcher.causes("bob") == ["connect"]
        await carol.leave()
        await bob.leave()
        await until(lambda: second.online_rows() == {"watcher"}, 5)
        leaders = [
            server["cluster"]["isLeader"] for server in http_get(f"{third.url}/v1/admin/status").json()["servers"]
        ]
        assert leaders.count(True) == 1


def _sees(node: Node) -> set[str] | None:
    """Whom a node says are online, where it can."""
    try:
        return node.online()
    except KeyError:
        return None


def _has_led(cluster: Cluster) -> list[int]:
    return [node.log().count("this node leads now") for node in cluster.nodes]
