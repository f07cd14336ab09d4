import asyncio
import time

from herenow.gateway.metering.pulse import Pulse
from herenow.metering import Meters
from support import until


async def test_a_loop_that_stays_late_is_told_from_one_that_was_late_once() -> None:
    pulse = Pulse(Meters())
    running = asyncio.create_task(pulse.run())
    await asyncio.sleep(0)  # it waits for its first look now
    time.sleep(0.5)  # noqa: ASYNC251  # to be late is the point
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pulse.lag_s == 0.0
    for _ in range(5):
        time.sleep(0.3)  # noqa: ASYNC251
        await asyncio.sleep(0)
    assert pulse.lag_s > 0.1
    await until(lambda: pulse.lag_s < 0.1)
    running.cancel()
