"""What fails is started again, counted, and shown while it goes on to fail; by a clock that is turned by hand."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from herenow.supervision import AILING_AFTER, LONGEST_PAUSE_S, WELL_S, Supervisor, tell_loop


class Bench:
    """A supervisor whose pauses pass at once, on its own clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []
        self.failures: Counter[str] = Counter()
        self.supervisor = Supervisor(
            lambda name: self.failures.update([name]), clock=lambda: self.now_s, sleep=self.sleep, jitter=lambda: 1.0
        )

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


def failing(times: int) -> Callable[[], Awaitable[None]]:
    """Make what raises so often, and then returns."""
    left = times

    async def run() -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise ZeroDivisionError("unforeseen")

    return run


async def test_a_task_that_fails_is_started_again_after_pauses_that_grow() -> None:
    bench = Bench()
    await bench.supervisor.start("writer", failing(10))
    assert bench.pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert bench.pauses[-1] == LONGEST_PAUSE_S == max(bench.pauses)
    assert bench.failures == {"writer": 10}


async def test_after_the_third_failure_in_a_row_it_is_ailing_until_it_has_run_well() -> None:
    bench = Bench()
    await bench.supervisor.start("audit", failing(AILING_AFTER - 1))
    assert bench.supervisor.ailing() == []
    await bench.supervisor.start("audit", failing(1))
    assert bench.supervisor.ailing() == ["audit"]
    bench.now_s += WELL_S
    assert bench.supervisor.ailing() == []
    await bench.supervisor.start("audit", failing(1))
    assert bench.supervisor.ailing() == [], "failures with a time of well-being in between are not in a row"
    assert bench.pauses[-1] == 0.1


async def test_a_task_whose_steps_are_far_apart_is_well_only_after_some_of_them() -> None:
    bench = Bench()

    async def step() -> None:
        bench.now_s += 30
        if bench.failures["audit"] < 3:
            raise ZeroDivisionError

    await bench.supervisor.start("audit", step, well_s=70)
    assert bench.supervisor.ailing() == ["audit"]
    bench.now_s += 40
    assert bench.supervisor.ailing() == []


async def test_a_cancellation_ends_a_task_and_its_pauses() -> None:
    def cannot_count(name: str) -> None:
        raise ZeroDivisionError

    supervisor = Supervisor(cannot_count)  # which harms nothing
    forever = supervisor.start("beat", lambda: asyncio.sleep(3600))
    pausing = supervisor.start("sweep", failing(1_000_000))
    await asyncio.sleep(0.01)
    for task in (forever, pausing):
        task.cancel()
    ends = await asyncio.gather(forever, pausing, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 2


async def test_a_timer_that_fails_is_noted_like_a_task() -> None:
    bench = Bench()
    for _ in range(AILING_AFTER):
        bench.supervisor.failed("wheel", ZeroDivisionError())
    assert (bench.failures["wheel"], bench.supervisor.ailing()) == (3, ["wheel"])


async def test_where_nobody_supervises_the_loop_is_told_and_what_it_does_then_harms_nobody() -> None:
    heard: list[str] = []

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        heard.append(str(context["message"]))
        raise SystemError("a handler of somebody's")

    asyncio.get_running_loop().set_exception_handler(handler)
    tell_loop("wheel", ZeroDivisionError())
    assert heard == ["wheel raised"]
