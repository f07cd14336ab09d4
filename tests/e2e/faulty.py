"""A herenow server whose surroundings fail: its log, its disk, its database, its clock, its network, its processor.

Each fault is a context manager that lasts while it is entered, and says beforehand who cannot know better meanwhile.
"""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mongod
from e2e.relay import Relay
from e2e.servers import PresenceServer
from e2e.shifted import LOG_CAPACITY, SettableClock
from e2e.troubles import MongoPresenceServer
from programs import Running
from support import PYTHONPATH, until

CHANGES_KEPT = 4_096
"""For a ``since``; reached within a minute. By default it is 65,536, and until then the server's memory grows."""

AUDIT_EVERY_S = 5.0
"""More often than by default, so that a soak of half an hour sees many audits."""


class LogReader:
    """The reader of a server's log, through a pipe: it reads, stops reading, or goes.

    Attributes:
        tail: the last of what it read.
        dropped: lines that say how many others were dropped.
    """

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        self._may_read = threading.Event()
        self._may_read.set()
        self._gone = False
        self.tail = b""
        self.dropped = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            self._may_read.wait()
            if self._gone:
                os.close(self._reading)
                return
            data = os.read(self._reading, 65_536)
            if not data:
                return
            self.dropped += data.count(b"lines dropped")
            self.tail = (self.tail + data)[-20_000:]

    def stall(self) -> None:
        """Read nothing: the pipe fills up."""
        self._may_read.clear()

    def resume(self) -> None:
        """Read on."""
        self._may_read.set()

    def go(self) -> None:
        """Close the pipe, once what has come is read: whoever writes gets EPIPE."""
        self._gone = True
        self._may_read.set()


class _Faulty(PresenceServer):
    """A server whose clock can be set, and whose log goes into a pipe."""

    clock: SettableClock
    log_reader: LogReader

    def _launch(self, *arguments: str) -> Running:
        self.log_reader = LogReader()
        with self._log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "e2e.shifted", str(self.clock.path), *arguments],
                cwd=self.database.parent,
                env={**self.environment, "PYTHONPATH": PYTHONPATH, LOG_CAPACITY: str(CHANGES_KEPT)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=self.log_reader.writing,
            )
        os.close(self.log_reader.writing)
        return process

    def log(self) -> str:
        return self.log_reader.tail.decode(errors="replace")

    def memory_kb(self) -> int:
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def spoil(self, names: list[str]) -> None:
        """Write into our fields what another program might."""
        raise NotImplementedError

    def drop_indexes(self) -> None:
        """Drop what indexes of the users can be dropped."""
        raise NotImplementedError

    def forget_nodes(self) -> None:
        """Delete who owns the database."""
        raise NotImplementedError


class FaultySqlite(_Faulty):
    """On SQLite, in a directory of its own."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.clock = SettableClock(directory / "clock")
        super().__init__(directory / "soak.db", audit_every_s=AUDIT_EVERY_S, **settings)

    def spoil(self, names: list[str]) -> None:
        odd = [("yes", None), (1, "soon"), (0, "9999-12-31T23:59:59.999Z"), (2, None)]
        with contextlib.closing(sqlite3.connect(self.database, timeout=5)) as connection, connection:
            for place, name in enumerate(names):
                online, active = odd[place % len(odd)]
                connection.execute(
                    "UPDATE users SET isOnline = ?, lastActive = coalesce(?, lastActive) WHERE id = ?",
                    (online, active, name),
                )

    def drop_indexes(self) -> None:
        self._for_each("type = 'index' AND tbl_name = 'users' AND sql IS NOT NULL", 'DROP INDEX "{}"')

    def forget_nodes(self) -> None:
        self._for_each("type = 'table' AND name LIKE '%node%'", 'DELETE FROM "{}"')

    def _for_each(self, which: str, statement: str) -> None:
        """Execute a statement for each name that the schema has of some kind."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=5)) as connection, connection:
            for (name,) in connection.execute(f"SELECT name FROM sqlite_master WHERE {which}").fetchall():
                connection.execute(statement.format(name))


