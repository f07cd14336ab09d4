"""Turns of a registry: what is asked together goes together, and whoever asks alone waits for nothing."""

import asyncio
from collections.abc import Mapping

from herenow.registry.commands import Active
from herenow.registry.redis.turns import BUSY, GATHER_S, Commands, Turns


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


async def test_while_many_ask_the_turns_keep_a_distance() -> None:
    taken, answers = Taken(), []
    for number in range(100):
        answers.append(taken.asked.command(Active(f"u{number}", "c")))
        await asyncio.sleep(0.001)
    await asyncio.gather(*answers)
    assert sum(size for _, size in taken.turns) == 100
    pairs = list(zip(taken.turns, taken.turns[1:], strict=False))
    apart_s = [later_s - earlier_s for (earlier_s, size), (later_s, _) in pairs if size >= BUSY]
    assert apart_s and min(apart_s) >= GATHER_S - 0.001


async def test_who_asks_alone_is_not_kept_waiting() -> None:
    taken, loop = Taken(), asyncio.get_running_loop()
    for _ in range(5):
        asked_s = loop.time()
        answer = taken.asked.command(Active("alice", "c"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert taken.turns[-1][0] >= asked_s  # it has begun already, in the next step of the loop
        await answer
