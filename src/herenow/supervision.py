"""What keeps all that runs for long alive: a task that fails is started again, and a timer that fails is noted.

Whatever raises, foreseen or not, the others go on, and so does it, after a pause that grows with each failure in a row.
Failures are counted by name, and what fails for the third time in a row is *ailing* until it has run well for a while:
``/readyz`` says so. Only a cancellation ends a task, or its own return.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from herenow.logs import get_logger
from herenow.sparing import Sparing, alike

log = get_logger("herenow.supervision")

OnFault = Callable[[str, Exception], None]
"""Told by a part that goes on by itself, as a timer does, of what it is and what it has met. Never raises."""

AILING_AFTER = 3
"""Failures in a row after which a part is shown as ailing."""

WELL_S = 10.0
"""A part that has not failed for so long runs well."""

PAUSE_S = 0.1
AGAIN_S = 0.2
"""After so long a task that has not ended is cancelled again."""

LONGEST_PAUSE_S = 5.0
"""Before a task is started again after its first failure; it doubles with each further one in a row, to the longest."""


def tell_loop(name: str, error: Exception) -> None:
    """Report a fault to the event loop's exception handler: what a part does that nobody supervises."""
    with contextlib.suppress(Exception):
        asyncio.get_running_loop().call_exception_handler({"message": f"{name} raised", "exception": error})


class _Record(msgspec.Struct):
    """How a part has done: its failures in a row, when the last was, and after how long without one it is well."""

    in_a_row: int
    failed_s: float
    well_s: float


class Supervisor:
    """Runs the long-lived tasks of one server.

    Args:
        count: told the name of what has failed, each time.
        clock: seconds that only grow.
        sleep: waits some seconds of that clock.
        jitter: a number from 0 to 1: how much of the second half of a pause to wait.
    """

    def __init__(
        self,
        count: Callable[[str], object],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._count = count
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._records: dict[str, _Record] = {}
        self._sparing = Sparing()

    def start(self, name: str, run: Callable[[], Awaitable[None]], *, well_s: float = WELL_S) -> "asyncio.Task[None]":
        """Run a task until it returns or is cancelled, again after each failure.

        Args:
            name: what it is called in the log and in the metric.
            run: begins it; what it was at when it failed, it must find again by itself.
            well_s: after so long without a failure it runs well: longer than from one of its steps to the next.
        """
        return asyncio.create_task(self._keep(name, run, well_s), name=f"herenow {name}")

    def failed(self, name: str, error: Exception, *, well_s: float = WELL_S) -> None:
        """Note a failure of something that goes on by itself. Never raises."""
        now_s = self._clock()
        record = self._records.setdefault(name, _Record(0, now_s, well_s))
        record.in_a_row = record.in_a_row + 1 if now_s - record.failed_s < well_s else 1
        record.failed_s, record.well_s = now_s, well_s
        with contextlib.suppress(Exception):
            self._count(name)
        event, of = "a part failed, and goes on", (name, alike(error))
        self._sparing.say(log.error, event, of=of, part=name, in_a_row=record.in_a_row, exc_info=error)

    def ailing(self) -> list[str]:
        """The names of those that fail again and again."""
        now_s = self._clock()
        return [
            name
            for name, record in self._records.items()
            if record.in_a_row >= AILING_AFTER and now_s - record.failed_s < record.well_s
        ]

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]], well_s: float) -> None:
        while True:
            try:
                await run()
            except Exception as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # a driver may make an error of its own of our end
                    raise asyncio.CancelledError from error
                self.failed(name, error, well_s=well_s)
                await self._sleep(self._pause_s(name))
            else:
                return

    def _pause_s(self, name: str) -> float:
        doublings = min(self._records[name].in_a_row - 1, 30)
        return min(LONGEST_PAUSE_S, PAUSE_S * float(2**doublings)) * (1 + self._jitter()) / 2


async def end(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Cancel tasks and wait for their end: again, where one was at something that took it for an error, and went on."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
