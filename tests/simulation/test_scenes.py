"""What worlds failed by once, each as a scene of its own: who was where, what broke, and what nobody may see of it.

The oracle looks on as in any world; where more is to be seen, the scene says so.
"""

import asyncio
import contextlib
from typing import Any

import pytest

from herenow.errors import RegistryUnavailable
from herenow.model import Claim, Claimed
from simulation.people import How, Session, User
from simulation.world import Scene, World, run

SEEDS = range(1, 5)
"""Each scene is played a few times: how long anything takes, and who comes first, is another each time."""


def play(scene: Scene) -> None:
    """Play a scene, and see that nothing was wrong."""
    failures = {seed: failures for seed in SEEDS if (failures := run(seed, scene=scene).failures)}
    assert failures == {}


async def come(world: World, name: str, node: int) -> Session:
    """Have somebody come to a node."""
    user = world.users.setdefault((None, name), User(None, name))
    session = await world.come(user, world.nodes[node - 1])
    assert session is not None
    return session


def do(session: Session, deed: str, *args: Any) -> None:
    """Have a node do something for a user."""

    async def ask() -> None:
        with contextlib.suppress(RegistryUnavailable):
            await getattr(session.node.registry(session.user), deed)(session.user.name, *args)

    session.node.process.start(ask())


async def restart_redis(world: World, *, away_s: float, kept: dict[str, Any], wall_us: int | None = None) -> None:
    """Kill Redis; after a while another one is there, which knows only what was kept."""
    master = world.network.master
    assert master is not None
    with world.troubles.of("Redis is away", *world.nodes):
        world.troubles.loses()
        world.network.master = None
        master.end()
        await asyncio.sleep(away_s)
        world.network.master = world.network.new_server(master.wall_us if wall_us is None else wall_us)
        world.network.master.data.keys = kept


def kept_by(world: World) -> dict[str, Any]:
    """All that Redis knows by now: what a replica has that hears nothing from now on."""
    assert world.network.master is not None
    return world.network.master.data.copy_keys()


@pytest.mark.parametrize("after_s", [6, 25])
def test_redis_comes_back_empty_and_whoever_the_store_has_online_has_the_whole_grace(after_s: float) -> None:
    """Also long after the leader began; and no audit takes them for ghosts before they are let in."""

    async def scene(world: World) -> None:
        for number in (1, 2, 3):
            await come(world, f"user-of-{number}", number)
        await asyncio.sleep(after_s)
        await restart_redis(world, away_s=3.0, kept={})
        with world.troubles.of("a node stands still", world.nodes[2]):
            world.nodes[2].process.pause()
            await asyncio.sleep(3)
            world.nodes[2].process.resume()
        await asyncio.sleep(20)

    play(scene)


def test_what_was_told_and_is_lost_is_told_anew() -> None:
    """She left, and everybody was told; Redis fails over to a state in which she is still there; she comes back."""

    async def scene(world: World) -> None:
        alice = await come(world, "alice", 3)
        await asyncio.sleep(4)
        kept = kept_by(world)
        await asyncio.sleep(0.5)
        world.end_session(alice, How.LEFT)
        await asyncio.sleep(0.5)
        await restart_redis(world, away_s=1.8, kept=kept)
        while await world.come(alice.user, world.nodes[2]) is None:  # noqa: ASYNC110 - it costs nothing here
            await asyncio.sleep(0.1)
        await asyncio.sleep(10)

    play(scene)


def test_who_left_is_not_there_again_since_redis_has_lost_it_though_a_claim_expires_meanwhile() -> None:
    async def scene(world: World) -> None:
        alice = await come(world, "alice", 3)
        until_ms = alice.node.registry(alice.user).now().unix_ms + 5000
        do(alice, "claim", Claim(Claimed.BUSY, "à midi", until_ms))
        await asyncio.sleep(4)
        kept = kept_by(world)
        await asyncio.sleep(2)
        world.end_session(alice, How.LEFT)
        await asyncio.sleep(0.5)
        await restart_redis(world, away_s=0.1, kept=kept)

    play(scene)


def test_no_grace_ends_before_all_nodes_have_said_again_what_they_serve() -> None:
    """Her reload falls into what is lost: for Redis she lingers, and the node that serves her is back last."""

    async def scene(world: World) -> None:
        alice = await come(world, "alice", 2)
        await asyncio.sleep(3)
        world.end_session(alice, How.CLOSED)
        await asyncio.sleep(0.1)
        kept = kept_by(world)
        await asyncio.sleep(0.5)
        await come(world, "alice", 3)
        await restart_redis(world, away_s=2.5, kept=kept)
        with world.troubles.of("a node stands still", world.nodes[2]):
            world.nodes[2].process.pause()
            await asyncio.sleep(1.7)
            world.nodes[2].process.resume()

    play(scene)


def test_a_node_is_stopped_while_redis_is_away_which_then_has_lost_its_users() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(3)
        kept = kept_by(world)
        alice = await come(world, "alice", 1)
        restarted = asyncio.create_task(restart_redis(world, away_s=4.0, kept=kept))
        await asyncio.sleep(1)
        await world.stop(world.nodes[0])
        await restarted
        await asyncio.sleep(4)
        assert await world.come(alice.user, world.nodes[0]) is not None
        await world.start("n1")

    play(scene)


