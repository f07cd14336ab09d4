"""P1 under load, from a process of its own: how long after a connect a watcher knows of it, and the database.

python -m e2e.prober PORT DATABASE SECONDS

Users connect at a fixed rate, whatever became of those before, and each is measured from when it was to connect: what
the server makes wait is in the figure, and cannot hide by slowing the measurement down. Prints one JSON object.
"""

import asyncio
import contextlib
import json
import sqlite3
import sys
import time
from dataclasses import dataclass, field

import msgspec

from e2e.crowd import visit

CONNECTS_PER_S = 20
LOOK_EVERY_S = 0.005
"""How often the database is asked: so much too long a figure may be."""

LAST_WORD_S = 5.0
"""So long after its connect a user who is not known is given up."""


@dataclass
class Prober:
    """What one run has seen. Times are of this process's monotonic clock.

    Attributes:
        due: of each user, when it was to connect.
        told: when a watcher was told; ``stored``: when the database had it.
    """

    port: int
    database: str
    due: dict[str, float] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    stored: dict[str, float] = field(default_factory=dict)

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
        return {"told": self._delays(self.told), "stored": self._delays(self.stored), "lost": self._lost()}

    async def _visit(self, name: str) -> None:
        visitor = await visit(self.port, name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                while not (name in self.told and name in self.stored):  # noqa: ASYNC110  # two sources, one of them a file
                    await asyncio.sleep(LOOK_EVERY_S)
        visitor.leave()

    def _note_told(self, event_json: bytes) -> None:
        now = time.monotonic()
        event, payload = msgspec.json.decode(event_json)
        for change in payload["changes"] if event == "presence:diff" else ():
            if change["isOnline"]:
                self.told.setdefault(change["userId"], now)

    async def _look(self) -> None:
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=5)) as connection:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                if waiting := [name for name in self.due if name not in self.stored]:
                    marks = ", ".join("?" * len(waiting))
                    query = f"SELECT id FROM users WHERE isOnline AND id IN ({marks})"
                    found = connection.execute(query, waiting).fetchall()
                    now = time.monotonic()
                    self.stored |= {str(name): now for (name,) in found}

    def _delays(self, seen: dict[str, float]) -> list[float]:
        return sorted(round((at - self.due[name]) * 1000, 1) for name, at in seen.items())

    def _lost(self) -> list[float]:
        """When, in seconds, users came whom the watcher or the database never knew."""
        begun = min(self.due.values())
        return [
            round(at - begun, 1) for name, at in self.due.items() if not (name in self.told and name in self.stored)
        ]


if __name__ == "__main__":
    port, database, seconds = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(Prober(int(port), database).run(float(seconds)))) + "\n")
