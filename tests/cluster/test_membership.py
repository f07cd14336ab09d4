"""How a node becomes one: what is agreed on in Redis, without the servers."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

import redis_server
from herenow.cluster.node import ClusterNode
from herenow.errors import SettingsInvalid
from herenow.registry.redis.clock import ClusterClock
from herenow.registry.redis.members import Member
from herenow.registry.redis.shard import Fenced, Shard
from herenow.registry.redis.tail import Tail
from herenow.supervision import tell_loop
from redis_proxy import Command, Proxy, proxied, runs


class Joining:
    """A node, as far as it takes part in the cluster."""

    def __init__(self, prefix: str, name: str, process: str, url: str | None = None) -> None:
        url = url or redis_server.shared("redis").url
        self.shard = Shard(url, prefix=prefix, node=name)
        self.tail = Tail(url, self.shard, tell_loop)
        member = Member(name, "here", os.getpid(), process, "", 0, "1", {})
        self.node = ClusterNode(self.shard, self.tail, ClusterClock(), member, lease_s=0.4, beat_s=0.1, is_named=True)

    async def close(self) -> None:
        """End."""
        await self.tail.close()
        await self.shard.close()


async def test_of_nodes_with_one_name_that_start_at_the_same_moment_one_lives_and_the_others_say_so() -> None:
    """As with a container that was scaled: each has looked for the name before any had it."""
    prefix = redis_server.fresh_prefix()
    nodes = [Joining(prefix, "n1", f"process-{number}") for number in range(4)]
    try:
        outcomes = await asyncio.gather(*(each.node.join() for each in nodes), return_exceptions=True)
        refused = [each for each in outcomes if each is not None]
        assert len(refused) == 3
        for error in refused:
            assert isinstance(error, SettingsInvalid)
            assert f"node_name n1 is another node's, which lives: process {os.getpid()} on here" in str(error)
        assert len(await nodes[0].node.members.all()) == 1
    finally:
        for each in nodes:
            await each.close()


async def test_a_name_is_free_once_its_node_is_dead() -> None:
    prefix = redis_server.fresh_prefix()
    dead, next_one = Joining(prefix, "n1", "process-1"), Joining(prefix, "n1", "process-2")
    try:
        await dead.node.join()
        await next_one.node.join()
        assert len(await next_one.node.members.all()) == 2, "nobody has given it up yet"
    finally:
        for each in (dead, next_one):
            await each.close()


@asynccontextmanager
async def losing_the_answer(script: str) -> AsyncIterator[Proxy]:
    """A way to Redis on which the first answer to a script is lost, once it has run."""
    redis = redis_server.shared("redis")
    async with proxied(redis.port) as proxy, Redis(port=redis.port) as direct:
        do: Callable[..., Awaitable[object]] = direct.execute_command
        has_lost = False

        async def do_and_lose(_: int, command: Command) -> None:
            nonlocal has_lost
            if runs(command, script) and not has_lost:
                with contextlib.suppress(NoScriptError):  # the first of this server: it is sent whole, and asked again
                    await do(*command)
                    has_lost = True
                    raise ConnectionResetError

        proxy.instead = do_and_lose
        yield proxy
        assert has_lost


async def test_a_node_is_no_rival_of_itself_where_the_first_answer_was_lost() -> None:
    async with losing_the_answer("register") as proxy:
        node = Joining(redis_server.fresh_prefix(), "n1", "process-1", proxy.url)
        try:
            await node.node.join()
            assert len(await node.node.members.all()) == 1
        finally:
            await node.close()


async def test_the_last_node_to_leave_knows_that_it_is_though_the_first_answer_was_lost() -> None:
    """Or nobody tells the store that nobody is online."""
    async with losing_the_answer("give_up") as proxy:
        prefix = redis_server.fresh_prefix()
        first, last = (Joining(prefix, name, name, proxy.url) for name in ("n1", "n2"))
        try:
            for each in (first, last):
                await each.node.join()
            assert await first.node.retire() == 1
            assert await last.node.retire() == 0
            assert await last.node.retire() == 0
        finally:
            for each in (first, last):
                await each.close()


async def test_a_node_that_redis_does_not_know_cannot_know_whether_others_live() -> None:
    """Redis has lost everything, and this node leaves before it or the others have registered anew."""
    prefix = redis_server.fresh_prefix()
    node = Joining(prefix, "n1", "process-1")
    try:
        await node.node.join()
        redis_server.shared("redis").call("DEL", node.shard.keys.nodes, node.shard.keys.beats)
        with pytest.raises(Fenced):
            await node.node.retire()
    finally:
        await node.close()
