"""Whose right to be here ends when. Pure: it is told the time, by whatever clock the ends are given in."""

from herenow.registry.deadlines import Deadlines
from herenow.times import LATEST_MS

WARNING_S = 60.0
"""How long before its end a connection is warned; at once, if it has less."""


def end_ms(ends_s: float | None) -> int | None:
    """Return an end in whole milliseconds; ``None``: never, as what would end after the year 9999, or at infinity."""
    if ends_s is None or ends_s * 1000 > LATEST_MS:
        return None
    return round(ends_s * 1000) if ends_s > 0 else 0


class Expiry:
    """The ends of the connections that have one, by connection id."""

    def __init__(self) -> None:
        self._ends = Deadlines()
        self._warnings = Deadlines()

    def __len__(self) -> int:
        return len(self._ends)

    def set(self, connection_id: str, ends_s: float | None) -> None:
        """Set an end, or take it away. A new end is warned of anew."""
        self.forget(connection_id)
        ends_ms = end_ms(ends_s)
        if ends_ms is not None:
            self._ends.set(connection_id, ends_ms)
            self._warnings.set(connection_id, ends_ms - round(WARNING_S * 1000))

    def postpone(self, connection_id: str, ends_s: float) -> None:
        """Look again later at one that has ended, without another warning."""
        self._ends.set(connection_id, round(ends_s * 1000))

    def forget(self, connection_id: str) -> None:
        """Take an end away; there need not be one."""
        self._ends.cancel(connection_id)
        self._warnings.cancel(connection_id)

    def due(self, now_s: float) -> tuple[list[str], list[str]]:
        """Return whom to warn, and whose time has ended; each is given once, and nobody in both."""
        now_ms = round(now_s * 1000)
        ended = self._ends.pop_due(now_ms)
        for connection_id in ended:
            self._warnings.cancel(connection_id)
        return self._warnings.pop_due(now_ms), ended
