"""P1 and P2 under load, from a process of its own: how long until a watcher knows, and the database.

python -m e2e.prober PORT ADDRESS SECONDS

Users connect at a fixed rate, whatever became of those before, and each is measured from when it was to connect: what
the server makes wait is in the figure, and cannot hide by slowing the measurement down. Whoever is known goes without a
word. Prints one JSON object.
"""

import asyncio
import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from pymongo import MongoClient

from e2e.crowd import visit

CONNECTS_PER_S = 20
LOOK_EVERY_S = 0.005
"""How often the database is asked: so much too long a figure may be."""

LAST_WORD_S = 5.0
"""So long after its connect, or its close, a user of whom that is not known is given up."""


@dataclass
class Prober:
    """What one run has seen. Times are of this process's monotonic clock.

    Attributes:
        due: of each user, when it was to connect; ``gone``: when it closed its connection.
        told: when a watcher was told; ``stored``: when the database had it.
        gone_told, gone_stored: the same of its end.
    """

    port: int
    address: str
    due: dict[str, float] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    stored: dict[str, float] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    gone_told: dict[str, float] = field(default_factory=dict)
    gone_stored: dict[str, float] = field(default_factory=dict)

    async def run(self, seconds: float) -> dict[str, list[float]]:
        """Probe for so long; return the delays in milliseconds, sorted."""
        watcher = await visit(self.port, "probe-watcher", self._note_told)
        names = [f"probe-{number}" for number in range(round(seconds * CONNECTS_PER_S))]
        for start in range(0, len(names), 1000):
            watcher.send("42" + json.dumps(["presence:watch", {"users": names[start : start + 1000]}]))
        await asyncio.sleep(0.5)
        looking = asyncio.create_task(self._look())
        began = time.monotonic()
        visits = []
        for number, name in enumerate(names):
            self.due[name] = began + number / CONNECTS_PER_S
            await asyncio.sleep(self.due[name] - time.monotonic())
            visits.append(asyncio.create_task(self._visit(name)))
        await asyncio.gather(*visits)
        looking.cancel()
        watcher.leave()
        return {
            "told": _delays(self.due, self.told),
            "stored": _delays(self.due, self.stored),
            "goneTold": _delays(self.gone, self.gone_told),
            "goneStored": _delays(self.gone, self.gone_stored),
            "lost": self._lost(),
        }

    async def _visit(self, name: str) -> None:
        visitor = await visit(self.port, name)
        await _wait_for(name, self.told, self.stored)
        self.gone[name] = time.monotonic()
        visitor.vanish()
        await _wait_for(name, self.gone_told, self.gone_stored)

    def _note_told(self, event_json: bytes) -> None:
        now = time.monotonic()
        event, payload = msgspec.json.decode(event_json)
        for change in payload["changes"] if event == "presence:diff" else ():
            user = change["userId"]
            if change["isOnline"]:
                self.told.setdefault(user, now)
            elif user in self.gone:
                self.gone_told.setdefault(user, now)

    async def _look(self) -> None:
        with online_among(self.address) as ask:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                coming = {name for name in self.due if name not in self.stored}
                going = {name for name in self.gone if name not in self.gone_stored}
                if coming or going:
                    online = ask([*coming, *going])
                    now = time.monotonic()
                    self.stored |= dict.fromkeys(coming & online, now)
                    self.gone_stored |= dict.fromkeys(going - online, now)

    def _lost(self) -> list[float]:
        """When, in seconds, users came whose coming or going the watcher or the database never knew."""
        begun = min(self.due.values())
        seen = (self.told, self.stored, self.gone_told, self.gone_stored)
        return [round(at - begun, 1) for name, at in self.due.items() if not all(name in each for each in seen)]


async def _wait_for(name: str, *seen: dict[str, float]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORD_S):
            while not all(name in each for each in seen):  # noqa: ASYNC110  # two sources, one of them a database
                await asyncio.sleep(LOOK_EVERY_S)


def _delays(since: dict[str, float], seen: dict[str, float]) -> list[float]:
    return sorted(round((at - since[name]) * 1000, 1) for name, at in seen.items())


@contextlib.contextmanager
def online_among(address: str) -> Iterator[Callable[[Sequence[str]], set[str]]]:
    """Open the database of an address past herenow; gives a function that says who of some users is online there."""
    if address.startswith("mongodb:"):
        client: MongoClient[dict[str, Any]] = MongoClient(address)
        with client:
            users = client.get_default_database()["users"]

            def find(names: Sequence[str]) -> set[str]:
                return {user["_id"] for user in users.find({"_id": {"$in": names}, "isOnline": True}, {"_id": 1})}

            yield find
        return
    path = address.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:

        def select(names: Sequence[str]) -> set[str]:
            marks = ", ".join("?" * len(names))
            query = f"SELECT id FROM users WHERE isOnline AND id IN ({marks})"
            return {str(name) for (name,) in connection.execute(query, names)}

        yield select


if __name__ == "__main__":
    port, address, seconds = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(Prober(int(port), address).run(float(seconds)))) + "\n")
