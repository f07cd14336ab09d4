"""File descriptors: a few stay free for what is no connection, and their lack is said.

Without this, a crowd takes the last one. What uvloop does then was measured (0.23, with libuv 1.52): it accepts each
further connection by a descriptor of its own that it keeps for that, and closes it at once, without a word in any log;
asyncio's loop logs a traceback for each try. Both heal when there are descriptors again. But meanwhile the database
can open nothing, no key can be fetched, and no command comes in.

So who would take one of the last is answered 503, counted, and said in the log, once a minute. The kernel gives the
lowest free number: a connection's own tells how many are taken.
"""

import asyncio
import errno
import os
from time import monotonic

from herenow.logs import get_logger
from herenow.metering import Meters

log = get_logger("herenow.serve")

RESERVE = 32
"""Descriptors that connections leave free; of a small limit, a quarter."""

LOOK_EVERY_S = 1.0
"""Between two looks whether there are some: the last may be taken by something else than connections."""

SAY_EVERY_S = 60.0
"""Between two lines in the log."""


class Descriptors:
    """Watches over them.

    Args:
        meters: where their lack is counted.
    """

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._refused = 0
        self._is_short = False
        self._said_s = -SAY_EVERY_S
        self._timer: asyncio.TimerHandle | None = None

    def may_stay(self, fd: int) -> bool:
        """Whether a new connection may keep its descriptor; ``-1`` is none."""
        if fd < _last():
            return True
        self._refused += 1
        self._meters.refused.labels("no_descriptors").inc()
        self._short()
        return False

    def watch(self) -> None:
        """Look now and then whether there are some."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self.watch)
        if self._is_one_free():
            self._enough()
        else:
            self._short()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _is_one_free(self) -> bool:
        try:
            fd = os.open(os.devnull, os.O_RDONLY)
        except OSError as error:
            return error.errno not in (errno.EMFILE, errno.ENFILE)
        os.close(fd)
        return fd < _last()

    def _short(self) -> None:
        self._is_short = True
        self._meters.descriptors_short.set(1)
        now_s = monotonic()
        if now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            log.error("no file descriptors left: new connections are refused", limit=_limit(), refused=self._refused)
            self._refused = 0

    def _enough(self) -> None:
        if self._is_short:
            self._is_short = False
            self._meters.descriptors_short.set(0)
            log.info("there are file descriptors again", refused=self._refused)
            self._refused = 0


def _limit() -> int:
    """How many this process may have; it can be changed while it runs."""
    try:
        import resource
    except ImportError:  # Windows: there is no such limit
        return 2**31
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else soft


def _last() -> int:
    """The number from which on they are kept free."""
    limit = _limit()
    return limit - min(RESERVE, limit // 4)
