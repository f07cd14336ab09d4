"""One thread that does one thing after the other, and that can be left behind.

What is asked of a disk that is frozen never comes back, and nothing can end the thread that asked. So whoever waits for
it gives up in time; whoever comes next is told at once; and it does not keep the process from ending.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Hangs(Exception):
    """What the thread is doing has taken longer than it may."""


class Thread:
    """The thread; it is started at need, and anew after ``end``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked: SimpleQueue[tuple[Future[Any], Callable[[], Any], float] | None] | None = None
        self._due_s: float | None = None  # until when what is being done may take; written by the thread

    async def do(self, work: Callable[[], T], *, within_s: float) -> T:
        """Do something on the thread, after all that was asked of it before.

        Args:
            work: what to do.
            within_s: how long that may take, once it has begun.

        Raises:
            Hangs: it takes longer, and may still be done; or what stands before it does, and it will not be done.
        """
        if self._is_overdue():
            raise Hangs
        future: Future[T] = Future()
        self._queue().put((future, work, within_s))
        waited = asyncio.wrap_future(future)
        try:
            while not (await asyncio.wait((waited,), timeout=within_s))[0]:
                if self._is_overdue():
                    raise Hangs
        except BaseException:
            waited.cancel()
            raise
        return waited.result()

    def end(self) -> None:
        """Let the thread end behind all that was asked of it."""
        if self._asked is not None:
            self._asked.put(None)
            self._asked = None

    def _is_overdue(self) -> bool:
        due_s = self._due_s
        return due_s is not None and time.monotonic() >= due_s

    def _queue(self) -> "SimpleQueue[tuple[Future[Any], Callable[[], Any], float] | None]":
        if self._asked is None:
            self._asked = SimpleQueue()
            # A daemon, for the interpreter would wait for any other at its end.
            threading.Thread(target=self._run, args=(self._asked,), name=self._name, daemon=True).start()
        return self._asked

    def _run(self, asked: "SimpleQueue[tuple[Future[Any], Callable[[], Any], float] | None]") -> None:
        while (next_ := asked.get()) is not None:
            future, work, within_s = next_
            if not future.set_running_or_notify_cancel():
                continue  # whoever asked has given up
            self._due_s = time.monotonic() + within_s
            try:
                result = work()
            except BaseException as error:  # it is whoever asked who is to know
                self._due_s = None
                future.set_exception(error)
            else:
                self._due_s = None
                future.set_result(result)
            del future, work, next_
