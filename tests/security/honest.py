"""Honest clients beside an attack, in a process of their own, and how their promises are kept meanwhile.

python -m security.honest PORT DATABASE CLIENTS SECONDS

A crowd connects, each watching some of the others, and says "ready". On the first line of its standard input, for so
many seconds, more users connect at a fixed rate, each measured from when it was to connect, and go without a word
once they are known. Prints one JSON object: a :class:`Seen`.
"""

import asyncio
import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import jwt
import msgspec

from e2e.crowd import AT_ONCE, Visitor, raise_file_limit, visit

SECRET = "a secret of at least thirty-two bytes"

PROBES_PER_S = 20
LOOK_EVERY_S = 0.005
"""How often the database is asked: so much too long a figure may be."""

LAST_WORD_S = 10.0
"""So long after it connected or went a user who is not shown so is given up."""

NEIGHBOURS = 10
"""How many others each of the crowd watches."""


def auth_of(user_id: str) -> dict[str, str]:
    """What a user connects with."""
    return {"token": jwt.encode({"sub": user_id}, SECRET)}


@dataclass
class Seen:
    """What came of the honest clients. Times are in milliseconds, sorted.

    Attributes:
        told: from when a user was to connect until a watcher knew; ``stored``: until the database did.
        gone: from when a user's connection was closed until a watcher knew.
        unseen: users whom somebody never knew to have come, or gone.
        lost: connections of the crowd that ended.
        false: statements that one of the crowd was offline.
    """

    told: list[float] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)
    gone: list[float] = field(default_factory=list)
    unseen: int = 0
    lost: int = 0
    false: int = 0


@dataclass
class Probe:
    """One user who comes and goes; ``due`` is when it was to come. Times are of the monotonic clock, in seconds."""

    due: float
    told: float = 0.0
    stored: float = 0.0
    closed: float = 0.0
    gone: float = 0.0


class Honest:
    """The crowd, and who measures."""

    def __init__(self, port: int, database: str) -> None:
        self._port = port
        self._database = database
        self._crowd: dict[str, Visitor] = {}
        self._probes: dict[str, Probe] = {}
        self._false = 0

    async def gather(self, clients: int) -> None:
        """Connect the crowd, and a watcher of it all."""
        free = asyncio.Semaphore(AT_ONCE)
        names = [f"honest-{number}" for number in range(clients)]

        async def come(number: int) -> None:
            async with free:
                visitor = self._crowd[names[number]] = await visit(self._port, auth_of(names[number]))
            around = [names[(number + step) % clients] for step in range(1, NEIGHBOURS + 1)]
            _watch(visitor, around)

        await asyncio.gather(*map(come, range(clients)))
        self._watcher = await visit(self._port, auth_of("watcher"), self._told)
        for start in range(0, clients, 1000):
            _watch(self._watcher, names[start : start + 1000])

    async def measure(self, seconds: float) -> Seen:
        """Let users come and go for so long."""
        names = [f"probe-{number}" for number in range(round(seconds * PROBES_PER_S))]
        for start in range(0, len(names), 1000):
            _watch(self._watcher, names[start : start + 1000])
        looking = asyncio.create_task(self._look())
        began = time.monotonic() + 0.1
        visits = []
        for number, name in enumerate(names):
            self._probes[name] = Probe(began + number / PROBES_PER_S)
            await asyncio.sleep(self._probes[name].due - time.monotonic())
            visits.append(asyncio.create_task(self._probe(name, self._probes[name])))
        await asyncio.gather(*visits)
        looking.cancel()
        lost = sum(not visitor.is_open for visitor in (*self._crowd.values(), self._watcher))
        return self._seen(lost)

    async def _probe(self, name: str, probe: Probe) -> None:
        with contextlib.suppress(OSError, AssertionError, TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                visitor = await visit(self._port, auth_of(name))
                while not (probe.told and probe.stored):  # noqa: ASYNC110  # two sources, one of them a file
                    await asyncio.sleep(LOOK_EVERY_S)
            probe.closed = time.monotonic()
            visitor.vanish()
            async with asyncio.timeout(LAST_WORD_S):
                while not probe.gone:  # noqa: ASYNC110  # set by what the watcher is told
                    await asyncio.sleep(LOOK_EVERY_S)

    def _told(self, event_json: bytes) -> None:
        now = time.monotonic()
        event, payload = msgspec.json.decode(event_json)
        for change in payload["changes"] if event == "presence:diff" else ():
            name, is_online = change["userId"], change["isOnline"]
            if (probe := self._probes.get(name)) is not None:
                if is_online:
                    probe.told = probe.told or now
                elif probe.closed:
                    probe.gone = probe.gone or now
                else:
                    self._false += 1
            elif not is_online:
                self._false += self._crowd[name].is_open

    async def _look(self) -> None:
        with contextlib.closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=5)) as connection:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                if waiting := [name for name, probe in self._probes.items() if not probe.stored]:
                    marks = ", ".join("?" * len(waiting))
                    query = f"SELECT id FROM users WHERE isOnline AND id IN ({marks})"
                    found = connection.execute(query, waiting).fetchall()
                    now = time.monotonic()
                    for (name,) in found:
                        self._probes[name].stored = now

    def _seen(self, lost: int) -> Seen:
        probes = self._probes.values()
        return Seen(
            told=_ms(probe.told - probe.due for probe in probes if probe.told),
            stored=_ms(probe.stored - probe.due for probe in probes if probe.stored),
            gone=_ms(probe.gone - probe.closed for probe in probes if probe.gone),
            unseen=sum(not (probe.told and probe.stored and probe.gone) for probe in probes),
            lost=lost,
            false=self._false + self._false_rows(),
        )

    def _false_rows(self) -> int:
        """How many of the crowd the database shows offline."""
        with contextlib.closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=5)) as connection:
            online = {str(name) for (name,) in connection.execute("SELECT id FROM users WHERE isOnline")}
        return sum(visitor.is_open and name not in online for name, visitor in self._crowd.items())


def _watch(visitor: Visitor, users: list[str]) -> None:
    visitor.send("42" + json.dumps(["presence:watch", {"users": users}]))


def _ms(delays_s: Iterable[float]) -> list[float]:
    return sorted(round(delay_s * 1000, 1) for delay_s in delays_s)


async def main(port: int, database: str, clients: int, seconds: float) -> None:
    """Come, wait for the word, measure."""
    raise_file_limit()
    honest = Honest(port, database)
    await honest.gather(clients)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    sys.stdout.write(json.dumps(asdict(await honest.measure(seconds))) + "\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
