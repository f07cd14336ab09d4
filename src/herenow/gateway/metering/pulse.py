"""How late the event loop is: what everybody who is served feels."""

import asyncio

from herenow.metering import Meters

EVERY_S = 0.1
"""Between two looks."""


class Pulse:
    """Measures the lag of the event loop.

    Attributes:
        lag_s: how late it was at both of the last two looks, at least: one burst is no overload.
    """

    def __init__(self, meters: Meters) -> None:
        self.lag_s = 0.0
        self._last_s = 0.0
        self._meters = meters

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            late_s = max(0.0, loop.time() - due_s)
            self._meters.loop_lag.observe(late_s)
            self.lag_s, self._last_s = min(late_s, self._last_s), late_s
