"""Storms against a server in a process of its own, short in the tests and at full length in ``make soak``."""

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field

from e2e.servers import PresenceServer
from e2e.storm import SLACK_S, Observer, Storm, faults
from support import PYTHONPATH, until

OFFLINE_WITHIN_S = 2.0
RESTART_GRACE_S = 9.5
"""The least that fits a bound of two seconds: a kill costs the soak less time than at the default of 15."""


@dataclass
class Weather:
    """What a storm came to.

    Attributes:
        faults: every false statement that was seen, as sentences; the promise is that there is none.
        checks: how often each view was held against the truth.
        told_ms: how long after users were to connect a watcher was told, sorted; ``stored_ms``: and the database.
        gone_told_ms: how long after users closed their only connection a watcher was told, sorted;
            ``gone_stored_ms``: and the database.
    """

    users: int
    seconds: float
    kills: int = 0
    checks: int = 0
    connects: int = 0
    reloads: int = 0
    leaves: int = 0
    deaths: int = 0
    server_cpu_s: float = 0.0
    restarts_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    told_ms: list[float] = field(default_factory=list)
    stored_ms: list[float] = field(default_factory=list)
    gone_told_ms: list[float] = field(default_factory=list)
    gone_stored_ms: list[float] = field(default_factory=list)


async def storm(
    server: PresenceServer, *, users: int, seconds: float, seed: int = 1, give_way: bool = False
) -> Weather:
    """Let clients come and go at random; look every half second, and at the end. Starts the server, and stops it.

    With ``give_way``, this process, which plays all the clients, leaves the processor to the server and the prober
    where they want it, as clients on other machines would; it cannot take that back.
    """
    server.start()
    weather = Weather(users, seconds)
    try:
        players = Storm(server.url, users=users, seed=seed, offline_within_s=OFFLINE_WITHIN_S)
        observer = Observer(server.url, "observer")
        await observer.connect()
        prober = await _start_prober(server, seconds * 0.8)
        if give_way:
            os.nice(10)
        playing = asyncio.create_task(players.run(seconds))
        while not playing.done():
            await asyncio.sleep(0.5)
            weather.faults += faults(players, observer.online(), "a watcher")
            weather.faults += faults(players, await asyncio.to_thread(server.online_rows), "the store")
            weather.checks += 1
        await playing
        await _ask_prober(weather, prober)
        await _agree(weather, players, server, observer)
        weather.server_cpu_s = server.cpu_s()
        _count(weather, players)
        await players.stop()
    finally:
        server.stop()
    return weather


async def killing_storm(server: PresenceServer, *, users: int, kills: int, seed: int = 1) -> Weather:
    """``kill -9`` in the middle of a storm, again and again; after the restart grace all must agree with the truth.

    The server's restart grace must be ``RESTART_GRACE_S``. Starts the server, and stops it.
    """
    server.start()
    began = time.monotonic()
    weather = Weather(users, 0)
    try:
        for round_ in range(kills):
            players = Storm(server.url, users=users, seed=seed + round_, offline_within_s=OFFLINE_WITHIN_S)
            observer = Observer(server.url, "observer")
            await observer.connect()
            playing = asyncio.create_task(players.run(6))
            await asyncio.sleep(4)
            server.kill()
            players.server_lost()
            weather.kills += 1
            weather.restarts_s.append(await asyncio.to_thread(server.start))
            back = time.monotonic()
            observer = Observer(server.url, "observer")
            await observer.connect()
            # Whoever has come back must not flicker from here on; the others are given until the grace is over.
            while time.monotonic() - back < RESTART_GRACE_S:
                await asyncio.sleep(0.5)
                missing = players.must_be_online() - observer.online()
                weather.faults += [f"a watcher: {name} is connected and shown offline" for name in sorted(missing)]
                weather.checks += 1
            await playing
            await _agree(weather, players, server, observer)
            _count(weather, players)
            await players.stop()
    finally:
        server.stop()
    weather.seconds = round(time.monotonic() - began, 1)
    return weather


async def _agree(weather: Weather, players: Storm, server: PresenceServer, observer: Observer) -> None:
    """The storm is over: within the bound, the truth, every watcher and the store are one."""
    await asyncio.sleep(OFFLINE_WITHIN_S + SLACK_S)
    await players.settle()
    truth = {user.name for user in players.users if user.open}
    late = Observer(server.url, "late observer")
    await late.connect()

    def stored() -> set[str]:
        return {user for user in server.online_rows() if user.startswith("user-")}

    try:
        await until(lambda: stored() == observer.online() == late.online() == truth, 5)
    except TimeoutError:
        for who, online in (("a watcher", observer.online()), ("a newcomer", late.online()), ("the store", stored())):
            weather.faults += [f"at the end, {who}: {name} is wrong" for name in sorted(online ^ truth)]
    if late.client is not None:
        await late.client.leave()


async def _start_prober(server: PresenceServer, seconds: float) -> asyncio.subprocess.Process:
    """Measure P1 and P2 beside the storm, in a process of its own: this one is busy with the storm."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "e2e.prober", str(server.port), server.address, str(seconds)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )


async def _ask_prober(weather: Weather, prober: asyncio.subprocess.Process) -> None:
    said, _ = await prober.communicate()
    seen = json.loads(said)
    weather.told_ms, weather.stored_ms = seen["told"], seen["stored"]
    weather.gone_told_ms, weather.gone_stored_ms = seen["goneTold"], seen["goneStored"]
    weather.faults += [f"the user who came at {at} s was never seen, or never seen to go" for at in seen["lost"]]


def _count(weather: Weather, players: Storm) -> None:
    weather.connects += players.connects
    weather.reloads += players.reloads
    weather.leaves += players.leaves
    weather.deaths += players.deaths