class FaultyMongo(_Faulty, MongoPresenceServer):
    """On MongoDB."""

    def __init__(self, directory: Path, database: mongod.Mongod, **settings: Any) -> None:
        self.clock = SettableClock(directory / "clock")
        super().__init__(directory, database, audit_every_s=AUDIT_EVERY_S, **settings)

    def rows(self) -> dict[str, tuple[bool, str]]:
        with self.mongod.client() as client:
            found = client[self.name].users.find({}, {"isOnline": 1, "lastActive": 1})
            return {str(user["_id"]): (user.get("isOnline") is True, str(user.get("lastActive"))) for user in found}

    def spoil(self, names: list[str]) -> None:
        odd: list[dict[str, Any]] = [
            {"$set": {"isOnline": "true"}},
            {"$set": {"isOnline": 1, "lastActive": 1_700_000_000_000_000}},
            {"$unset": {"presence": ""}},
            {"$set": {"lastActive": "soon"}},
        ]
        with self.mongod.client() as client:
            for place, name in enumerate(names):
                client[self.name].users.update_one({"_id": name}, odd[place % len(odd)])

    def drop_indexes(self) -> None:
        with self.mongod.client() as client:
            client[self.name].users.drop_indexes()

    def forget_nodes(self) -> None:
        with self.mongod.client() as client:
            for collection in client[self.name].list_collection_names(filter={"name": {"$regex": "node"}}):
                client[self.name][collection].delete_many({})


@dataclass(frozen=True)
class Fault:
    """One way in which the surroundings fail.

    Attributes:
        kind: log, disk, database, clock, network or processor.
        name: as a sentence goes on after "the …".
        play: enter it, with the random numbers of the run.
        seconds: how long it lasts, at least and at most.
        hides_gone: a watcher cannot know meanwhile who has gone.
        hides_new: nor who had come just before.
        hides_store: the database cannot say the truth meanwhile.
        heals_s: after its end the database must agree within so many seconds.
    """

    kind: str
    name: str
    play: Callable[["Scene", random.Random], contextlib.AbstractAsyncContextManager[None]]
    seconds: tuple[float, float]
    hides_gone: bool = False
    hides_new: bool = False
    hides_store: bool = False
    heals_s: float = 2.0


@dataclass
class Scene:
    """What a fault can get at."""

    server: _Faulty
    relay: Relay
    disk: Path
    names: list[str]


def _fault(play: Callable[[Scene, random.Random], AsyncIterator[None]]) -> Any:
    return contextlib.asynccontextmanager(play)


@_fault
async def _log_stalls(scene: Scene, _: random.Random) -> AsyncIterator[None]:
    scene.server.log_reader.stall()
    yield
    scene.server.log_reader.resume()


@_fault
async def _log_goes(scene: Scene, _: random.Random) -> AsyncIterator[None]:
    scene.server.log_reader.go()
    yield


@_fault
async def _disk_fills(scene: Scene, _: random.Random) -> AsyncIterator[None]:
    filler = scene.disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65_536))
    try:
        yield
    finally:
        filler.unlink()


