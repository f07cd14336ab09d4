"""Turns of a registry: what is asked together goes together, and whoever asks alone waits for nothing."""

import asyncio
from collections.abc import Mapping

from herenow.registry.commands import Active
from herenow.registry.redis.turns import GATHER_S, Commands, Turns


class Taken:
    """The turns that were taken: when each began, and how many commands it had."""

    def __init__(self) -> None:
        self.turns: list[tuple[float, int]] = []
        self.asked = Turns(begin=self._begin, commit=self._commit, rest=lambda: None)

    async def _begin(self) -> None:
        return

    async def _commit(self, commands: Commands) -> Mapping[str, Exception]:
        self.turns.append((asyncio.get_running_loop().time(), sum(map(len, commands.values()))))
        await asyncio.sleep(0.004)
        return {}


async def test_behind_a_turn_with_many_the_next_gathers() -> None:
    taken, loop = Taken(), asyncio.get_running_loop()
    for _ in range(3):
        asked_s = loop.time()
        await asyncio.gather(*(taken.asked.command(Active(f"u{number}", "c")) for number in range(5)))
        answers = [taken.asked.command(Active("late", "c"))]
        await asyncio.sleep(GATHER_S / 4)
        answers.append(taken.asked.command(Active("later", "c")))
        await asyncio.gather(*answers)
        assert taken.turns[-1][0] - asked_s >= GATHER_S - 0.001


async def test_who_asks_alone_is_not_kept_waiting() -> None:
    taken, loop = Taken(), asyncio.get_running_loop()
    for _ in range(5):
        asked_s = loop.time()
        answer = taken.asked.command(Active("alice", "c"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert taken.turns[-1][0] >= asked_s  # it has begun already, in the next step of the loop
        await answer
