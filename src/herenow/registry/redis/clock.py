"""The clock of a cluster: that of Redis, carried on between two looks by this machine's steady one.

No clock of a node takes part, and so it does not matter what time it shows. The time of the cluster is that of Redis
and a *skew* beside it. That is set where the clock of Redis was set, or another Redis has taken over: so time goes on
evenly.
"""

import asyncio
from collections.abc import Callable

from herenow.registry.clock import OrderedCall
from herenow.registry.commands import Now
from herenow.times import steady_s, unix_us

JUMP_US = 1_000_000
"""By more than this the clock of Redis was set; by less, it is only being trimmed."""


class ClusterClock:
    """The time of the cluster, once it was looked at.

    Args:
        steady: seconds that only grow.
        wall_us: the clock of this machine: only to notice that it was asleep.
    """

    def __init__(self, steady: Callable[[], float] = steady_s, wall_us: Callable[[], int] = unix_us) -> None:
        self._loop = asyncio.get_running_loop()
        self._steady = steady
        self._wall_us = wall_us
        self._offset_us: int | None = None
        self._wall_offset_us = 0
        self._latest_us = 0

    def look(self, time_us: int, *, sent_s: float, heard_s: float) -> int:
        """Take in what time Redis has told.

        Args:
            time_us: the time of the cluster.
            sent_s: when Redis was asked, by the steady clock of this machine.
            heard_s: when the answer was there.

        Returns:
            By how much the clock of Redis was set (µs), as far as this machine can tell; 0: it goes evenly.
        """
        middle_us = round((sent_s + heard_s) * 500_000)
        offset_us, known_us = time_us - middle_us, self._offset_us
        wall_offset_us = self._wall_us() - round(heard_s * 1_000_000)
        slept_us, self._wall_offset_us = wall_offset_us - self._wall_offset_us, wall_offset_us
        if known_us is None:
            self._offset_us = offset_us
            return 0
        off_us = offset_us - known_us
        if abs(off_us) > (heard_s - sent_s) * 500_000:
            self._offset_us = offset_us
        # A machine that sleeps has a steady clock that stands: it sees the others' jump, and its own wall clock too.
        was_set = abs(off_us) > JUMP_US and abs(off_us - slept_us) > JUMP_US
        return off_us if was_set else 0

    def now(self) -> Now:
        """Return the time of the cluster, on both clocks: here they are one."""
        if self._offset_us is None:
            raise AssertionError("the clock of the cluster was not looked at")
        time_us = round(self._steady() * 1_000_000) + self._offset_us
        if self._latest_us - JUMP_US < time_us < self._latest_us:
            time_us = self._latest_us
        self._latest_us = time_us
        return Now(time_us, time_us // 1000)

    def call_at(self, steady_ms: int, callback: Callable[[], None]) -> OrderedCall:
        """Order a call for when the clock has reached this."""
        return self._loop.call_later(max(0.0, (steady_ms - self.now().steady_ms) / 1000), callback)
