"""What peers do that is no valid Socket.IO: each is counted by its reason, and there is one line a minute an address.

Whoever looks for the reason why a client does not come in finds it in the log. Whoever sends rubbish on purpose fills
neither the log nor the memory.
"""

from collections.abc import Callable
from typing import Final

from herenow.logs import get_logger

from .addresses import customer_of

LOGGER: Final = "herenow.socketio.faults"
"""What the lines are logged by, at level INFO."""

log = get_logger(LOGGER)

EVERY_MS: Final = 60_000
"""Between two lines about an address."""

MOST_ADDRESSES: Final = 1_000
"""So many addresses have a line of their own in that time; all others share one."""

_OTHERS: Final = "other addresses"


class Faults:
    """The faults of all peers.

    Attributes:
        on_fault: told of each one's reason, which is one of few, and holds nothing of what the peer sent.
    """

    def __init__(self) -> None:
        self.on_fault: Callable[[str], object] = len
        self._said: dict[str, tuple[float, int]] = {}  # by address, oldest first: when, and how many since

    def note(self, address: str | None, reason: str, now_ms: float) -> None:
        """Count a fault, and say it if its address has had no line for a minute.

        Args:
            address: whose, if that is known.
            reason: what was wrong.
            now_ms: of a steady clock.
        """
        self.on_fault(reason)
        who = "a Unix socket" if address is None else customer_of(address) or address
        if who not in self._said and len(self._said) >= MOST_ADDRESSES:
            self._forget(now_ms)
            who = who if len(self._said) < MOST_ADDRESSES else _OTHERS
        at_ms, more = self._said.get(who, (-EVERY_MS, 0))
        if now_ms - at_ms < EVERY_MS:
            self._said[who] = (at_ms, more + 1)
            return
        self._said.pop(who, None)
        self._said[who] = (now_ms, 0)
        since = f" ({more} more since the last line)" if more else ""
        said = f"no valid Socket.IO from {who}: {reason}{since}"
        log.info(said)

    def _forget(self, now_ms: float) -> None:
        """Drop those whose minute is over; with a few, what was counted since is not said any more."""
        while self._said and now_ms - next(iter(self._said.values()))[0] >= EVERY_MS:
            del self._said[next(iter(self._said))]
