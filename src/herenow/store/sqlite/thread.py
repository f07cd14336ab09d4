"""One thread that does one thing after the other, and that can be left behind.

What is asked of a disk that is frozen never comes back, and nothing can end the thread that asked. So whoever waits for
it gives up in time; whoever comes next is told at once; and it does not keep the process from ending.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Asked = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any], float]


class Hangs(Exception):
    """What the thread is doing has taken longer than it may."""


class Thread:
    """The thread; it is started at need, and anew after ``end``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked: SimpleQueue[_Asked | None] | None = None
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
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._queue().put((loop, answer, work, within_s))
        look = loop.call_later(within_s, self._look, loop, answer, within_s)
        try:
            return await answer
        finally:
            look.cancel()

    def end(self) -> None:
        """Let the thread end behind all that was asked of it."""
        if self._asked is not None:
            self._asked.put(None)
            self._asked = None

    def _look(self, loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[Any]", within_s: float) -> None:
        """Give up an answer if the thread hangs. Else it is at work on something before it, and is looked at again."""
        if answer.done():
            return
        if self._is_overdue():
            answer.set_exception(Hangs())
        else:
            loop.call_later(within_s, self._look, loop, answer, within_s)

    def _is_overdue(self) -> bool:
        due_s = self._due_s
        return due_s is not None and time.monotonic() >= due_s

    def _queue(self) -> "SimpleQueue[_Asked | None]":
        if self._asked is None:
            self._asked = SimpleQueue()
            # A daemon, for the interpreter would wait for any other at its end.
            threading.Thread(target=self._run, args=(self._asked,), name=self._name, daemon=True).start()
        return self._asked

    def _run(self, asked: "SimpleQueue[_Asked | None]") -> None:
        while (next_ := asked.get()) is not None:
            loop, answer, work, within_s = next_
            if answer.done():
                continue  # whoever asked has given up
            self._due_s = time.monotonic() + within_s
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # it is whoever asked who is to know
                error = raised
            self._due_s = None
            with contextlib.suppress(RuntimeError):  # that loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(_give, answer, result, error)
            del next_, answer, work, result, error


def _give(answer: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
