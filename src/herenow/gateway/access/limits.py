"""How much a client may ask for. Pure: it is told the time."""


class TokenBucket:
    """Lets ``rate_per_s`` events a second pass, and twice as many in a burst."""

    __slots__ = ("_at_s", "_tokens")

    def __init__(self, rate_per_s: float, now_s: float) -> None:
        self._tokens = 2 * rate_per_s
        self._at_s = now_s

    def is_low(self, rate_per_s: float) -> bool:
        """Whether half of the burst is used up."""
        return self._tokens < rate_per_s

    def take(self, rate_per_s: float, now_s: float, cost: float = 1) -> bool:
        """Whether one more event may pass now, one that counts as ``cost`` of them."""
        self._tokens = min(2 * rate_per_s, self._tokens + max(0.0, now_s - self._at_s) * rate_per_s)
        self._at_s = now_s
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True
