"""The wall clock as a registry takes it, however the machine's jumps.

It never runs backwards: where it was set back, it stands still until it has caught up. Set back by more than a second,
it is believed: what was wrong was the time before, and nothing that is stamped freezes for the length of the jump.
"""

from herenow.registry.commands import Now
from herenow.registry.state import AHEAD_MS

CLOCK_REPAIR_US = AHEAD_MS * 1000
"""A wall clock set back by more than this was wrong before, and is believed now. By less, it is only being trimmed."""


class Wall:
    """Remembers the latest time that was believed.

    Args:
        latest_us: no time before this is believed at first, but for a whole second or more.
    """

    __slots__ = ("latest_us",)

    def __init__(self, latest_us: int) -> None:
        self.latest_us = latest_us

    def believe(self, now: Now) -> Now:
        """Return the time as all here takes it.

        Args:
            now: as the clocks give it. The steady one never goes back; the wall clock may.
        """
        if now.unix_us < self.latest_us <= now.unix_us + CLOCK_REPAIR_US:
            return Now(self.latest_us, now.steady_ms)
        self.latest_us = now.unix_us
        return now
