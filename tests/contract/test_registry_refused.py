"""What Redis refuses, and what it stops in the middle of: nothing that was asked is lost, and nothing is done twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import pytest

import redis_server
from contract.nodes import Cluster, Node
from contract.registries import GRACE_MS
from herenow.model import Availability, Cause, Claim, Claimed, Closing, StoredUser
from herenow.registry.base import Registry
from herenow.registry.redis.refusals import LEADS_ELSEWHERE, NOT_NOW
from herenow.registry.redis.shard import Full
from redis_proxy import Command, Proxy, proxied, refuses, runs

LEFT = Closing.LEFT


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with proxied(redis_server.shared("redis").port) as proxy:
        yield proxy


@pytest.mark.parametrize("word", sorted(NOT_NOW))
async def test_what_redis_refuses_for_a_while_is_asked_again_and_nothing_is_lost(proxy: Proxy, word: str) -> None:
    async def refuse(_: int, command: Command) -> bytes | None:
        return None if command[0] in (b"HELLO", b"CLIENT", b"INFO") else refuses(word)

    cluster = Cluster(proxy.url)
    node = await cluster.node()
    proxy.instead = refuse
    asked = [asyncio.ensure_future(each) for each in _some_of_each(node)]
    await asyncio.sleep(0.3)
    assert not any(each.done() for each in asked)
    proxy.instead = _pass
    await _see_that_all_was_done(cluster, node, asked)


@pytest.mark.parametrize("word", sorted(LEADS_ELSEWHERE))
async def test_a_connection_that_leads_to_no_master_any_more_is_left_with_all_that_are_as_old(
    proxy: Proxy, word: str
) -> None:
    """A planned failover behind an address that stays: the old master lives on, and refuses for ever."""
    cluster = Cluster(proxy.url)
    node = await cluster.node()
    many = proxy.connections

    async def refuse(older: int, command: Command) -> bytes | None:
        return refuses(word) if older < many else None

    proxy.instead = refuse
    asked = [asyncio.ensure_future(each) for each in _some_of_each(node)]
    await _see_that_all_was_done(cluster, node, asked)


async def _pass(_: int, __: Command) -> None:
    """Redis answers."""


def _some_of_each(node: Node) -> list[Awaitable[Any]]:
    registry = node.registry
    return [
        *(registry.connect(user, "c", node="n1") for user in ("alice", "bob", "carol", "dave")),
        registry.idle("alice", "c"),
        registry.claim("bob", Claim(Claimed.BUSY)),
        registry.disconnect("carol", "c", LEFT),
        registry.evict(["dave"], disconnect=True),
        registry.online(9),
    ]


async def _see_that_all_was_done(cluster: Cluster, node: Node, asked: Sequence[asyncio.Future[Any]]) -> None:
    try:
        async with asyncio.timeout(10):
            *_, evicted, page = await asyncio.gather(*asked)
        await cluster.settle()
        assert len(evicted) == 1
        assert {user.user_id: user.availability for user in page.users} == {
            "alice": Availability.AWAY,
            "bob": Availability.BUSY,
        }
        assert (await node.registry.stats()).connections == 2
        causes = [(change.user_id, change.cause) for change in node.changes if change.cause is not Cause.CONNECT]
        assert sorted(causes) == [
            ("alice", Cause.IDLE), ("bob", Cause.CLAIM), ("carol", Cause.LEFT), ("dave", Cause.CLEANUP)
        ]  # fmt: skip
    finally:
        await node.close()


@pytest.mark.parametrize("kind", redis_server.KINDS)
async def test_who_goes_is_taken_while_the_memory_is_full_though_others_come_at_the_same_moment(kind: str) -> None:
    """They travel as one commit, which Redis refuses as a whole."""
    server = redis_server.RedisServer(kind)
    server.start()
    cluster = Cluster(server.url)
    node = await cluster.node()
    try:
        for user in ("alice", "bob"):
            await node.registry.connect(user, "c", node="n1")
        server.call("CONFIG", "SET", "maxmemory", "1")
        asked = [
            node.registry.connect("carol", "c", node="n1"),
            node.registry.disconnect("alice", "c", LEFT),
            node.registry.idle("bob", "c"),
        ]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in outcomes] == [Full, type(None), type(None)]
        assert {user.user_id: user.availability for user in (await node.registry.online(9)).users} == {
            "bob": Availability.AWAY
        }
        server.call("CONFIG", "SET", "maxmemory", "0")
        await node.registry.connect("carol", "c", node="n1")
    finally:
        await node.close()
        server.close()


def _row(user: str) -> StoredUser:
    return StoredUser(user, True, Availability.ONLINE, 5, None, 7)


def _both(cause: Cause) -> list[tuple[str, Cause]]:
    return [("alice", cause), ("idle", cause)]


class Deed(NamedTuple):
    """One kind of command, on a registry where alice is, and another one who is idle.

    ``changes`` are those that it makes, ``connections`` and ``evicted`` how many there are afterwards.
    """

    do: Callable[[Registry], Awaitable[Any]]
    changes: list[tuple[str, Cause]]
    connections: int
    evicted: int


DEEDS: dict[str, Deed] = {
    "connect": Deed(lambda registry: registry.connect("bob", "c", node="n1"), [("bob", Cause.CONNECT)], 3, 0),
    "disconnect": Deed(lambda registry: registry.disconnect("alice", "c", LEFT), [("alice", Cause.LEFT)], 1, 0),
    "idle": Deed(lambda registry: registry.idle("alice", "c"), [("alice", Cause.IDLE)], 2, 0),
    "active": Deed(lambda registry: registry.active("idle", "c"), [("idle", Cause.ACTIVE)], 2, 0),
    "claim": Deed(lambda registry: registry.claim("alice", Claim(Claimed.BUSY)), [("alice", Cause.CLAIM)], 2, 0),
    "evict": Deed(lambda registry: registry.evict(["alice"], disconnect=True), [("alice", Cause.CLEANUP)], 1, 1),
    "evict all": Deed(lambda registry: registry.evict(None, disconnect=True), _both(Cause.CLEANUP), 0, 2),
    "leave": Deed(lambda registry: registry.leave("n1"), _both(Cause.RESTART), 0, 2),
    "node lost": Deed(lambda registry: registry.node_lost("n1", last_beat_ms=1), [], 0, 0),
    "adopt": Deed(lambda registry: registry.adopt([_row("zoë")], last_beat_ms=1, grace_ms=GRACE_MS), [], 2, 0),
    "repair": Deed(lambda registry: registry.repair([_row("nobody")]), [("nobody", Cause.REPAIR)], 2, 0),
}


async def test_redis_stops_in_the_middle_of_each_kind_of_commit_and_each_is_done_once(
    own_server: redis_server.RedisServer,
) -> None:
    """It stands still for longer than an answer may take: each commit is sent again, and both reach it in the end."""
    async with proxied(own_server.port) as proxy:
        nodes: dict[str, Node] = {}
        for name in DEEDS:
            nodes[name] = await Cluster(proxy.url).node()
            await asyncio.gather(*(nodes[name].registry.connect(user, "c", node="n1") for user in ("alice", "idle")))
            await nodes[name].registry.idle("idle", "c")
        counts = {name: len(node.changes) for name, node in nodes.items()}
        sent: Counter[bytes] = Counter()
        all_held = asyncio.Event()

        async def hold(_: int, command: Command) -> None:
            if runs(command, "commit"):
                sent[command[3]] += 1  # the first key: each has a prefix of its own
                if len(sent) == len(DEEDS) and not all_held.is_set():
                    own_server.pause()
                    all_held.set()
                await all_held.wait()

        proxy.instead = hold
        asked = {name: asyncio.ensure_future(deed.do(nodes[name].registry)) for name, deed in DEEDS.items()}
        await asyncio.wait_for(all_held.wait(), 5)
        await asyncio.sleep(2.5)
        assert not any(each.done() for each in asked.values())
        own_server.resume()
        done = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
        assert min(sent.values()) >= 2
        for name, deed in DEEDS.items():
            node = nodes[name]
            await node.redis.settle()
            await node.tail.reached(await node.shard.last_entry())
            told = node.changes[counts[name] :]
            assert sorted((change.user_id, change.cause) for change in told) == deed.changes, name
            assert (await node.registry.stats()).connections == deed.connections, name
            assert len([each for batch in node.batches for each in batch.evicted]) == deed.evicted, name
            if name.startswith("evict"):
                assert len(done[name]) == deed.evicted
            await node.close()
