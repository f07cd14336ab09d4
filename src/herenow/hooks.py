"""The application's own functions that hear of every change: each in its own time, and no slow one keeps anybody.

A function that returns at once is called at once. One that is awaited hears of one change at a time, in their order;
what comes meanwhile waits for it, the latest ``MOST_WAITING`` of them: older ones are dropped and counted, which is
said once until it has caught up.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from herenow.logs import get_logger
from herenow.model import Change
from herenow.sparing import Sparing, alike

log = get_logger("herenow.presence")

Subscriber = Callable[[Change], Any]

MOST_WAITING = 10_000
"""Changes that wait for one function, at most; some 3 MB."""


class Hooks:
    """All functions that hear of changes.

    Args:
        count_dropped: told of each change that is dropped.
    """

    def __init__(self, count_dropped: Callable[[], object]) -> None:
        self._count_dropped = count_dropped
        self._hooks: tuple[_Hook, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def add(self, handler: Subscriber) -> Callable[[], None]:
        """Let a function hear of all changes from now on; return what ends that. What waits for it then is dropped."""
        hook = _Hook(handler, self._count_dropped)
        self._hooks += (hook,)

        def remove() -> None:
            self._hooks = tuple(each for each in self._hooks if each is not hook)
            hook.clear()

        return remove

    def tell(self, changes: Sequence[Change]) -> None:
        """Let all hear of changes, the oldest first. One that raises is logged and harms nobody."""
        for hook in self._hooks:
            for change in changes:
                hook.take(change)

    async def drain(self, timeout_s: float) -> None:
        """Let them hear what waits, for as long as the timeout allows; then end those that still run."""
        running = {hook: hook.task for hook in self._hooks if hook.task is not None}
        if running:
            await asyncio.wait(running.values(), timeout=timeout_s)
        for hook, task in running.items():
            if not task.done():
                log.warning("a change handler did not end in time", changes=hook.give_up())
        await asyncio.gather(*running.values(), return_exceptions=True)


class _Hook:
    """One function.

    Attributes:
        task: awaits it, and calls it again for each change that waits; ``None`` while nothing is awaited.
    """

    def __init__(self, handler: Subscriber, count_dropped: Callable[[], object]) -> None:
        self.task: asyncio.Task[None] | None = None
        self._handler = handler
        self._sparing = Sparing()
        self._count_dropped = count_dropped
        self._waiting: deque[Change] = deque()
        self._said = False

    def take(self, change: Change) -> None:
        if self.task is None:
            awaitable = self._call(change)
            if awaitable is not None:
                self.task = asyncio.get_running_loop().create_task(self._work(awaitable, change))
            return
        self._waiting.append(change)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self._count_dropped()
            if not self._said:
                self._said = True
                log.warning("a change handler is too slow: changes are dropped", handler=_name(self._handler))

    def clear(self) -> None:
        self._waiting.clear()

    def give_up(self) -> int:
        """End it; return how many changes it has not heard of, or not to the end."""
        left = len(self._waiting) + 1
        self.clear()
        if self.task is not None:
            self.task.cancel()
        return left

    async def _work(self, awaitable: Awaitable[Any], change: Change) -> None:
        try:
            await self._finish(awaitable, change)
            while self._waiting:
                change = self._waiting.popleft()
                following = self._call(change)
                if following is not None:
                    await self._finish(following, change)
                else:  # one that is awaited only at times; the loop is others' too
                    await asyncio.sleep(0)
        finally:
            self.task = None
            self._said = False

    def _call(self, change: Change) -> Awaitable[Any] | None:
        try:
            result = self._handler(change)
        except Exception as error:  # the application's own
            self._sparing.say(log.exception, "a change handler raised", of=alike(error), user=change.user_id)
            return None
        return result if inspect.isawaitable(result) else None

    async def _finish(self, awaitable: Awaitable[Any], change: Change) -> None:
        try:
            await awaitable
        except (Exception, asyncio.CancelledError) as error:  # the application's own, or what it awaited was cancelled
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # no, ours
                raise
            self._sparing.say(log.exception, "a change handler raised", of=alike(error), user=change.user_id)


def _name(handler: Subscriber) -> str:
    return str(getattr(handler, "__qualname__", type(handler).__qualname__))
