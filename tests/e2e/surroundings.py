"""Half an hour in which all that surrounds a server fails, at random, one after the other: part of ``make soak``.

python -m e2e.surroundings [--seconds 1800] [--users 500] [--seed 1] [--only sqlite|mongodb]

Half of the time on SQLite, half on MongoDB, clients come, reload, leave and die, through a network that fails too.
Meanwhile the log, the disk, the database, the clock, the network and the server's processor fail. A watcher is held
against the truth every half second, through every fault, and the database whenever it can know it. Once a half, the
server is killed with -9 and started again. Writes its part of ``docs/reliability.md``; exits 1 on any fault of ours.
"""

import argparse
import asyncio
import contextlib
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import mongod
from e2e.faulty import (
    CHANGES_KEPT,
    EVERYWHERE,
    LOG_GOES,
    ON_MONGODB,
    ON_SQLITE,
    Fault,
    FaultyMongo,
    FaultySqlite,
    Scene,
    small_disk,
)
from e2e.relay import Relay
from e2e.storm import SLACK_S, Observer, Storm, faults
from e2e.weather import OFFLINE_WITHIN_S, RESTART_GRACE_S
from support import ROOT, http_client, until

PAGE = ROOT / "docs/reliability.md"
BEGIN = "<!-- from here on: surroundings.py -->"

KILLED = "server is killed with -9, and started again"

USER = re.compile(r"user-\d{4}")
"""Whom a false sentence is about."""

MORE_MEMORY = 1.10
"""So much of what it was after the first quarter may the server's memory be in the last one."""


@dataclass
class Played:
    """What one kind of fault came to, over a run.

    Attributes:
        times: how often it was played, and ``seconds`` for how long in all.
        checks: how often the watcher was held against the truth meanwhile.
        back_after_s: the longest time after its end until the database agreed.
    """

    times: int = 0
    seconds: float = 0.0
    checks: int = 0
    back_after_s: float = 0.0
    false: list[str] = field(default_factory=list)


