"""Nodes on a Redis Cluster: each shard is in one slot, which may be failed over, or moved to another primary."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clients import Client
from cluster.cluster import Cluster, running
from cluster.slots import Slots, slots
from support import http_get, until


@pytest.fixture
async def redis_cluster() -> AsyncIterator[Slots]:
    async with slots() as found:
        yield found


async def test_the_owner_of_the_keys_dies_or_changes_and_nobody_sees_it(redis_cluster: Slots, tmp_path: Path) -> None:
    with running(tmp_path, 2, url=redis_cluster.url) as cluster:
        first, second = cluster.nodes
        watcher = await Client.connect(second.url, "watcher")
        names = [f"user-{number}" for number in range(20)]
        await watcher.watch(*names)
        users = await asyncio.gather(*(Client.connect(first.url, name) for name in names))
        await watcher.until(lambda: all(watcher.shows(name) == "online" for name in names))
        told, key = len(watcher.diffs), log_of(cluster)
        redis_cluster.owner(key).kill()
        await watcher.until(lambda: "registry_back" in [error["code"] for error in watcher.errors], 30)
        await users[0].leave()  # all goes on
        await watcher.until(lambda: watcher.shows(names[0]) == "offline")
        before = redis_cluster.owner(key)
        assert await asyncio.to_thread(redis_cluster.move, key) is not before
        await until(lambda: http_get(f"{first.url}/v1/stats").json().get("online") == 20, 10)
        await users[1].leave()
        await watcher.until(lambda: watcher.shows(names[1]) == "offline")
        causes = [change["cause"] for diff in watcher.diffs[told:] for change in diff["changes"]]
        assert causes == ["left", "left"]
        assert second.online() == {"watcher", *names[2:]}
        await until(lambda: first.online_rows() == {"watcher", *names[2:]}, 10)
        for client in (watcher, *users[2:]):
            await client.close()


def log_of(cluster: Cluster) -> str:
    """One of the keys."""
    return f"{{{cluster.prefix}:0}}:log"
