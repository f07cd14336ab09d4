"""Runs the scenes of ``herenow test --cluster``, on the same two nodes: those at once that leave each other alone."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator

from herenow.cli.proving import end_on_sigterm, showing
from herenow.cli.scenes import Scenes
from herenow.cli.scratch import ScratchServer
from herenow.cli.scratch_cluster import Facts, ScratchCluster, comes_true
from herenow.cli.verdicts import Result, told
from herenow.settings import Settings

LEADS_WITHIN_S = 60.0
"""How long another node may take to keep the store, before the scenes go on all the same."""


async def prove_cluster(scratch: ScratchCluster) -> list[Result]:
    """Play all scenes; return what became of each promise.

    Raises:
        CouldNotLook: Redis cannot be reached, or a node does not start.
        SettingsInvalid: Redis is not fit for a cluster.
    """
    end_on_sigterm()
    settings, results = scratch.settings, list[Result]()
    began_s, now_doing = time.monotonic(), list[str]()

    @contextlib.contextmanager
    def doing(what: str) -> Iterator[None]:
        now_doing.append(what)
        try:
            yield
        finally:
            now_doing.remove(what)

    def how_far() -> str:
        passed_s = time.monotonic() - began_s
        return f"{passed_s:.0f} of about {about_s(settings):.0f} s: {', '.join(now_doing)}"

    with showing(how_far):
        async with Facts(settings) as facts:
            await facts.see_that_redis_is_fit()
            nodes = scratch.nodes()
            scenes = Scenes(facts, settings, doing)
            try:
                with doing("two nodes start"):
                    await asyncio.gather(*(node.start() for node in nodes))
                first, second = nodes
                leader, other = (second, first) if await facts.is_leader(second) else nodes
                await _play(scenes, facts, leader, other, results)
            finally:
                await scenes.close()
                for node in nodes:
                    await node.close()
    return sorted(results, key=lambda result: result.promise)


async def _play(
    scenes: Scenes, facts: Facts, leader: ScratchServer, other: ScratchServer, results: list[Result]
) -> None:
    async def play(promise: str, what: str, scene: Awaitable[list[Result]]) -> None:
        await told(promise, what, scene, results.append)

    async def pause() -> None:
        await leader.start()
        await comes_true(lambda: facts.is_leader(other), LEADS_WITHIN_S)
        await play("C4", "node paused", scenes.pause(leader, other))

    await play("C1", "users of one node, seen on the other", scenes.calm(leader, other))
    await play("C2", "node killed", scenes.kill(leader, other, pause))
    await play("C3", "node stopped", scenes.stop(other, leader))
    await play("C5", "Redis emptied", scenes.flush(leader))
    await play("C6", "at the end", scenes.compare(leader))


def about_s(settings: Settings) -> float:
    """How long all of it takes."""
    return 11 + settings.node_lease_s + settings.restart_grace_s + 3 * settings.offline_within_s
