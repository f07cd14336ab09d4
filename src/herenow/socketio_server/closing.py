"""The end of a socket whose WebSocket is over: the peer has a while to read the last words and to answer them.

One that does neither must not keep the socket. One that still reads, over a slow link, has a while longer.
"""

import asyncio
from typing import Final

from herenow.progress import progress_of
from herenow.steady import Steady

CLOSE_TIMEOUT_MS: Final = 2_000
"""How long a peer has to complete the WebSocket closing handshake before its socket is cut."""

LOOKS: Final = 4
"""So often within the time-out is it looked whether the peer has taken something: then the time begins anew."""

LONGEST: Final = 10
"""But not even then does the end take more than so many time-outs."""


class Cut:
    """Cuts a transport in the end; made when its end begins.

    Args:
        transport: what is to be let go.
        clock: by which the peer has its time.
    """

    __slots__ = ("_acknowledged", "_clock", "_idle", "_looks", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, clock: Steady) -> None:
        self._transport = transport
        self._clock = clock
        self._acknowledged = progress_of(transport).acknowledged
        self._idle = self._looks = 0
        self._wait()

    def cancel(self) -> None:
        """The socket is gone by itself."""
        self._timer.cancel()

    def _wait(self) -> None:
        self._timer = self._clock.call_later(CLOSE_TIMEOUT_MS / 1000 / LOOKS, self._look)

    def _look(self) -> None:
        before, now = self._acknowledged, progress_of(self._transport)
        self._acknowledged = now.acknowledged
        self._idle = 0 if now.waiting and now.acknowledged > before else self._idle + 1
        self._looks += 1
        if self._idle == LOOKS or self._looks == LOOKS * LONGEST:
            self._transport.abort()
        else:
            self._wait()
