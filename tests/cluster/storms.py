"""``python -m cluster.storms``: a thousand clients over three nodes, MongoDB behind, and one fault after the other.

Who is connected is known beside the servers (``e2e/storm.py``); a watcher on the third node, which nobody harms, and
the database are held against it. What a fault may do to whom (docs/cluster.md) is in the bound: while one lasts, and
until the graces that it began are over, whoever has gone may be shown for that long; whoever is there must be.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import mongod
from cluster.cluster import LEASE_S, RESTART_GRACE_S, Cluster, Node, running
from cluster.succession import Succession
from e2e.storm import SLACK_S, Observer, Storm, faults

OFFLINE_WITHIN_S = 2.0
AFTER_A_FAULT_S = LEASE_S + RESTART_GRACE_S + 2.0
AGREES_WITHIN_S = 20.0


class ClusterStorm(Storm):
    """A storm over all nodes: each connect is to any of them."""

    def __init__(self, urls: list[str], *, users: int, seed: int) -> None:
        self._urls = urls
        self.disturbed_until_s = 0.0
        super().__init__("", users=users, seed=seed, offline_within_s=0)

    @property
    def url(self) -> str:
        return self.random.choice(self._urls)

    @url.setter
    def url(self, _: str) -> None:
        """Whatever it is given, it is any of them."""

    @property
    def offline_within_s(self) -> float:
        return OFFLINE_WITHIN_S if time.monotonic() > self.disturbed_until_s else AFTER_A_FAULT_S

    @offline_within_s.setter
    def offline_within_s(self, _: float) -> None:
        """It depends on when."""


@dataclass
class Seen:
    """What one fault came to.

    Attributes:
        name: of the fault.
        checks: how often the watcher was held against the truth.
        wrong: what it showed wrongly, and the database still did at the end.
        agreed_s: how long after the fault the database told the truth.
    """

    name: str
    checks: int = 0
    wrong: list[str] = field(default_factory=list)
    agreed_s: float = 0.0


@contextlib.asynccontextmanager
async def killed_node(cluster: Cluster, seconds: float) -> AsyncIterator[None]:
    """``kill -9`` of the node that keeps the database."""
    node = _leader(cluster)
    node.kill()
    yield
    await asyncio.to_thread(node.start)


@contextlib.asynccontextmanager
async def renewed_nodes(cluster: Cluster, seconds: float) -> AsyncIterator[None]:
    """Two nodes, one after the other, as a deployment does."""
    for node in cluster.nodes[:2]:
        await asyncio.to_thread(node.stop, 10)
        await asyncio.to_thread(node.start)
    yield


@contextlib.asynccontextmanager
async def paused_node(cluster: Cluster, seconds: float) -> AsyncIterator[None]:
    """``SIGSTOP`` for longer than the lease, and ``SIGCONT``."""
    node = _leader(cluster)
    node.pause()
    yield
    node.resume()


@contextlib.asynccontextmanager
async def emptied_redis(cluster: Cluster, seconds: float) -> AsyncIterator[None]:
    """FLUSHALL."""
    cluster.redis.call("FLUSHALL")
    yield


@contextlib.asynccontextmanager
async def restarted_redis(cluster: Cluster, seconds: float) -> AsyncIterator[None]:
    """Redis killed, and started again without its data."""
    cluster.redis.kill()
    yield
    await asyncio.to_thread(cluster.redis.start)


@contextlib.asynccontextmanager
async def paused_redis(cluster: Cluster, seconds: float) -> AsyncIterator[None]:
    """``CLIENT PAUSE``: it answers nobody for a while."""
    cluster.redis.call("CLIENT", "PAUSE", str(round(seconds * 1000)))
    yield


@contextlib.asynccontextmanager
async def failed_over_redis(cluster: Cluster, seconds: float) -> AsyncIterator[None]:
    """Redis killed, and another one in its place: it knows nothing of the last seconds, and is ten minutes behind."""
    assert cluster.succession is not None
    await cluster.succession.follow(clock_s=-600)
    cluster.succession.lose()
    yield
    await cluster.succession.fail_over()
    cluster.redis = cluster.succession.master


@contextlib.asynccontextmanager
async def handed_over_redis(cluster: Cluster, seconds: float) -> AsyncIterator[None]:
    """Another Redis in the place of the one before, which lives on; the new one is ten minutes ahead."""
    assert cluster.succession is not None
    await cluster.succession.follow(clock_s=600)
    yield
    await cluster.succession.hand_over()
    cluster.redis = cluster.succession.master


Play = Callable[[Cluster, float], contextlib.AbstractAsyncContextManager[None]]
FAULTS: dict[str, Play] = {
    "the node that leads is killed": killed_node,
    "nodes are renewed one after the other": renewed_nodes,
    "the node that leads stands still": paused_node,
    "Redis is emptied": emptied_redis,
    "Redis is killed and comes back empty": restarted_redis,
    "Redis answers nobody": paused_redis,
    "Redis fails over and loses its last seconds": failed_over_redis,
    "Redis hands over to another one": handed_over_redis,
}


def _leader(cluster: Cluster) -> Node:
    """The first of the nodes that may be harmed which leads; else the first."""
    for node in cluster.nodes[:2]:
        if node.log().count("this node leads now") > node.log().count("this node leads no more"):
            return node
    return cluster.nodes[0]


async def storm(
    directory: Path, *, users: int, seconds: float, seed: int, names: list[str] | None = None
) -> list[Seen]:
    """Let clients come and go, and the cluster have one fault after the other, each for so many seconds."""
    succession = Succession()
    seen: list[Seen] = []
    try:
        with (
            mongod.running() as database,
            running(
                directory, 3, redis=succession.master, database=database.url(mongod.fresh_database()), create_users=True
            ) as cluster,
        ):
            cluster.succession = succession
            players = ClusterStorm([node.url for node in cluster.nodes], users=users, seed=seed)
            observer = Observer(cluster.nodes[2].url, "observer")
            await observer.connect()
            playing = asyncio.create_task(players.run(3600))
            await asyncio.sleep(4)
            played = [_play(cluster, players, observer, name, seconds) for name in names or FAULTS]
            seen = [await each for each in played]
            players.end()
            await playing
            await asyncio.sleep(OFFLINE_WITHIN_S + SLACK_S + 1)
            stored = await asyncio.to_thread(cluster.nodes[2].online_rows)
            views = [{name for name in node.online() if name.startswith("user-")} for node in cluster.nodes]
            for what, view in (("the database", stored - {"observer"}), ("node 1", views[0]), ("node 2", views[1])):
                seen[-1].wrong += [f"at the end, {what} is wrong about {name}" for name in view ^ observer.online()]
            seen[-1].wrong += faults(players, observer.online(), "at the end, the watcher")
            await players.stop()
    finally:
        succession.close()
    return seen


async def _play(cluster: Cluster, players: ClusterStorm, observer: Observer, name: str, seconds: float) -> Seen:
    seen = Seen(name)
    players.disturbed_until_s = float("inf")
    async with FAULTS[name](cluster, seconds):
        await _watch(players, observer, seen, seconds)
    players.disturbed_until_s = time.monotonic() + AFTER_A_FAULT_S
    await _watch(players, observer, seen, AFTER_A_FAULT_S + 1)
    began_s = time.monotonic()
    while True:
        wrong = faults(players, await asyncio.to_thread(cluster.nodes[2].online_rows), f"{name}: the database")
        seen.agreed_s = time.monotonic() - began_s
        if not wrong or seen.agreed_s > AGREES_WITHIN_S:
            seen.wrong += wrong
            return seen
        await asyncio.sleep(0.1)


async def _watch(players: ClusterStorm, observer: Observer, seen: Seen, seconds: float) -> None:
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        await asyncio.sleep(0.25)
        seen.wrong += [f"{seen.name}: {each}" for each in faults(players, observer.online(), "the watcher")]
        seen.checks += 1


async def main() -> int:
    """Run one storm after the other; say what each came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1)
    given = parser.parse_args()
    wrong = 0
    for seed in range(given.first, given.first + given.seeds):
        with tempfile.TemporaryDirectory(prefix="herenow-storm-") as directory:
            for seen in await storm(Path(directory), users=given.users, seconds=given.seconds, seed=seed):
                wrong += len(seen.wrong)
                line = f"seed {seed}: {seen.name}: {seen.checks} checks, {len(seen.wrong)} wrong"
                sys.stdout.write(f"{line}, the database agrees after {seen.agreed_s:.1f} s\n")
                sys.stdout.writelines(f"  {each}\n" for each in seen.wrong[:5])
                sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
