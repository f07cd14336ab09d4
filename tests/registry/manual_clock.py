"""A clock that a test turns by hand: no test of the registry sleeps."""

import heapq
from collections.abc import Callable

from herenow.registry.commands import Now

START_US = 1_767_225_600_000_000  # 2026-01-01
START_MS = START_US // 1000


class ManualTimer:
    """An ordered call. It runs once the clock is turned that far."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class ManualClock:
    """Both clocks of the registry, and the calls that were ordered from it."""

    def __init__(self) -> None:
        self._unix_us = START_US
        self._steady_ms = 0
        self._ordered = 0
        self._timers: list[tuple[int, int, ManualTimer]] = []

    @property
    def unix_ms(self) -> int:
        return self._unix_us // 1000

    @property
    def timers(self) -> int:
        """How many calls are waiting."""
        return sum(not timer.is_cancelled for _, _, timer in self._timers)

    def now(self) -> Now:
        return Now(self._unix_us, self._steady_ms)

    def call_at(self, steady_ms: int, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(callback)
        self._ordered += 1
        heapq.heappush(self._timers, (steady_ms, self._ordered, timer))
        return timer

    def set_wall_clock(self, by_ms: int) -> None:
        """Set the wall clock forward or back. The steady clock takes no notice."""
        self._unix_us += by_ms * 1000

    def stall(self, ms: int) -> None:
        """Let time go by without any call being made, as when the event loop is held up."""
        self._unix_us += ms * 1000
        self._steady_ms += ms

    def until_next(self) -> int | None:
        """In how many milliseconds the next call is; ``None``: none is waiting."""
        dues = [due_ms for due_ms, _, timer in self._timers if not timer.is_cancelled]
        return max(0, min(dues) - self._steady_ms) if dues else None

    def advance(self, ms: int) -> None:
        """Turn both clocks, and make each call at its time."""
        end_ms = self._steady_ms + ms
        while self._timers and self._timers[0][0] <= end_ms:
            due_ms, _, timer = heapq.heappop(self._timers)
            self.stall(max(0, due_ms - self._steady_ms))
            if not timer.is_cancelled:
                timer.callback()
        self.stall(end_ms - self._steady_ms)
