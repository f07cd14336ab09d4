"""Nodes on a Redis Cluster: each shard is in one slot, which may be failed over, or moved to another primary."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest

from clients import Client
from cluster.cluster import BEAT_S, LEASE_S, RESTART_GRACE_S, Cluster, running
from cluster.slots import Slots, slots
from herenow.cluster.membership import shard_of
from herenow.tenancy import key_of
from support import http_get, until

SECRET = "a secret of thirty-two characters, or more"


def token(user: str, tenant: str) -> str:
    return jwt.encode({"sub": user, "tenant": tenant}, SECRET)


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


async def test_tenants_are_divided_among_the_shards_and_all_of_it_is_one_cluster(
    redis_cluster: Slots, tmp_path: Path
) -> None:
    """Of tenants on all primaries one node serves the users, and another the watchers; then the first is killed."""
    tenants = [f"tenant-{number}" for number in range(8)]
    with running(tmp_path, 0, url=redis_cluster.primaries[0].url) as cluster:
        node = cluster.make(1)
        with pytest.raises(AssertionError):
            await asyncio.to_thread(node.start)
        assert "let it begin with redis+cluster://" in node.log(), "a plain address leads to some of the keys only"
    with running(tmp_path, 2, url=redis_cluster.url, shards=4, jwt_secret=SECRET, flags=()) as cluster:
        assert len({shard_of(tenant, 4) for tenant in tenants}) == 4
        first, second = cluster.nodes
        watchers = {each: await Client.connect(second.url, token=token("watcher", each)) for each in tenants}
        for watcher in watchers.values():
            await watcher.watch(all=True)
        for tenant, watcher in watchers.items():
            await Client.connect(first.url, token=token("alice", tenant))
            await Client.connect(first.url, token=token(f"ghost-of-{tenant}", tenant))
            await watcher.until(lambda w=watcher, t=tenant: w.shows("alice") == w.shows(f"ghost-of-{t}") == "online")
            assert set(watcher.view) <= {"watcher", "alice", f"ghost-of-{tenant}"}
        first.kill()
        back = {each: await Client.connect(second.url, token=token("alice", each)) for each in tenants}
        for tenant, watcher in watchers.items():
            ghost = f"ghost-of-{tenant}"
            await watcher.until(
                lambda w=watcher, g=ghost: w.shows(g) == "offline", LEASE_S + RESTART_GRACE_S + 4 * BEAT_S + 4
            )
            assert watcher.causes("alice") == ["connect"]
        there = {key_of(tenant, user) for tenant in tenants for user in ("watcher", "alice")}
        await until(lambda: second.online_rows() == there, 10)
        assert second.stop() < 5
        await until(lambda: second.online_rows() == set(), 5)
        for client in (*watchers.values(), *back.values()):
            await client.close()
