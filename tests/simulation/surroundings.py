"""What a process sees of the machine around it, in a simulated world: its clocks, and what is random.

The parts of herenow read the time by ``herenow.times`` and by the event loop. Here both show the time of the world, and
each process has a wall clock and a steady clock that may be off.
"""

import contextlib
import importlib
import random
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from herenow.registry.redis import shard
from simulation.loop import PROCESS, VirtualLoop

START_US = 1_767_225_600_000_000
"""When each world begins: 2026-01-01."""


class _Time:
    """Stands in the place of the module ``time`` where the clocks are read."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def time_ns(self) -> int:
        process = PROCESS.get()
        off_us = 0 if process is None else process.wall_us
        return (START_US + off_us + round(self._loop.now_s * 1_000_000)) * 1000

    def monotonic(self) -> float:
        process = PROCESS.get()
        return self._loop.now_s + (0.0 if process is None else process.steady_s)

    def clock_gettime(self, _: int) -> float:
        return self.monotonic()


@contextlib.contextmanager
def surrounded(loop: VirtualLoop, seed: int, connect: Callable[..., Any]) -> Iterator[None]:
    """Let the parts of herenow live in the world of a loop.

    Args:
        loop: whose time it is.
        seed: of all that is random.
        connect: makes a client of Redis, as :func:`herenow.registry.redis.connecting.connect` does.
    """
    dice, time, state = random.Random(f"secrets {seed}"), _Time(loop), random.getstate()
    times = importlib.import_module("herenow.times")
    with (
        patch.object(times, "time", time),
        patch.object(secrets, "token_hex", lambda number: dice.randbytes(number).hex()),
        patch.object(secrets, "token_bytes", dice.randbytes),
        patch.object(shard, "connect", connect),
    ):
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