@_fault
async def _file_is_locked(scene: Scene, _: random.Random) -> AsyncIterator[None]:
    connection = sqlite3.connect(scene.server.database, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


@_fault
async def _rows_are_spoilt(scene: Scene, chance: random.Random) -> AsyncIterator[None]:
    await asyncio.to_thread(scene.server.spoil, chance.sample(scene.names, 20))
    yield


@_fault
async def _index_is_dropped(scene: Scene, _: random.Random) -> AsyncIterator[None]:
    scene.server.drop_indexes()
    yield


@_fault
async def _node_row_is_damaged(scene: Scene, _: random.Random) -> AsyncIterator[None]:
    scene.server.forget_nodes()
    yield


@_fault
async def _clock_jumps(scene: Scene, chance: random.Random) -> AsyncIterator[None]:
    scene.server.clock.set(chance.choice((-3600, -60, 60, 3600)))
    yield
    scene.server.clock.set(0)


@_fault
async def _network_cuts(scene: Scene, _: random.Random) -> AsyncIterator[None]:
    scene.relay.cut()
    yield


@_fault
async def _network_is_silent(scene: Scene, _: random.Random) -> AsyncIterator[None]:
    scene.relay.silence()
    yield
    scene.relay.resume()


@_fault
async def _network_is_slow(scene: Scene, _: random.Random) -> AsyncIterator[None]:
    scene.relay.bytes_per_s = 20_000
    yield
    scene.relay.bytes_per_s = None


@_fault
async def _process_stops(scene: Scene, _: random.Random) -> AsyncIterator[None]:
    os.kill(scene.server.pid, signal.SIGSTOP)
    yield
    os.kill(scene.server.pid, signal.SIGCONT)


def _of_mongod(name: str) -> Any:
    @_fault
    async def play(scene: Scene, _: random.Random) -> AsyncIterator[None]:
        assert isinstance(scene.server, FaultyMongo)
        database = scene.server.mongod
        if name == "killed":
            database.kill()
            yield
            await asyncio.to_thread(database.start)
        elif name == "hung":
            database.pause()
            yield
            database.resume()
        elif name == "without a primary":
            database.step_down(3)
            yield
            await until(database.is_ready, 20)
        else:
            failing = contextlib.ExitStack()
            await asyncio.to_thread(
                failing.enter_context, database.failing("update", "insert", "delete", errorCode=14031)
            )
            yield
            await asyncio.to_thread(failing.close)

    return play


LOG_GOES = Fault("log", "reader of the log is gone (EPIPE)", _log_goes, (10, 15))
"""Only before a kill: the process that is started then has a log again."""

TWO_AUDITS_S = 2 * AUDIT_EVERY_S + 2.0

EVERYWHERE = (
    Fault("log", "log is not read (the pipe is full)", _log_stalls, (5, 15)),
    Fault("clock", "clock is set ahead or back, by a minute or an hour", _clock_jumps, (5, 20)),
    Fault("network", "network resets all connections", _network_cuts, (1, 2)),
    Fault("network", "network carries nothing", _network_is_silent, (2, 3), hides_gone=True, hides_store=True),
    Fault("network", "network carries 20 kB/s a connection", _network_is_slow, (5, 10), hides_gone=True,
          hides_store=True),
    Fault("processor", "server's process is stopped (SIGSTOP)", _process_stops, (3, 8), hides_gone=True,
          hides_new=True, hides_store=True, heals_s=5.0),
    Fault("database", "database has values of ours changed by hand", _rows_are_spoilt, (0, 1), hides_store=True,
          heals_s=TWO_AUDITS_S),
    Fault("database", "database has its indexes dropped", _index_is_dropped, (1, 2), hides_store=True),
    Fault("database", "database has the row of the server removed", _node_row_is_damaged, (1, 2)),
)  # fmt: skip

ON_SQLITE = (
    Fault("disk", "disk of the database is full", _disk_fills, (5, 20), hides_store=True),
    Fault("database", "database is locked by another program", _file_is_locked, (5, 15), hides_store=True),
)

ON_MONGODB = (
    Fault("disk", "disk of the database is full", _of_mongod("full"), (5, 20), hides_store=True),
    Fault("database", "database is killed with -9", _of_mongod("killed"), (3, 10), hides_store=True),
    Fault("database", "database hangs (SIGSTOP)", _of_mongod("hung"), (5, 20), hides_store=True),
    Fault("database", "database has no primary", _of_mongod("without a primary"), (3, 5), hides_store=True),
)


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system in memory that is soon full; it needs the rights of root.

    Raises:
        SystemExit: it cannot be mounted.
    """
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("the soak mounts a small file system for a disk that is full: run it as root, on Linux")
    try:
        yield directory
    finally:
        ends_s = time.monotonic() + 10
        while subprocess.run(["umount", str(directory)], check=False).returncode and time.monotonic() < ends_s:
            time.sleep(0.2)
