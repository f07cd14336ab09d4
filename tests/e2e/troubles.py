"""P9 on MongoDB: a storm of clients while the database is killed, hangs, loses its primary or has a full disk.

Presence must go on in real time: a watcher of everybody is held against the truth all the while. Once the database is
back, the collection must say the same within two seconds, though the storm goes on.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mongod
from e2e.servers import PresenceServer
from e2e.storm import SLACK_S, Observer, Storm, faults
from e2e.weather import OFFLINE_WITHIN_S
from support import until

BACK_WITHIN_S = 2.0


class MongoPresenceServer(PresenceServer):
    """A herenow server on a MongoDB database, in which it creates the users.

    Args:
        directory: for its log.
        database: the MongoDB server.
        settings: as of ``PresenceServer``.
    """

    def __init__(self, directory: Path, database: mongod.Mongod, **settings: Any) -> None:
        self.mongod = database
        self.name = mongod.fresh_database()
        super().__init__(directory / "herenow.db", **{"create_users": True, **settings})

    @property
    def address(self) -> str:
        return self.mongod.url(self.name)

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "XDG_STATE_HOME": str(self.database.parent)}

    def rows(self) -> dict[str, tuple[bool, str]]:
        with self.mongod.client() as client:
            found = client[self.name].users.find({}, {"isOnline": 1, "lastActive": 1})
            return {user["_id"]: (user["isOnline"], str(user["lastActive"])) for user in found}


@dataclass
class Trouble:
    """What one trouble of the database came to.

    Attributes:
        checks: how often the watcher was held against the truth while it lasted.
        back_after_s: how long after the database's return the collection told the truth.
        faults: what the watcher showed wrongly, and what the collection still said after too long.
    """

    name: str
    seconds: float
    checks: int = 0
    back_after_s: float = 0.0
    faults: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def killed(database: mongod.Mongod, seconds: float) -> AsyncIterator[None]:
    """``kill -9``; started again at the end."""
    database.kill()
    yield
    await asyncio.to_thread(database.start)


@contextlib.asynccontextmanager
async def hanging(database: mongod.Mongod, seconds: float) -> AsyncIterator[None]:
    """``SIGSTOP``, and ``SIGCONT``."""
    database.pause()
    yield
    database.resume()


@contextlib.asynccontextmanager
async def without_primary(database: mongod.Mongod, seconds: float) -> AsyncIterator[None]:
    """The primary steps down, and is elected again after so long."""
    database.step_down(max(1, round(seconds)))
    yield
    await until(database.is_ready, seconds + 10)


@contextlib.asynccontextmanager
async def full(database: mongod.Mongod, seconds: float) -> AsyncIterator[None]:
    """Every write is answered with "out of disk space"."""
    with database.failing("update", "insert", "delete", errorCode=14031):
        yield


Play = Callable[[mongod.Mongod, float], contextlib.AbstractAsyncContextManager[None]]
TROUBLES: dict[str, Play] = {
    "killed with -9": killed,
    "hung (SIGSTOP)": hanging,
    "without a primary": without_primary,
    "disk full": full,
}


async def troubled_storm(directory: Path, *, users: int, seconds: float, seed: int = 1) -> list[Trouble]:
    """Let clients come and go, and the database have one trouble after the other, each for so many seconds."""
    with mongod.running(replica_set=True) as database:
        server = MongoPresenceServer(directory, database)
        server.start()
        try:
            return await _play(server, users=users, seconds=seconds, seed=seed)
        finally:
            server.stop()


async def _play(server: MongoPresenceServer, *, users: int, seconds: float, seed: int) -> list[Trouble]:
    storm = Storm(server.url, users=users, seed=seed, offline_within_s=OFFLINE_WITHIN_S)
    observer = Observer(server.url, "observer")
    await observer.connect()
    playing = asyncio.create_task(storm.run(len(TROUBLES) * (seconds + 6)))
    await asyncio.sleep(3)
    seen = []
    for name, play in TROUBLES.items():
        trouble = Trouble(name, seconds)
        async with play(server.mongod, seconds):
            ends_s = time.monotonic() + seconds
            while time.monotonic() < ends_s:
                await asyncio.sleep(min(0.5, seconds / 4))
                trouble.faults += faults(storm, observer.online(), "a watcher")
                trouble.checks += 1
        await _wait_until_told(server, storm, trouble)
        seen.append(trouble)
    storm.end()
    await playing
    await asyncio.sleep(OFFLINE_WITHIN_S + SLACK_S)
    wrong = (server.online_rows() ^ observer.online()) - {"observer"}
    seen[-1].faults += [f"at the end: {name} is wrong in the collection" for name in wrong]
    await storm.stop()
    return seen


async def _wait_until_told(server: MongoPresenceServer, storm: Storm, trouble: Trouble) -> None:
    """Look at the collection until nothing false is in it."""
    began_s = time.monotonic()
    while True:
        wrong = faults(storm, await asyncio.to_thread(server.online_rows), "the collection")
        trouble.back_after_s = time.monotonic() - began_s
        if not wrong or trouble.back_after_s > BACK_WITHIN_S:
            trouble.faults += wrong
            return
        await asyncio.sleep(0.05)
