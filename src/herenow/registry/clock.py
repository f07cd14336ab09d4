"""Where a registry reads the time: nobody else's clock says when something happened."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from herenow.registry.commands import Now
from herenow.steady import Steady
from herenow.times import unix_us

LONGEST_WAIT_MS = 60_000
"""A registry looks at least this often while anything is pending, so that a wall clock set forward is noticed."""

AGAIN_MS = 1_000
"""After a fault in what falls due, it looks again so much later."""


class OrderedCall(Protocol):
    """A call that was ordered and can be cancelled."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Where the registry reads the time and orders to be woken. Tests turn one by hand."""

    def now(self) -> Now:
        """Return the time on both clocks."""
        ...

    def call_at(self, steady_ms: int, callback: Callable[[], None]) -> OrderedCall:
        """Order a call for when the steady clock has reached this."""
        ...


class Alarm:
    """One call that is ordered of a clock: the earliest that was asked for.

    One that comes too early finds nothing to do, and orders the next: cheaper than moving it each time.

    Args:
        clock: which wakes.
        ring: what is called.
    """

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._ordered: OrderedCall | None = None
        self._due_ms = 0

    def set(self, now: Now, wait_ms: int) -> None:
        """Ring after so many milliseconds at the latest, and within ``LONGEST_WAIT_MS`` whatever they are."""
        due_ms = now.steady_ms + min(wait_ms, LONGEST_WAIT_MS)
        if self._ordered is not None:
            if self._due_ms <= due_ms:
                return
            self._ordered.cancel()
        self._ordered = self._clock.call_at(due_ms, self._called)
        self._due_ms = due_ms

    def cancel(self) -> None:
        """Do not ring."""
        if self._ordered is not None:
            self._ordered.cancel()

    def _called(self) -> None:
        self._ordered = None
        self._ring()


class LoopClock:
    """The wall clock of the machine, and a steady clock.

    Args:
        steady: by which users have their grace; its owner has it wound. By default the system's.
    """

    def __init__(self, steady: Steady | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._steady = Steady(self._loop.time) if steady is None else steady

    def now(self) -> Now:
        return Now(unix_us(), int(self._steady.now_ms()))

    def call_at(self, steady_ms: int, callback: Callable[[], None]) -> OrderedCall:
        return self._loop.call_later(max(0.0, (steady_ms - self._steady.now_ms()) / 1000), callback)
