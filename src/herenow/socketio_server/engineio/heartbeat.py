"""One timing wheel for all that falls due on a server: pings, pongs, time-outs. No task and no timer a session.

Time is cut into slots of ``tick_ms``. An item lies in the slot of its due time, rounded up, so it is never early and
at most one tick late, unless a crowd is due with it; moving or cancelling it costs one set operation.
:class:`Heartbeat` turns the wheel with a single timer of the event loop, and with none while the wheel is empty.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import Final, Generic, Protocol, TypeVar

from herenow.steady import Steady
from herenow.supervision import OnFault, tell_loop


class Timed(Protocol):
    """What can lie on a wheel. ``wheel_slot`` is the wheel's own; it begins as ``None``."""

    wheel_slot: int | None


T = TypeVar("T", bound=Timed)

_TIMER_EARLY_S = 0.001
"""uvloop's timers count whole milliseconds and may come so much early; the slot would not have begun."""

READ_FIRST: Final = 4
"""Turns of the event loop before a late tick judges anybody, in which what waits in the kernel is read: a WebSocket's
frames take one, and what an ASGI server hands on through a task of its own some more."""

_AT_ONCE = 50
"""So many items are done without a pause. A crowd's time-outs fall due in one slot; between them the loop must serve
all others."""


class Wheel(Generic[T]):
    """A hashed timing wheel. Pure: it is told the time.

    Args:
        tick_ms: how long a slot is, in milliseconds.
    """

    def __init__(self, tick_ms: float) -> None:
        self._tick_ms = tick_ms
        self._slots: dict[int, set[T]] = {}
        self._turned = -1
        self._soonest = 0  # no slot before it has anything in it

    def __bool__(self) -> bool:
        return bool(self._slots)

    def schedule(self, item: T, due_ms: float) -> None:
        """Put an item where it falls due at ``due_ms``, or move it there. Infinity takes it off."""
        if due_ms == float("inf"):
            self.cancel(item)
            return
        # A slot that was turned already will not come again: what is overdue comes at the next turn.
        slot = max(ceil(due_ms / self._tick_ms), self._turned + 1)
        if slot == item.wheel_slot:
            return
        self.cancel(item)
        self._soonest = min(self._soonest, slot)
        item.wheel_slot = slot
        self._slots.setdefault(slot, set()).add(item)

    def hasten(self, item: T, due_ms: float) -> None:
        """Put an item where it falls due, unless it lies earlier: there it may stay; who takes it looks again.

        So what is put off again and again, as a heartbeat is with each answer, moves but once.
        """
        if item.wheel_slot is None or due_ms < item.wheel_slot * self._tick_ms:
            self.schedule(item, due_ms)

    def cancel(self, item: T) -> None:
        """Take an item off; nothing if it does not lie on the wheel."""
        if item.wheel_slot is None:
            return
        items = self._slots[item.wheel_slot]
        items.discard(item)
        if not items:
            del self._slots[item.wheel_slot]
        item.wheel_slot = None

    def turn(self, now_ms: float, limit: int = sys.maxsize) -> list[T]:
        """Take off and return what is due, up to ``limit`` items, the earliest slot first. The others stay due."""
        current = int(now_ms // self._tick_ms)
        self._turned = max(self._turned, current)
        if current < self._soonest:  # as at most ticks, of a server with few clients
            return []
        due: list[T] = []
        passed: Sequence[int] = range(self._soonest, current + 1)
        if len(passed) > len(self._slots):  # a clock may go on by millions of them
            passed = sorted(slot for slot in self._slots if slot <= current)
        for slot in passed:
            items = self._slots.get(slot)
            if items is None:
                continue
            while items and len(due) < limit:
                due.append(items.pop())
            if items:
                break
            del self._slots[slot]
        self._soonest = min(self._slots, default=current + 1)
        for item in due:
            item.wheel_slot = None
        return due


class Heartbeat(Generic[T]):
    """Turns a wheel with a steady clock, which is wound while anything is on it.

    Args:
        tick_ms: how late an item may come, in milliseconds.
        on_due: called with each item that falls due, and the time. It may schedule the item again.
        clock: by which the items are due.
        on_fault: told of what raises.
    """

    def __init__(
        self, tick_ms: float, on_due: Callable[[T, float], None], clock: Steady, *, on_fault: OnFault = tell_loop
    ) -> None:
        self._clock = clock
        self._tick_s = tick_ms / 1000
        self._wheel: Wheel[T] = Wheel(tick_ms)
        self._on_due = on_due
        self._on_fault = on_fault
        self._timer: asyncio.Handle | None = None
        self._due_s = 0.0  # when the timer is to ring, by the loop's clock

    def schedule(self, item: T, due_ms: float) -> None:
        """Let ``on_due`` be called with ``item`` at ``due_ms`` of the clock; or before, if that was asked for earlier:
        then it must schedule the item again.
        """
        self._wheel.hasten(item, due_ms)
        if self._timer is None and self._wheel:
            self._clock.begin()
            self._timer = self._set_timer(asyncio.get_running_loop(), self._clock.now_ms())

    def cancel(self, item: T) -> None:
        """Forget the call for ``item``, if there is one."""
        self._wheel.cancel(item)
        if self._timer is not None and not self._wheel:
            # Not left to ring once more: a loop that ends before would leave the next one without a heartbeat.
            self._timer.cancel()
            self._timer = None
            self._clock.end()

    def _ring(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._due_s > self._tick_s:
            self._read_first(READ_FIRST)
        else:
            self._tick()

    def _read_first(self, turns: int) -> None:
        """Let the loop read for some turns, then judge."""
        step = partial(self._read_first, turns - 1) if turns > 1 else self._tick
        self._timer = asyncio.get_running_loop().call_soon(step)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now_ms, timer = self._clock.now_ms(), self._timer
        due: list[T] = []
        try:
            due = self._wheel.turn(now_ms, _AT_ONCE)
        except Exception as error:  # whatever it is, the heart beats on
            self._on_fault("heartbeat", error)
        for item in due:
            try:
                self._on_due(item, now_ms)
            except Exception as error:  # one item's fault must not stop the heart of all the others
                self._on_fault("heartbeat", error)
        if self._timer is not timer:
            return  # meanwhile the wheel was empty: it has another timer now, or none
        if not self._wheel:
            self._timer = None
            self._clock.end()
        elif len(due) == _AT_ONCE:  # there may be more
            self._timer = loop.call_soon(self._tick)
        else:
            self._timer = self._set_timer(loop, now_ms)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, now_ms: float) -> asyncio.TimerHandle:
        """Come back when the next slot has begun, not a tick from now: an item would be late by up to two ticks."""
        in_s = self._tick_s - now_ms / 1000 % self._tick_s + _TIMER_EARLY_S
        self._due_s = loop.time() + in_s
        return loop.call_later(in_s, self._ring)
