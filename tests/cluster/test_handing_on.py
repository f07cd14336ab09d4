"""A node that stops hands its users on some at a time, and nobody sees anybody go."""

import asyncio
import time
from pathlib import Path

from clients import Client
from cluster.cluster import running
from herenow.gateway.handing_on import AT_ONCE, EVERY_S, parts
from support import until

USERS = 4 * AT_ONCE
OFFLINE_WITHIN_S = 2.0


async def test_the_users_of_a_node_that_stops_are_handed_on_some_at_a_time(tmp_path: Path) -> None:
    """CLUSTER.md 7.8: each linger begins at its own end, and reconnects a second are bounded."""
    with running(tmp_path, 2, max_connections_per_user=1000) as cluster:
        first, second = cluster.nodes
        watcher = await Client.connect(second.url, "watcher")
        await watcher.watch(all=True)
        clients = [await Client.connect(first.url, f"user-{number}") for number in range(USERS)]
        other_tab = await Client.connect(second.url, "user-1")
        await watcher.until(lambda: len(watcher.view) == USERS + 1)
        told = len(watcher.diffs)
        stopping = asyncio.create_task(asyncio.to_thread(first.stop))
        ended_s: list[float] = []

        async def come_back(client: Client) -> Client:
            await client.closed.wait()
            ended_s.append(time.monotonic())
            assert [error["code"] for error in client.errors] == ["shutting_down"]
            if client is clients[0] or client is clients[-1]:  # later than one whose connection was only lost might
                await asyncio.sleep(OFFLINE_WITHIN_S + 1)
            return await Client.connect(second.url, client.ready["userId"])

        clients = await asyncio.gather(*map(come_back, clients))
        assert ended_s[-1] - ended_s[0] > EVERY_S * (USERS / AT_ONCE - 1.5)
        assert await stopping < 5
        await watcher.settle()
        assert watcher.diffs[told:] == []
        assert second.online() == {"watcher", *(f"user-{number}" for number in range(USERS))}
        await until(lambda: len(second.online_rows()) == USERS + 1)
        assert "Traceback" not in first.log()
        for client in (watcher, other_tab, *clients):
            await client.close()


async def test_the_last_node_has_nobody_to_hand_its_users_on_to(tmp_path: Path) -> None:
    with running(tmp_path, 1) as cluster:
        (node,) = cluster.nodes
        alice = await Client.connect(node.url, "alice")
        assert node.stop() < 5
        await alice.closed.wait()
        assert node.online_rows() == set()


def test_users_are_divided_so_that_there_is_the_time() -> None:
    assert [len(part) for part in parts(range(10), 2.0)] == [10]
    assert [len(part) for part in parts(range(120), 2.0)] == [AT_ONCE, AT_ONCE, 20]
    many = [len(part) for part in parts(range(10_000), 2.0)]
    assert sum(many) == 10_000 and len(many) <= 2.0 / EVERY_S
    assert [len(part) for part in parts(range(300), 0.0)] == [300]
    assert list(parts([], 2.0)) == []
