"""What a node keeps of how users are shown is what Redis has, and spares Redis the same question a thousand times."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import redis_server
from contract.nodes import Cluster, Node
from contract.registries import GRACE_MS
from herenow.model import Availability, Cause, Claim, Claimed, Closing, StoredUser, UserPresence
from herenow.registry.base import Registry
from herenow.registry.redis import views
from herenow.registry.redis.reads import Reads
from support import until

USERS = tuple(f"user-{number}" for number in range(40))


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster(redis_server.shared("redis").url)
    yield cluster
    for node in cluster.nodes:
        await node.close()


async def walk(registry: Registry | Reads, size: int) -> list[UserPresence]:
    """Go through all who are online."""
    users: list[UserPresence] = []
    cursor = None
    while True:
        page = await registry.online(size, cursor)
        users += page.users
        if (cursor := page.cursor) is None:
            return users


def afresh(node: Node) -> Reads:
    """A reader that has kept nothing."""
    registry = node.redis

    def fail(what: str, error: BaseException) -> None:
        raise error

    return Reads(node.shard, "", lambda: registry._log, registry.now, fail)


def deed(dice: random.Random, registry: Registry, node: str, now_ms: int) -> asyncio.Future[Any]:
    """Do something to somebody."""
    user, connection = dice.choice(USERS), dice.choice("ab")
    row = StoredUser(user, True, dice.choice(list(Availability)), now_ms - dice.randrange(9000), None, 7)
    until_ms = dice.choice([None, now_ms + dice.randrange(9000)])
    deeds: list[Callable[[], asyncio.Future[Any]]] = [
        lambda: registry.connect(user, connection, node=node),
        lambda: registry.connect(user, connection, node=node),
        lambda: registry.disconnect(user, connection, dice.choice(list(Closing))),
        lambda: registry.active(user, connection),
        lambda: registry.claim(user, Claim(dice.choice([None, *Claimed]), None, until_ms)),
        lambda: registry.evict([user], disconnect=True, cause=Cause.STALE),
        lambda: registry.adopt([row], last_beat_ms=now_ms, grace_ms=5000),
        lambda: registry.repair([row]),
    ]
    return dice.choice(deeds)()


@pytest.mark.parametrize("most", [views.MOST, 10])
@pytest.mark.parametrize("seed", range(6))
async def test_what_a_node_keeps_is_what_redis_has(
    cluster: Cluster, seed: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "MOST", most)
    dice = random.Random(seed)
    first, second = await cluster.node(), await cluster.node()

    async def ask() -> None:
        while True:  # while it changes
            await walk(second.registry, dice.randrange(1, 9))
            await second.registry.get(dice.sample(USERS, 5))
            await asyncio.sleep(0.002)

    asking = asyncio.create_task(ask())
    for step in range(240):
        node = dice.choice([first, second])
        done = deed(dice, node.registry, node.name, cluster.clock.unix_ms)
        if dice.random() < 0.3:
            await done
        if dice.random() < 0.2:
            await cluster.advance(dice.choice([1, 100, GRACE_MS]))
        if step % 40 == 39:
            await cluster.settle()
            assert await walk(second.registry, 7) == await walk(afresh(second), 1000), step
            assert await second.registry.get(USERS) == await afresh(second).get(USERS), step
    asking.cancel()


async def test_a_crowd_that_wants_to_see_everybody_has_each_page_read_once(cluster: Cluster) -> None:
    """A thousand clients come back at once, and each watches all of 10,000: at most 20 pages are read."""
    first, second = await cluster.node(), await cluster.node()
    everybody = [f"user-{number}" for number in range(10_000)]
    await asyncio.gather(*(first.registry.connect(user, "c", node="n1") for user in everybody))
    pages, page = 0, second.shard.page

    async def count(tenant: str, limit: int, after: tuple[int, str] | None) -> dict[str, bytes]:
        nonlocal pages
        pages += 1
        return await page(tenant, limit, after)

    second.shard.page = count  # type: ignore[method-assign]
    seen = await asyncio.gather(*(walk(second.registry, 1000) for _ in range(100)))
    assert {len(each) for each in seen} == {10_000}
    assert 10 <= pages <= 20
    await first.registry.disconnect("user-7", "c", Closing.LEFT)
    await cluster.settle()
    assert len(await walk(second.registry, 1000)) == 9_999
    assert pages <= 20


async def test_a_page_from_behind_what_is_kept_is_read(cluster: Cluster) -> None:
    node = await cluster.node()
    for number in range(9):
        await node.registry.connect(f"user-{number}", "c", node="n1")
        await cluster.advance(10)
    first = await node.registry.online(2)
    second = await node.registry.online(2, first.cursor)
    node.redis.forget_views()
    third = await node.registry.online(2, second.cursor)
    assert [user.user_id for page in (first, second, third) for user in page.users] == [
        "user-8", "user-7", "user-6", "user-5", "user-4", "user-3",
    ]  # fmt: skip


async def test_nothing_is_kept_over_a_gap_in_the_log(cluster: Cluster) -> None:
    first, second = await cluster.node(), await cluster.node()
    await first.registry.connect("alice", "c", node="n1")
    assert [user.user_id for user in await walk(second.registry, 5)] == ["alice"]
    await cluster.settle()  # it has heard of her, and so knows what comes next
    await second.tail.close()  # deaf, and the log goes on without it
    await first.registry.disconnect("alice", "c", Closing.LEFT)
    await first.shard.redis.xtrim(first.shard.keys.log, maxlen=0, approximate=False)
    await first.registry.connect("bob", "c", node="n1")
    second.tail._task = None
    second.tail._redis = second.shard.connect(cluster.url, timeout_s=4)
    second.tail._start = second.tail.position
    await second.tail.begin()
    await until(lambda: second.tail.position > second.tail._start)  # type: ignore[operator]
    assert [user.user_id for user in await walk(second.registry, 5)] == ["bob"]


async def test_nothing_is_kept_over_an_entry_that_cannot_be_read(cluster: Cluster) -> None:
    """Of a newer herenow, or damaged: it may tell of somebody who is kept."""
    node = await cluster.node()
    registry, keys = node.redis, node.shard.keys
    newer: dict[Any, Any] = {"schema": "2", "tenant": "", "place": "1"}
    damaged: dict[Any, Any] = {"schema": "1", "0:0": "?"}
    for number, entry in enumerate((newer, damaged)):
        user = f"user-{number}"
        await registry.connect(user, "c", node="n1")
        assert user in {each.user_id for each in await walk(registry, 5)}
        state = await node.shard.read("", [user])
        await node.shard.redis.hdel(keys.users(""), user)
        await node.shard.redis.zrem(keys.order(""), user)
        assert state[user] is not None and user in {each.user_id for each in await walk(registry, 5)}
        await node.shard.redis.xadd(keys.log, entry)
        await node.tail.reached(await node.shard.last_entry())
        assert user not in {each.user_id for each in await walk(registry, 5)}
