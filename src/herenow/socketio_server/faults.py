"""What peers do that is no valid Socket.IO: each is counted by its reason, and an address has one line a minute."""

from collections.abc import Callable
from typing import Final

from herenow.logs import get_logger
from herenow.sparing import Sparing

from .engineio.addresses import customer_of

LOGGER: Final = "herenow.socketio.faults"
"""What the lines are logged by, at level INFO."""

log = get_logger(LOGGER)


class Faults:
    """The faults of all peers.

    Attributes:
        on_fault: told of each one's reason, which is one of few, and holds nothing of what the peer sent.
    """

    def __init__(self) -> None:
        self.on_fault: Callable[[str], object] = len
        self._sparing = Sparing()

    def note(self, address: str | None, reason: str, now_ms: float) -> None:
        """Count a fault, and say it if its address has had no line for a minute.

        Args:
            address: whose, if that is known.
            reason: what was wrong.
            now_ms: of a steady clock.
        """
        self.on_fault(reason)
        who = "a Unix socket" if address is None else customer_of(address) or address
        line = self._sparing.take(LOGGER, who, now_ms / 1000)
        if line is not None:
            since = f" ({line.more} more since the last line)" if line.more else ""
            said = f"no valid Socket.IO from {'other addresses' if line.is_of_others else who}: {reason}{since}"
            log.info(said)