def test_a_node_that_was_cut_off_finds_a_redis_that_has_lost_what_it_had_not_heard() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(3)
        cut = world.nodes[1]
        with world.troubles.of("a node is cut off", cut):
            world.network.cut(cut.process, requests=True, answers=True)
            await asyncio.sleep(0.5)
            await come(world, "alice", 1)
            await asyncio.sleep(1)
            await restart_redis(world, away_s=2.0, kept={})
            await asyncio.sleep(3)
            world.network.mend(cut.process)

    play(scene)


def test_a_change_is_told_once_though_a_node_comes_late_to_another_redis() -> None:
    async def scene(world: World) -> None:
        alice = await come(world, "alice", 1)
        await asyncio.sleep(3)
        kept = kept_by(world)
        do(alice, "claim", Claim(Claimed.AWAY))
        await asyncio.sleep(0.5)
        with world.troubles.of("a node stands still", world.nodes[1]):
            world.nodes[1].process.pause()
            await restart_redis(world, away_s=0.5, kept=kept)
            world.network.link(world.nodes[1].process).delay_s = 0.05
            for claimed in (Claimed.BUSY, Claimed.AWAY) * 4:
                await asyncio.sleep(0.3)
                do(alice, "claim", Claim(claimed))
            world.nodes[1].process.resume()

    play(scene)


@pytest.mark.parametrize("minutes", [-7, 7])
def test_redis_fails_over_to_a_clock_that_is_wrong_and_time_goes_on_evenly(minutes: int) -> None:
    """No two nodes set it back and forth, and a grace is as long as ever."""

    async def scene(world: World) -> None:
        alice = await come(world, "alice", 1)
        await asyncio.sleep(3)
        registry = alice.node.registry(alice.user)
        before_us, before_s = registry.now().unix_us, world.loop.now_s
        restarted = restart_redis(world, away_s=3.0, kept=kept_by(world), wall_us=minutes * 60_000_000)
        for node in world.nodes:
            world.network.link(node.process).delay_s = 0.02
        for _ in range(3):
            do(alice, "active", alice.connection_id)
        await restarted
        for each in range(20):
            do(alice, "idle" if each % 2 else "active", alice.connection_id)
            await asyncio.sleep(0.2)
            passed_us = registry.now().unix_us - before_us
            assert abs(passed_us / 1_000_000 - (world.loop.now_s - before_s)) < 1.5
        world.end_session(alice, How.CLOSED)

    play(scene)


def test_time_goes_on_evenly_where_redis_has_lost_that_its_clock_was_set() -> None:
    async def scene(world: World) -> None:
        alice = await come(world, "alice", 1)
        await asyncio.sleep(3)
        registry = alice.node.registry(alice.user)
        before_us, before_s = registry.now().unix_us, world.loop.now_s
        assert world.network.master is not None
        world.network.master.wall_us += 8 * 60_000_000
        await asyncio.sleep(3)
        await restart_redis(world, away_s=1.0, kept={})
        await asyncio.sleep(5)
        assert abs((registry.now().unix_us - before_us) / 1_000_000 - (world.loop.now_s - before_s)) < 1.5

    play(scene)


def test_an_old_master_that_goes_on_for_a_while_is_left_at_once() -> None:
    """A node that has agreed on the new one asks nothing over the connections that lead to the old one."""

    async def scene(world: World) -> None:
        alice = await come(world, "alice", 1)
        await asyncio.sleep(3)
        old = world.network.master
        assert old is not None
        with world.troubles.of("there are two masters", *world.nodes):
            world.troubles.loses()
            world.network.master = world.network.new_server()
            world.network.master.data.keys = old.data.copy_keys()
            for _ in range(20):
                for session in alice.user.living():
                    do(session, "active", session.connection_id)
                world.network.break_some(world.nodes[0].process)
                await asyncio.sleep(0.2)
            old.end()
        assert all(each.here.registrations < 4 for node in world.nodes for each in node.keeper.memberships)

    play(scene)


def test_a_node_that_starts_under_its_name_says_that_redis_is_away() -> None:
    """It watches whoever had the name before, and does not end with an error of the client library's."""

    async def scene(world: World) -> None:
        world.are_named = True
        await world.stop(world.nodes[2])
        await world.start("n3")
        await world.kill(world.nodes[2])
        starting = asyncio.create_task(world.start("n3"))
        await asyncio.sleep(1)
        await restart_redis(world, away_s=7.0, kept=kept_by(world))
        await starting

    play(scene)


def test_a_commit_that_comes_when_its_node_was_given_up_changes_nothing() -> None:
    """It was on its way when the node was killed, and the network has kept it."""

    async def scene(world: World) -> None:
        await asyncio.sleep(3)
        cut, alice = world.nodes[1], world.users.setdefault((None, "alice"), User(None, "alice"))
        with world.troubles.of("a node is cut off and killed", cut):
            world.network.cut(cut.process, requests=True, answers=False)
            coming = asyncio.create_task(world.come(alice, cut))
            await asyncio.sleep(1)
            await world.kill(cut)
            assert await coming is None
            await asyncio.sleep(12)
            world.network.mend(cut.process)
            await asyncio.sleep(1)
        await world.start("n2")

    play(scene)
