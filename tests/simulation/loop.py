"""An event loop with a time of its own, in which several processes live: nothing sleeps, nothing waits for a socket.

Time stands while anything can be done, and then jumps to the next moment at which something is due: an hour of the
cluster takes as long as what happens in it.

Whatever runs belongs to the process in whose context it was begun (:data:`PROCESS`). One that stands still does
nothing, and finds all that has become due when it goes on; one that was killed does nothing any more. Within a process
things happen in the order that asyncio promises; where several could go on at the same moment, the dice say who does.
"""

import asyncio
import contextvars
import heapq
import random
from collections.abc import Callable, Coroutine
from typing import Any

PROCESS: "contextvars.ContextVar[Process | None]" = contextvars.ContextVar("process", default=None)
"""The process to which what runs now belongs; ``None``: to the world around them."""

MOST_TURNS = 1_000_000
"""Of the loop, in one world: some fifty times as many as any needs."""


class Process:
    """One process of the simulated world.

    Args:
        name: for people.
        loop: which runs it.

    Attributes:
        is_paused: it stands still.
        is_killed: nothing that it does reaches anybody; what is left of it is being cleared away.
        is_over: nothing of it runs any more.
        wall_us: what its wall clock shows too much.
        steady_s: what its steady clock shows too much: where it begins means nothing.
    """

    def __init__(self, name: str, loop: "VirtualLoop") -> None:
        self.name = name
        self.is_paused = self.is_killed = self.is_over = False
        self.wall_us = 0
        self.steady_s = 0.0
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.backlog: list[asyncio.Handle] = []
        self._loop = loop
        loop.processes.append(self)
        self._context = contextvars.copy_context()
        self._context.run(PROCESS.set, self)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Begin a task of this process."""
        return self._context.copy().run(self._loop.create_task, coroutine)

    def do(self, callback: Callable[[], object]) -> None:
        """Have this process call something, once it comes to it."""
        self._loop.call_soon(callback, context=self._context.copy())

    def pause(self) -> None:
        """Let it stand still."""
        self.is_paused = True

    def resume(self) -> None:
        """Let it go on, with what has become due meanwhile."""
        self.is_paused = False
        self._loop.take_up(self.backlog)
        self.backlog = []

    async def kill(self) -> None:
        """Kill it: from this moment on it reaches nobody. Returns once nothing of it is left."""
        self.is_killed = True
        if self.is_paused:
            self.resume()
        while pending := list(self.tasks):
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=0.2)
            await asyncio.sleep(0.001)  # what the last of them began
        self.is_over = True


class _Task(asyncio.Task[Any]):
    """A task with a place of its own in a set, the same in each run: by default that is where it lies in the memory."""

    made = 0

    def __init__(self, coroutine: Coroutine[Any, Any, Any], **options: Any) -> None:
        _Task.made += 1
        self._number = _Task.made
        super().__init__(coroutine, **options)
        if (process := PROCESS.get()) is not None:
            process.tasks[self] = None
            self.add_done_callback(process.tasks.pop)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop.

    Args:
        seed: of the order in which processes go on.

    Attributes:
        now_s: the time.
        processes: all that there ever were.
    """

    _ready: Any
    _scheduled: Any

    def __init__(self, seed: int) -> None:
        super().__init__()
        _Task.made = 0
        self.now_s = 0.0
        self.processes: list[Process] = []
        self._turns = 0
        self._dice = random.Random(seed)
        self.set_task_factory(lambda loop, coroutine, **options: _Task(coroutine, loop=loop, **options))

    def time(self) -> float:
        return self.now_s

    def clear(self) -> None:
        """Let all end that is still under way, also in processes that are over: nobody sees it any more."""
        for process in self.processes:
            process.is_killed, process.is_over = True, False
            process.resume()
        for _ in range(20):
            if not (pending := asyncio.all_tasks(self)):
                return
            for task in pending:
                task.cancel()
            self.run_until_complete(asyncio.wait(pending, timeout=1.0))

    def take_up(self, backlog: list[asyncio.Handle]) -> None:
        """Do what a process has not come to while it stood still."""
        self._ready.extend(backlog)

    def _run_once(self) -> None:
        self._turns += 1
        if self._turns == MOST_TURNS:
            raise AssertionError(f"something goes on without end, at {self.now_s:.3f} s")
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if self._stopping:  # type: ignore[attr-defined]
                return
            if not scheduled:
                raise AssertionError("everything waits, and nothing will ever happen")
            self.now_s = max(self.now_s, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self.now_s:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        batch = list(ready)
        ready.clear()
        for handle in self._in_some_order(batch) if len(batch) > 1 else batch:
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is not None:
                if process.is_paused:
                    process.backlog.append(handle)
                    continue
                if process.is_over:
                    continue
            handle._run()

    def _in_some_order(self, batch: list[Any]) -> list[Any]:
        """Mix what several processes could do now; what one of them does keeps its order."""
        of_process: dict[Process | None, list[Any]] = {}
        for handle in batch:
            of_process.setdefault(handle._context.get(PROCESS), []).append(handle)
        if len(of_process) == 1:
            return batch
        queues = [iter(handles) for handles in of_process.values()]
        mixed: list[Any] = []
        while queues:
            queue = self._dice.choice(queues)
            handle = next(queue, None)
            if handle is None:
                queues.remove(queue)
            else:
                mixed.append(handle)
        return mixed

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A time that was taken back is left where it is until it comes: most come soon."""

    def _process_events(self, event_list: object) -> None:
        raise AssertionError("nobody listens to anything")

    def _write_to_self(self) -> None:
        """Nobody else would have to wake this loop."""
