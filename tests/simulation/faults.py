"""What goes wrong in a simulated world: each fault is a sentence, and a few lines that do it and undo it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from simulation.people import How
from simulation.redis_data import Stream

if TYPE_CHECKING:
    from simulation.world import World

Play = Callable[["World", random.Random], Awaitable[None]]

FAULTS: dict[str, tuple[Play, int]] = {}
"""Of each kind how it is played, and how often, beside the others."""

MINUTES_US = 60_000_000


def fault(kind: str, weight: int = 2) -> Callable[[Play], Play]:
    """Make a function a kind of fault."""

    def register(play: Play) -> Play:
        FAULTS[kind] = play, weight
        return play

    return register


# -- nodes -------------------------------------------------------------------------------------------------------------


@fault("a node is killed and starts again", 4)
async def kill_a_node(world: "World", dice: random.Random) -> None:
    node = world.some_node(dice)
    with world.troubles.of("a node is killed and starts again"):
        await world.kill(node)
        await asyncio.sleep(dice.uniform(0.2, 12.0))
        await world.start(node.name)


@fault("a node is stopped and starts again", 4)
async def stop_a_node(world: "World", dice: random.Random) -> None:
    node = world.some_node(dice)
    with world.troubles.of("a node is stopped and starts again"):
        await world.stop(node)
        await asyncio.sleep(dice.uniform(0.2, 5.0))
        await world.start(node.name)


@fault("all nodes are renewed, one after the other", 1)
async def renew_all(world: "World", dice: random.Random) -> None:
    with world.troubles.of("all nodes are renewed, one after the other"):
        for node in tuple(world.nodes):
            await world.stop(node)
            await world.start(node.name)


@fault("all nodes are stopped at once", 1)
async def stop_all(world: "World", dice: random.Random) -> None:
    with world.troubles.of("all nodes are stopped at once"):
        names = [node.name for node in world.nodes]
        await asyncio.gather(*(world.stop(node) for node in tuple(world.nodes)))
        await asyncio.sleep(dice.uniform(0.2, 8.0))
        await asyncio.gather(*(world.start(name) for name in names))


@fault("a node stands still", 4)
async def pause_a_node(world: "World", dice: random.Random) -> None:
    node = world.some_node(dice)
    with world.troubles.of("a node stands still", node):
        node.process.pause()
        await asyncio.sleep(dice.choice((dice.uniform(0.1, 3.0), dice.uniform(3.0, 9.0), dice.uniform(9.0, 26.0))))
        node.process.resume()


@fault("a node is cut off from Redis", 5)
async def cut_a_node(world: "World", dice: random.Random) -> None:
    node = world.some_node(dice)
    with world.troubles.of("a node is cut off from Redis", node):
        requests, answers = dice.choice(((True, True), (True, False), (False, True)))
        world.network.cut(node.process, requests=requests, answers=answers)
        await asyncio.sleep(dice.choice((dice.uniform(0.1, 3.0), dice.uniform(3.0, 9.0), dice.uniform(9.0, 20.0))))
        world.network.mend(node.process)


@fault("the connections of a node break", 3)
async def break_connections(world: "World", dice: random.Random) -> None:
    node = world.some_node(dice)
    with world.troubles.of("the connections of a node break", is_grave=False):
        for _ in range(dice.randrange(1, 4)):
            world.network.break_all(node.process)
            await asyncio.sleep(dice.uniform(0.001, 0.3))


@fault("the network is slow", 2)
async def slow_network(world: "World", dice: random.Random) -> None:
    links = [world.network.link(node.process) for node in world.nodes if dice.random() < 0.7]
    with world.troubles.of("the network is slow"):
        for link in links:
            link.delay_s = dice.uniform(0.01, 0.15)
        await asyncio.sleep(dice.uniform(1.0, 8.0))
        for link in links:
            link.delay_s = 0.0005


@fault("the clock of a node is set", 2)
async def set_clock_of_node(world: "World", dice: random.Random) -> None:
    node = world.some_node(dice)
    world.troubles.counts["the clock of a node is set"] += 1
    node.process.wall_us += round(dice.uniform(-10, 10) * MINUTES_US)


# -- Redis -------------------------------------------------------------------------------------------------------------


@fault("Redis answers nobody for a while", 3)
async def stall_redis(world: "World", dice: random.Random) -> None:
    async with world.redis_trouble("Redis answers nobody for a while") as master:
        master.is_stalled = True
        await asyncio.sleep(dice.choice((dice.uniform(0.1, 2.0), dice.uniform(2.0, 10.0))))
        master.go_on()


@fault("Redis is killed and comes back", 3)
async def restart_redis(world: "World", dice: random.Random) -> None:
    async with world.redis_trouble("Redis is killed and comes back") as master:
        kept = master.data.keys if dice.random() < 0.4 else {}
        if not kept:
            world.troubles.loses()
        world.network.master = None
        master.end()
        await asyncio.sleep(dice.uniform(0.1, 6.0))
        server = world.network.new_server(master.wall_us)
        server.data.keys = kept
        world.network.master = server


@fault("Redis is emptied", 2)
async def empty_redis(world: "World", dice: random.Random) -> None:
    async with world.redis_trouble("Redis is emptied") as master:
        world.troubles.loses()
        master.data.keys = {}


@fault("Redis fails over and loses its last seconds", 6)
async def fail_over(world: "World", dice: random.Random) -> None:
    master = world.network.master
    if master is None or world.redis_is_in_trouble:
        return
    kept = master.data.copy_keys()
    world.troubles.loses()
    with world.troubles.of("Redis fails over and loses its last seconds"):
        world.redis_is_in_trouble = True
        await asyncio.sleep(dice.choice((0.0, dice.uniform(0.0, 1.0), dice.uniform(1.0, 10.0))))
        world.redis_is_in_trouble = False
        async with world.redis_trouble(None):
            wall_us = master.wall_us + dice.choice((0, round(dice.uniform(-10, 10) * MINUTES_US)))
            server = world.network.new_server(wall_us)
            server.data.keys = kept
            if dice.random() < 0.3:  # for a while there are two masters: who has a connection keeps to the old one
                world.network.master = server
                await asyncio.sleep(dice.uniform(0.1, 4.0))
                master.end()
            else:
                world.network.master = None
                master.end()
                await asyncio.sleep(dice.uniform(0.1, 6.0))
                world.network.master = server


@fault("the clock of Redis is set", 3)
async def set_clock_of_redis(world: "World", dice: random.Random) -> None:
    if world.redis_is_in_trouble or world.network.master is None:
        return
    with world.troubles.of("the clock of Redis is set", is_grave=False):
        world.network.master.wall_us += round(dice.uniform(-10, 10) * MINUTES_US)


@fault("the clock of Redis is trimmed", 1)
async def trim_clock_of_redis(world: "World", dice: random.Random) -> None:
    if world.redis_is_in_trouble or world.network.master is None:
        return
    with world.troubles.of("the clock of Redis is trimmed", is_grave=False):
        world.troubles.trimmed()
        world.network.master.wall_us += round(dice.uniform(-0.4, 0.4) * 1_000_000)


@fault("the memory of Redis is full", 2)
async def fill_redis(world: "World", dice: random.Random) -> None:
    async with world.redis_trouble("the memory of Redis is full", is_away=False) as master:
        master.is_full = True
        await asyncio.sleep(dice.uniform(1.0, 8.0))
        master.is_full = False


@fault("the log is cut before it was read", 1)
async def cut_the_log(world: "World", dice: random.Random) -> None:
    node = world.some_node(dice)
    with world.troubles.of("the log is cut before it was read", node):
        node.process.pause()
        await asyncio.sleep(dice.uniform(1.0, 4.0))
        if world.network.master is not None:
            for held in world.network.master.data.keys.values():
                if isinstance(held, Stream):
                    del held.entries[:-1]
        node.process.resume()


# -- what is around them -----------------------------------------------------------------------------------------------


@fault("the database is away", 3)
async def lose_database(world: "World", dice: random.Random) -> None:
    with world.troubles.of("the database is away"):
        world.database.is_away = True
        await asyncio.sleep(dice.choice((dice.uniform(0.1, 2.0), dice.uniform(2.0, 12.0))))
        world.database.is_away = False


@fault("an operator sends a user away", 2)
async def send_away(world: "World", dice: random.Random) -> None:
    user, node = dice.choice(list(world.users.values())), world.some_node(dice)
    with world.troubles.of("an operator sends a user away", is_grave=False):
        await world.evict(node, user)


@fault("all clients of a node break off", 2)
async def break_clients(world: "World", dice: random.Random) -> None:
    node = world.some_node(dice)
    world.troubles.counts["all clients of a node break off"] += 1
    for session in tuple(node.sessions.values()):
        world.end_session(session, How.CLOSED)
