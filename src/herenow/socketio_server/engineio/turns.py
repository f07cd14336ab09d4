"""Whose bytes are parsed when: who sends little is served at once, who sends much waits for its turn.

The event loop is shared by all, and a client that writes as fast as it can would have as much of it as there are bytes
to parse; twenty such would have it all. So reading has two lanes:

* *At once*: what comes is at most ``READ_SLICE`` long, and this client has lately used no more than ``LIGHT_SHARE`` of
  the loop. Nearly everything that honest clients send is so.
* *In turn*: everything else waits in one queue, each at most ``TURN_S`` at a time. All of it together has
  ``HEAVY_SHARE`` of the loop, however many wait; and what the others leave, up to ``MOST_SHARE`` with theirs. Who waits
  is not read from, so what it sends fills its own socket.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic, thread_time
from typing import Final

from herenow.supervision import OnFault, tell_loop

READ_SLICE: Final = 4_096
"""Bytes parsed at a time, so that a connection that comes to be held, or has had its turn, keeps the rest unparsed."""

TURN_S: Final = 0.002
"""How long what one client has sent may keep the event loop; then all others have their turn. A segment of noops, or a
polling payload of them, takes a second and more to parse."""

LIGHT_SHARE: Final = 0.002
"""Of the loop, for each client, at once: some twice what parsing fifty events a second takes."""

LIGHT_BURST_S: Final = 0.01
"""And so much of it at a time, after a while of silence: more than a connect with its first watches takes."""

MOST_AT_ONCE_S: Final = 0.1
"""More than any message takes to parse; a clock that shows more was at something else, perhaps asleep."""

HEAVY_SHARE: Final = 0.3
"""Of the loop, for all who wait for their turn, at least."""

MOST_SHARE: Final = 0.7
"""Of the loop, for all who wait for their turn and all others, as far as it is the former who come to it."""

LATELY_S: Final = 0.1
"""How long what the others took of the loop is remembered."""


class Allowance:
    """What one client may still use of the loop at once, in processor time: that the machine was busy with something
    else meanwhile is no fault of a client's. Asking for that time is a system call, which is spared as long as half of
    the allowance is left: till then the other clock will do, of which no more than ``MOST_AT_ONCE_S`` counts.
    """

    __slots__ = ("_spent_until_s",)

    def __init__(self) -> None:
        self._spent_until_s = 0.0

    def is_spent(self, now_s: float) -> bool:
        """Whether the client must wait for its turn."""
        return self._spent_until_s > now_s + LIGHT_BURST_S / LIGHT_SHARE

    def clock(self, now_s: float) -> Callable[[], float]:
        """By which to measure what the client is about to spend."""
        return monotonic if self._half_is_left(now_s) else thread_time

    def spend(self, now_s: float, spent_s: float) -> None:
        """Note that the client was served for so long, which began at ``now_s``."""
        if self._half_is_left(now_s):
            spent_s = min(spent_s, MOST_AT_ONCE_S)
        self._spent_until_s = max(self._spent_until_s, now_s) + spent_s / LIGHT_SHARE

    def _half_is_left(self, now_s: float) -> bool:
        return self._spent_until_s <= now_s + LIGHT_BURST_S / LIGHT_SHARE / 2


class Turns:
    """The queue of those who wait for their turn.

    Attributes:
        on_fault: told of what raises in its turn.
    """

    def __init__(self) -> None:
        self.on_fault: OnFault = tell_loop
        self._waiting: deque[tuple[Callable[[], None], float]] = deque()
        self._scheduled = False
        self._free_at_s = 0.0
        self._others = _Others()

    def ask(self, take: Callable[[], None], cost_s: float = 0.0) -> None:
        """Call ``take`` once it is this one's turn; it takes no longer than ``TURN_S``, as far as it can help it.

        Args:
            take: what is to be done; its time is measured.
            cost_s: what comes of it takes, beside, of the event loop.
        """
        self._waiting.append((take, cost_s))
        self._schedule()

    async def wait(self, cost_s: float = 0.0) -> None:
        """Wait for a turn.

        Args:
            cost_s: what the caller takes of the event loop for it, before or after.
        """
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self.ask(lambda: None if turn.done() else turn.set_result(None), cost_s)
        await turn

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(max(0.0, self._free_at_s - monotonic()), self._work)

    def _work(self) -> None:
        """Give turns until the time of one is over."""
        share = max(HEAVY_SHARE, MOST_SHARE - self._others.take())
        began_s, cost_s = monotonic(), 0.0
        while self._waiting and monotonic() - began_s + cost_s < TURN_S:
            take, cost = self._waiting.popleft()
            cost_s += cost
            try:
                take()
            except Exception as error:  # one's fault must not keep all who wait
                self.on_fault("turns", error)
        now_s = monotonic()
        # What was done has passed already; what it costs beside is still to come.
        self._free_at_s = now_s + (now_s - began_s) * (1 / share - 1) + cost_s / share
        self._others.begin(cost_s)
        self._scheduled = False
        if self._waiting:
            self._schedule()


class _Others:
    """What share of the loop all else has lately had, in processor time."""

    def __init__(self) -> None:
        self._share = 0.0
        self.begin(0.0)

    def begin(self, cost_s: float) -> None:
        """From now on it is the others' again, but for what is still to come of the turns before."""
        self._since_s, self._spent_s = monotonic(), thread_time() + cost_s

    def take(self) -> float:
        """The share, up to now."""
        waited_s = max(monotonic() - self._since_s, 1e-6)
        busy = min(1.0, max(0.0, thread_time() - self._spent_s) / waited_s)
        self._share += (busy - self._share) * min(1.0, waited_s / LATELY_S)
        return self._share