@dataclass
class Run:
    """What one database's half came to. Memory in kB."""

    database: str
    users: int
    seconds: float
    played: dict[str, Played] = field(default_factory=dict)
    checks: int = 0
    connects: int = 0
    deaths: int = 0
    memory: list[int] = field(default_factory=list)
    dropped: int = 0
    failures: float = 0.0
    false: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """All that was false."""
        return self.false + [sentence for played in self.played.values() for sentence in played.false]

    @property
    def memory_after(self) -> tuple[float, float]:
        """The median after the first quarter of the samples, and that of the last quarter, in MB."""
        quarter = max(1, len(self.memory) // 4)
        return (
            statistics.median(self.memory[quarter : 2 * quarter] or self.memory) / 1024,
            statistics.median(self.memory[-quarter:]) / 1024,
        )


class Judge:
    """Holds the watcher and the database against the truth, as far as they can know it.

    Attributes:
        fault: what is played now.
        gone_from_s: until then, by the monotonic clock, nobody can know who has gone; ``store_from_s``: nor what of it
            is in the database.
    """

    def __init__(self, scene: Scene, storm: Storm, run: Run) -> None:
        self.server = scene.server
        self.storm = storm
        self._run = run
        self.observer = Observer(scene.server.url, "observer")
        self.fault: Fault | None = None
        self.gone_from_s = self.store_from_s = self.watcher_from_s = 0.0
        self._began_s = time.monotonic()

    async def run(self) -> None:
        """Look every half second."""
        while True:
            await asyncio.sleep(0.5)
            if time.monotonic() < self.watcher_from_s:
                continue
            await self._note(self.watcher_says())
            if time.monotonic() > self.store_from_s:
                await self._note(await self.store_says())

    def watcher_says(self) -> list[str]:
        """What is false in the watcher's view."""
        assert self.observer.client is not None
        if self.observer.client.closed.is_set():
            return ["a watcher: it lost its connection"]
        self._run.checks += 1
        if self.fault is not None:
            self._run.played[self.fault.name].checks += 1
        return self._may_be_said(faults(self.storm, self.observer.online(), "a watcher"), self.gone_from_s)

    async def store_says(self) -> list[str]:
        """What is false in the database."""
        try:
            online = await asyncio.to_thread(self.server.online_rows)
        except Exception as error:  # a driver's own: the database is not back yet
            return [f"the database: {error}"]
        wrong = faults(self.storm, online, "the database")
        return self._may_be_said(wrong, max(self.gone_from_s, self.store_from_s))

    def _may_be_said(self, wrong: list[str], gone_from_s: float) -> list[str]:
        knows = time.monotonic() > gone_from_s
        return [sentence for sentence in wrong if knows or "is gone past" not in sentence]

    async def _note(self, wrong: list[str]) -> None:
        if not wrong:
            return
        during, false = "nothing", self._run.false
        if self.fault is not None:
            during, false = self.fault.name, self._run.played[self.fault.name].false
        at_s = time.monotonic() - self._began_s
        said = [f"{at_s:.1f} s: {sentence} (during: {during}){self._known(sentence)}" for sentence in wrong]
        for place, sentence in enumerate(wrong[:3]):
            said[place] += await self._explained(sentence)
        false.extend(said)

    def _known(self, sentence: str) -> str:
        """What the storm knows of the user whom it is about: it tells whose fault a false word is."""
        named = USER.search(sentence)
        return "" if named is None else f"; the storm: {self.storm.known_of(named[0])}"

    async def _explained(self, sentence: str) -> str:
        named = USER.search(sentence)
        if named is None:
            return ""
        try:
            async with http_client(base_url=self.server.url, timeout=1) as http:
                return f"; the server: {(await http.get(f'/v1/admin/users/{named[0]}/explain')).text}"
        except httpx.HTTPError as error:
            return f"; the server: {error!r}"


async def play(run: Run, scene: Scene, known: tuple[Fault, ...], seed: int) -> None:
    """Play one half: the storm, and beside it one fault after the other."""
    chance = random.Random(seed)
    server = scene.server
    storm = Storm(f"http://127.0.0.1:{scene.relay.port}", users=run.users, seed=seed, offline_within_s=OFFLINE_WITHIN_S)
    scene.names = [user.name for user in storm.users]
    run.played |= {fault.name: Played() for fault in (*known, LOG_GOES)} | {KILLED: Played()}
    judge = Judge(scene, storm, run)
    await judge.observer.connect()
    playing = asyncio.create_task(storm.run(run.seconds))
    judging = asyncio.create_task(judge.run())
    began_s = time.monotonic()
    await asyncio.sleep(5)
    hat: list[Fault] = []
    while time.monotonic() - began_s < run.seconds - 45:
        if not run.played[KILLED].times and time.monotonic() - began_s > run.seconds * 0.2:
            await _play_one(judge, LOG_GOES, scene, run, chance)
            run.dropped += server.log_reader.dropped
            await _kill(judge, storm, scene, run)
        hat = hat or chance.sample(known, len(known))  # each once, in another order every time
        await _play_one(judge, hat.pop(), scene, run, chance)
        if run.played[KILLED].times:
            run.memory.append(server.memory_kb())
        await asyncio.sleep(chance.uniform(0.5, 3))
    storm.end()
    await playing
    judging.cancel()
    await asyncio.gather(judging, return_exceptions=True)
    await _agree(judge, storm, run)
    run.connects, run.deaths = storm.connects, storm.deaths
    run.dropped += server.log_reader.dropped
    await _end(server, run)
    await storm.stop()


async def _play_one(judge: Judge, fault: Fault, scene: Scene, run: Run, chance: random.Random) -> None:
    """Let one fault last, then see how long the database takes to agree."""
    seconds, played = chance.uniform(*fault.seconds), run.played[fault.name]
    judge.fault = fault
    if fault.hides_gone:
        judge.gone_from_s = float("inf")
    if fault.hides_store:
        judge.store_from_s = float("inf")
    if fault.hides_new:
        judge.storm.stands_from = time.monotonic()
    async with fault.play(scene, chance):
        await asyncio.sleep(seconds)
    ended_s = time.monotonic()
    if fault.hides_new:
        asyncio.get_running_loop().call_later(SLACK_S, setattr, judge.storm, "stands_from", float("inf"))
    if fault.hides_gone:
        judge.gone_from_s = ended_s + OFFLINE_WITHIN_S + SLACK_S
    while wrong := await judge.store_says():
        await asyncio.sleep(0.05)
        if time.monotonic() - ended_s > fault.heals_s + SLACK_S:
            played.false += [f"{sentence} ({fault.heals_s:g} s after: {fault.name})" for sentence in wrong]
            break
    judge.fault = None
    judge.store_from_s = time.monotonic() + SLACK_S if fault.hides_store else 0.0
    played.times += 1
    played.seconds += seconds
    played.back_after_s = max(played.back_after_s, time.monotonic() - ended_s)


async def _kill(judge: Judge, storm: Storm, scene: Scene, run: Run) -> None:
    """Kill the server, and start it again: once the grace is over, all must agree."""
    played, began_s = run.played[KILLED], time.monotonic()
    judge.watcher_from_s = judge.store_from_s = judge.gone_from_s = float("inf")
    scene.server.kill()
    storm.server_lost()
    await asyncio.to_thread(scene.server.start)
    back_s = time.monotonic()
    await judge.observer.connect()
    judge.watcher_from_s = (
        time.monotonic()
    )  # from here on nobody may flicker; who has not come back ends with the grace
    judge.gone_from_s = judge.store_from_s = back_s + RESTART_GRACE_S + SLACK_S
    await asyncio.sleep(RESTART_GRACE_S + SLACK_S + 1)
    played.times += 1
    played.seconds += back_s - began_s
    played.back_after_s = RESTART_GRACE_S


async def _agree(judge: Judge, storm: Storm, run: Run) -> None:
    """The storm is over: the truth, the watcher and the database are one."""
    await asyncio.sleep(OFFLINE_WITHIN_S + SLACK_S)
    await storm.settle()
    truth = {user.name for user in storm.users if user.open}

    def stored() -> set[str]:
        return {user for user in judge.server.online_rows() if user.startswith("user-")}

    try:
        await until(lambda: stored() == judge.observer.online() == truth, 10)
    except TimeoutError:
        for who, online in (("a watcher", judge.observer.online()), ("the database", stored())):
            run.false += [f"at the end, {who}: {name} is wrong" for name in sorted(online ^ truth)]


async def _end(server: Any, run: Run) -> None:
    """Every task lives, and the server says that it is well."""
    async with http_client(base_url=server.url) as http:
        ready = await http.get("/readyz")
        metrics = (await http.get("/metrics")).text
    if ready.status_code != 200:
        run.false.append(f"at the end, /readyz: {ready.text}")
    for line in metrics.splitlines():
        if line.startswith("herenow_task_failures_total{"):
            run.failures += float(line.rpartition(" ")[2])
    before, after = run.memory_after
    if after > before * MORE_MEMORY:
        run.false.append(f"at the end, memory: {after:.0f} MB, after {before:.0f} MB")


@contextlib.contextmanager
def servers(only: str | None, directory: Path) -> Iterator[list[tuple[str, Any, tuple[Fault, ...]]]]:
    """The servers of the halves, each with the faults that are played on it."""
    with contextlib.ExitStack() as stack:
        halves: list[tuple[str, Any, tuple[Fault, ...]]] = []
        if only != "mongodb":
            disk = stack.enter_context(small_disk(directory / "disk", 48))
            server: Any = FaultySqlite(disk, restart_grace_s=RESTART_GRACE_S)
            halves.append(("SQLite", server, EVERYWHERE + ON_SQLITE))
        if only != "sqlite":
            running = stack.enter_context(mongod.running(replica_set=True))
            server = FaultyMongo(directory, running, restart_grace_s=RESTART_GRACE_S)
            halves.append(("MongoDB", server, EVERYWHERE + ON_MONGODB))
        yield halves


async def soak(name: str, server: Any, known: tuple[Fault, ...], *, users: int, seconds: float, seed: int) -> Run:
    """One database's half."""
    run = Run(name, users, seconds)
    await asyncio.to_thread(server.start)
    relay = Relay(server.port)
    await relay.start()
    try:
        await play(run, Scene(server, relay, server.database.parent, []), known, seed)
    finally:
        await relay.stop()
        server.stop()
    return run


def report(runs: list[Run], seed: int) -> list[str]:
    """Its part of the page."""
    rows = [
        f"| {run.database} | {name} | {played.times} | {played.seconds:.0f} | {played.checks} | "
        f"{played.back_after_s:.1f} | {len(played.false)} |"
        for run in runs
        for name, played in run.played.items()
    ]
    totals = [
        f"| {run.database} | {run.users} | {run.seconds:g} | {run.connects:,} | {run.deaths:,} | {run.checks:,} | "
        f"{run.failures:g} | {run.dropped} | {run.memory_after[0]:.0f} → {run.memory_after[1]:.0f} | "
        f"{len(run.faults)} |"
        for run in runs
    ]
    return [
        "## When all around it fails",
        "",
        f"Written by `python -m e2e.surroundings --seed {seed}` in `tests/` (a part of `make soak`), "
        f"{time.strftime('%Y-%m-%d')}:",
        "clients come, reload, leave and die through a relay, while one after the other fails what surrounds the",
        "server; what each fault does, and for how long, stands in",
        "[operations.md](operations.md#when-something-around-it-fails).",
        "*Agreed after* is the longest time, in seconds, after a fault's end until the database said the",
        "truth. *Failures* are those of long-lived tasks, each of which went on; *dropped* is how often the log said",
        "that lines were dropped; memory is the server's in MB, the median of",
        "the second and of the last quarter of the samples, while it keeps",
        f"{CHANGES_KEPT:,} changes for a `since` and not 65,536, which would still be filling up.",
        "",
        "| | clients | seconds | connects | deaths | checks | failures | dropped | memory | false |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *totals,
        "",
        *(f"{run.database}: {sentence}.\n" for run in runs for sentence in run.false[:10]),
        "| | what failed: the … | times | seconds | checks meanwhile | agreed after | false |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def section_of(page: str) -> str:
    """What stands on the page of an earlier run, with the marks around it; nothing, if there was none."""
    _, begin, rest = page.partition(BEGIN)
    return f"\n{begin}{rest}" if begin else ""


def write(section: list[str]) -> None:
    """Put it at the end of the page, in the place of what stood there."""
    head = PAGE.read_text().partition(BEGIN)[0]
    PAGE.write_text(f"{head.rstrip()}\n\n{BEGIN}\n" + "\n".join(section))


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("sqlite", "mongodb"))
    parser.add_argument("--no-page", action="store_true", help="print the report, and leave the page alone")
    options = parser.parse_args()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as name, servers(options.only, Path(name)) as halves:
        for database, server, known in halves:
            seconds = options.seconds / len(halves)
            runs.append(
                asyncio.run(soak(database, server, known, users=options.users, seconds=seconds, seed=options.seed))
            )
    section = report(runs, options.seed)
    if not options.no_page:
        write(section)
    wrong = [sentence for run in runs for sentence in run.faults]
    sys.stdout.write("\n".join([*section, *wrong[:50], ""]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
