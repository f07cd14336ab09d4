"""A clock that stands still while its process does: by it, nobody is late who could not be heard.

A process that is stopped, swapped out, or kept from its event loop by a slow disk reads nothing meanwhile: what its
clients sent waits in the kernel, and whoever came back waits in the listen queue. By the system's clock all of them
would be judged before they are heard. So every time that somebody else is waited for is counted on this clock:

* While it is asked to, it is *wound* every ``TICK_S``, by a timer of the event loop.
* Who reads it later than ``LATE_S`` after that, reads when it was last read: it stands.
* The next winding takes up there. So all deadlines, of all parts, move by what the process missed, and what waits in
  the kernel is read while they still run.

A loop that is late by less than that keeps the time: the promises have room for so much (``DISPATCH_BUDGET_S``).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

TICK_S: Final = 0.1
"""Between two windings."""

LATE_S: Final = 0.25
"""Without a winding for so long, the process was somewhere else."""

_NEVER: Final = float("inf")


class Steady:
    """The clock. Its time is in milliseconds from anywhere, and never goes back.

    Until :meth:`begin` it is the system's own, and after the last :meth:`end`: then nobody is waited for.

    Args:
        read_s: the system's clock, in seconds; by default that of the event loop.
    """

    def __init__(self, read_s: Callable[[], float] | None = None) -> None:
        self._given = read_s
        self._read_s = read_s or monotonic
        self._lost_ms = 0.0
        self._latest_ms = -_NEVER
        self._stands_at_ms = _NEVER
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def now_ms(self) -> float:
        """The time."""
        now_ms = self._read_s() * 1000 - self._lost_ms
        if self._latest_ms <= now_ms <= self._stands_at_ms:
            self._latest_ms = now_ms
        return self._latest_ms

    def wind(self) -> None:
        """Let it go for ``LATE_S`` from now; if it stood, from where it did."""
        now_ms = self._read_s() * 1000 - self._lost_ms
        if now_ms > self._stands_at_ms:
            self._lost_ms += now_ms - self._latest_ms
            now_ms = self._latest_ms
        self._latest_ms = max(now_ms, self._latest_ms)  # what was lost is rounded
        self._stands_at_ms = now_ms + LATE_S * 1000

    def begin(self) -> None:
        """Be wound, in the running event loop, until :meth:`end` was called as often as this."""
        self._users += 1
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # a loop may end without a word; what it had to do is nobody's any more
            self._loop, self._timer, self._users, self._stands_at_ms = loop, None, 1, _NEVER
            self._read_s, self._latest_ms = self._given or loop.time, -_NEVER
        if self._timer is None:
            self._tick()

    def end(self) -> None:
        """Take one :meth:`begin` back."""
        self._users -= 1
        if self._users <= 0 and self._timer is not None:
            self._timer.cancel()
            self._loop, self._timer, self._users, self._stands_at_ms = None, None, 0, _NEVER
            self._read_s = self._given or monotonic

    def _tick(self) -> None:
        if self._loop is None:
            raise AssertionError("the clock is wound, though nobody asks for it")
        self.wind()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> "Timer":
        """Order a call for when this clock has gone on by ``delay_s`` seconds. In the event loop."""
        return Timer(self, self.now_ms() + delay_s * 1000, callback)

    @asynccontextmanager
    async def timeout(self, delay_s: float) -> AsyncIterator[None]:
        """Cancel what is inside once this clock has gone on by ``delay_s`` seconds, as :func:`asyncio.timeout` does.

        Raises:
            TimeoutError: it did.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            timer = self.call_later(delay_s, lambda: limit.reschedule(loop.time()))
            try:
                yield
            finally:
                timer.cancel()


class Timer:
    """A call that :meth:`Steady.call_later` has ordered."""

    __slots__ = ("_callback", "_clock", "_due_ms", "_handle")

    def __init__(self, clock: Steady, due_ms: float, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._due_ms = due_ms
        self._callback: Callable[[], object] | None = callback
        clock.begin()
        self._handle = self._wait()

    def cancel(self) -> None:
        """Take it back; nothing if it was made or taken back already."""
        if self._callback is not None:
            self._callback = None
            self._handle.cancel()
            self._clock.end()

    def _wait(self) -> asyncio.TimerHandle:
        wait_s = max(0.001, (self._due_ms - self._clock.now_ms()) / 1000)
        return asyncio.get_running_loop().call_later(wait_s, self._ring)

    def _ring(self) -> None:
        if self._clock.now_ms() < self._due_ms:  # the clock has stood meanwhile
            self._handle = self._wait()
            return
        callback = self._callback
        self.cancel()
        if callback is not None:
            callback()
