"""How the promises are kept, measured as it happens: from what happened to a user until its diff is sent."""

from collections.abc import Iterable

from herenow.metering import Meters
from herenow.model import Cause, Change

_PROMISE_OF = {
    Cause.CONNECT: "connect",
    Cause.CLOSED: "closed",
    Cause.ERROR: "closed",
    Cause.LEFT: "left",
    Cause.TIMEOUT: "silent",
}


class Punctuality:
    """Measures P1 to P4 (DESIGN: the README's table). It is told the time.

    A change's version is the moment, in microseconds, at which the registry decided it, and the ``last_active_ms`` of
    one who went is the moment of the close. Only how long a silent connection had been silent by then, it must be told.
    """

    def __init__(self, meters: Meters) -> None:
        self._promise = meters.promise
        self._silences_s: dict[str, float] = {}

    def fell_silent(self, user_id: str, silence_s: float) -> None:
        """A user's last connection was lost after so long without a sign."""
        self._silences_s[user_id] = silence_s

    def came(self, user_id: str) -> None:
        """A user is here again."""
        self._silences_s.pop(user_id, None)

    def told(self, changes: Iterable[Change], now_s: float) -> None:
        """These changes were just sent."""
        for change in changes:
            promise = _PROMISE_OF.get(change.cause)
            if promise is not None:
                self._promise.labels(promise).observe(max(0.0, self._took_s(promise, change, now_s)))

    def _took_s(self, promise: str, change: Change, now_s: float) -> float:
        decided_s = change.version / 1_000_000
        if promise in ("connect", "left") or change.last_active_ms is None:
            return now_s - decided_s
        silence_s = self._silences_s.pop(change.user_id, 0.0) if promise == "silent" else 0.0
        return now_s - change.last_active_ms / 1000 + silence_s
