"""Writes to a file descriptor from a thread of its own, so that nobody waits for who reads there, or fails with it.

What stands behind stdout and stderr is not ours: a pipe that nobody reads fills up and then blocks, one whose reader is
gone and a disk that is full raise. So what is to be written is put into a queue that is bounded. What does not fit, or
cannot be written, is dropped and counted, and that is said once it flows again.
"""

import io
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_WAITING = 10_000
"""Items in the queue, at most: of a log some 10 MB."""

GATHER_S = 0.02
"""Items gather for so long before they are written, so that a busy event loop is not kept by a change of threads for
each."""

AT_ONCE = 100
"""So many are written in one go; to render them takes some 2 ms, in which the event loop may have to wait."""


class Outlet(Generic[T]):
    """The way to a file descriptor. Its thread begins with the first item, and keeps no process alive.

    Args:
        fd: where to; ``None``: nowhere, as where the process was started with it closed.
        render: turns items into bytes, in the thread; it may raise.
        notice: the bytes that say how many items were lost.

    Attributes:
        on_dropped: told how many items were lost, each time; from any thread, and must not wait.
    """

    def __init__(
        self, fd: int | None, render: Callable[[Sequence[T]], bytes], notice: Callable[[int], bytes] | None = None
    ) -> None:
        self._fd = fd
        self._render = render
        self._notice = notice
        self.on_dropped: Callable[[int], object] = abs
        self._queue: SimpleQueue[T | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._overflown = 0  # counted by those who put, and
        self._unwritten = 0  # by the thread: no number has two who add to it
        self._said = 0
        self._is_cut = False

    @property
    def dropped(self) -> int:
        """How many items were lost."""
        return self._overflown + self._unwritten

    def put(self, item: T) -> None:
        """Have an item written. Never waits, and never raises."""
        if self._fd is None:
            return
        if self._queue.qsize() >= MOST_WAITING:
            self._overflown += 1
            self.on_dropped(1)
            return
        self._queue.put(item)
        if self._thread is None:
            self._begin()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is written that was put, for so long at most; return whether it is."""
        if self._thread is None:
            return True
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(timeout_s)

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="herenow outlet", daemon=True)
        self._thread.start()

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            items, reached = self._gather()
            if items:
                self._write_items(items)
            if reached is not None:
                reached.set()

    def _gather(self) -> tuple[list[T], threading.Event | None]:
        """Wait for items, up to the end of somebody's :meth:`flush`."""
        first = self._queue.get()
        if isinstance(first, threading.Event):
            return [], first
        items = [first]
        if self._queue.empty():
            time.sleep(GATHER_S)
        while len(items) < AT_ONCE:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            if isinstance(item, threading.Event):
                return items, item
            items.append(item)
        return items, None

    def _write_items(self, items: list[T]) -> None:
        try:
            data = self._render(items)
        except Exception:  # of a value that cannot be shown, say: what is one line's fault costs no other
            if len(items) == 1:
                self._lose(1)
                return
            for item in items:
                self._write_items([item])
            return
        if lost := self._write(data):
            self._lose(min(lost, len(items)))
            return
        new = self.dropped - self._said
        if new and self._notice is not None and not self._write(self._notice(new)):
            self._said += new

    def _write(self, data: bytes) -> int:
        """Write; return how many lines could not be."""
        rest = memoryview(b"\n" + data if self._is_cut else data)
        self._is_cut = False
        while rest:
            try:
                rest = rest[os.write(self._fd or 0, rest) :]
            except BlockingIOError:  # somebody has set it so; it is as full as one that blocks
                _wait_until_writable(self._fd or 0)
            except OSError:
                self._is_cut = len(rest) < len(data)
                return max(1, bytes(rest).count(b"\n"))
        return 0

    def _lose(self, many: int) -> None:
        self._unwritten += many
        self.on_dropped(many)


def _wait_until_writable(fd: int) -> None:
    try:
        select.select([], [fd], [], 1.0)
    except (OSError, ValueError):  # no descriptor for it
        time.sleep(GATHER_S)


class Stream(io.TextIOBase):
    """Stands in the place of ``sys.stdout`` or ``sys.stderr`` while a server runs: whoever prints never waits.

    Args:
        stream: in whose place.
        put: takes what is written.
    """

    def __init__(self, stream: io.TextIOBase, put: Callable[[str], None]) -> None:
        self._stream = stream
        self._put = put

    def write(self, text: str) -> int:
        if text:
            self._put(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base calls an attribute what a text stream has computed
        return self._stream.encoding


def descriptor_of(stream: io.TextIOBase | None) -> int | None:
    """The descriptor behind a stream; ``None`` where the process was started without."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None
