"""``python -m benchmarks.check``: see that a connect, a change and a delivery have not become dearer.

It counts steps, not seconds: the instructions of Python's interpreter that herenow's own code executes, the calls that
it makes into C, and the blocks of memory that a connection keeps. These do not depend on the machine or on what else
it does; they do on Python's version, so ``results/check.json`` has a record for each. More than ``MARGIN`` above the
record fails. ``--record`` writes a new one, where a cost is worth its price, or has fallen.

What C does inside a call, and what other packages do, is not counted: ``make bench`` is for that.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

import herenow
from benchmarks.inprocess import SETTLE_S, Client, Rig, TimelessLoop, rig

RECORD = Path(__file__).resolve().parent / "results" / "check.json"

MARGIN = 0.10

TIMES = 3
"""Counted so often, and the least taken: on a busy machine, what goes by real time may add a step here and there."""

CONNECTIONS = 50
"""How many of each are counted."""

OURS = str(Path(herenow.__file__).parent) + os.sep

Costs = dict[str, float]
"""By name of what was counted."""


class Counter:
    """Counts, while it is entered, what herenow's code executes in this thread."""

    def __init__(self) -> None:
        self.instructions = 0
        self.calls = 0
        self._is_ours: dict[CodeType, bool] = {}

    def __enter__(self) -> "Counter":
        gc.collect()
        gc.disable()
        self._before = sys.gettrace(), sys.getprofile()
        sys.setprofile(self._profile)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        trace, profile = self._before
        sys.settrace(trace)
        sys.setprofile(profile)
        gc.enable()

    def _ours(self, code: CodeType) -> bool:
        known = self._is_ours.get(code)
        if known is None:
            known = self._is_ours[code] = code.co_filename.startswith(OURS)
        return known

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not self._ours(frame.f_code):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        self.instructions += event == "opcode"
        return self._step

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        self.calls += event == "c_call" and self._ours(frame.f_code)


async def count(work: Callable[[], Awaitable[object]]) -> tuple[int, int]:
    """Return the instructions and the calls into C of some work."""
    with Counter() as counter:
        await work()
    return counter.instructions, counter.calls


async def connect(server: Rig, prefix: str) -> list[Client]:
    """Let users in."""
    clients = [Client(server, f"{prefix}{number}") for number in range(CONNECTIONS)]
    for client in clients:
        client.connect()
        await asyncio.sleep(SETTLE_S)
    return clients


async def costs() -> Costs:
    """Count everything once."""
    found: Costs = {}
    async with rig() as server:
        await connect(server, "first")  # what is loaded and cached at the first time is not counted
        gc.collect()
        blocks = sys.getallocatedblocks()
        clients = await connect(server, "kept")
        gc.collect()
        found["blocks kept per connect"] = (sys.getallocatedblocks() - blocks) / CONNECTIONS
        counted: list[Client] = []

        async def work() -> None:
            counted.extend(await connect(server, "counted"))

        _note(found, "connect", await count(work), CONNECTIONS)

        async def watch() -> None:
            for client in clients:
                client.send(b'421["presence:watch",{"users":["counted0"]}]')
            await asyncio.sleep(SETTLE_S)

        _note(found, "watch", await count(watch), CONNECTIONS)

        async def unwatched() -> None:
            await _change(counted[1])

        async def watched() -> None:
            await _change(counted[0])

        for work_of_one in (unwatched, watched):
            await work_of_one()  # the first claim of a user is another step than the next ones
        alone, told = await count(unwatched), await count(watched)
        _note(found, "change", alone, CHANGES)
        _note(found, "delivery", (told[0] - alone[0], told[1] - alone[1]), CHANGES * CONNECTIONS)
        _check(clients, counted)

        async def lose() -> None:
            for client in counted:
                client.lose()
                await asyncio.sleep(0)

        _note(found, "disconnect", await count(lose), CONNECTIONS)
        for client in clients:
            client.lose()
    return found


CHANGES = 20


async def _change(client: Client) -> None:
    for turn in range(CHANGES):
        client.send(b'42["presence:claim",{"availability":"%s"}]' % (b"busy" if turn % 2 else b"away"))
        await asyncio.sleep(SETTLE_S)


def _check(watching: Sequence[Client], others: Sequence[Client]) -> None:
    """See that what was counted was done."""
    for client in watching:
        told = client.transport.received().count(b'42["presence:diff"')
        assert told == 2 * CHANGES, f"a watcher was told of {told} changes instead of {2 * CHANGES}"
    for client in others:
        assert b'42["presence:ready"' in client.transport.received()


def _note(found: Costs, what: str, counted: tuple[int, int], times: int) -> None:
    instructions, calls = counted
    found[f"instructions per {what}"] = instructions / times
    found[f"calls into C per {what}"] = calls / times


def version() -> str:
    """The Python on which a record counts."""
    return f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"


def compare(found: Costs, record: Costs) -> tuple[Table, bool]:
    """Return a table of what was found beside what was recorded, and whether nothing is dearer."""
    table = Table(title=f"Steps on {version()}; more than {MARGIN:.0%} above the record fails", title_justify="left")
    for heading in ("what", "recorded", "now", "change", ""):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    good = True
    for what, now in found.items():
        before = record.get(what)
        if before is None:
            table.add_row(what, "-", f"{now:,.1f}", "", "new: record it", style="yellow")
            continue
        # Of a few blocks or calls one more is not a tenth more.
        dearer = now > before * (1 + MARGIN) and now - before > 1
        good = good and not dearer
        change = f"{now / before - 1:+.1%}" if before else "-"
        word, colour = ("DEARER", "red") if dearer else ("ok", None)
        table.add_row(what, f"{before:,.1f}", f"{now:,.1f}", change, word, style=colour)
    return table, good


def main(arguments: Sequence[str]) -> int:
    """Count; compare or record. Returns 0 (as recorded or cheaper), 1 (dearer), 2 (no record for this Python)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write what is counted into results/check.json")
    settings = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets decides about a step here and there
        os.execve(
            sys.executable,
            [sys.executable, "-m", "benchmarks.check", *arguments],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    counted: list[Costs] = []
    for _ in range(TIMES):
        with asyncio.Runner(loop_factory=TimelessLoop) as runner:
            counted.append(runner.run(costs()))
    found = {what: min(each[what] for each in counted) for what in counted[0]}
    records: dict[str, Costs] = json.loads(RECORD.read_bytes()) if RECORD.exists() else {}
    console = Console(highlight=False)
    if settings.record:
        records[version()] = {what: round(cost, 2) for what, cost in found.items()}
        RECORD.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    if version() not in records:
        console.print(f"there is no record for {version()}: --record makes one")
        return 2
    table, good = compare(found, records[version()])
    console.print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
