"""What is asked of a registry in its turn, while an answer takes a while.

One turn is under way at a time. It takes all that stands together at the head: commands, which travel as one batch;
reads, which need not wait for each other; or one thing that is done alone. What is asked meanwhile waits, in its order,
and makes the next turn: so whoever reads sees what was issued before, and a busy registry has the larger batches. A
turn costs as much as some five of its commands, here and in Redis: so while many come, turns with commands keep a
distance.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from herenow.registry.commands import Command
from herenow.registry.crowds import USERS_AT_ONCE

T = TypeVar("T")

Work = Callable[[], Awaitable[Any]]

BUSY = 3
"""Commands in one turn: behind one with so many, the next gathers."""

GATHER_S = 0.01
"""From the beginning of such a turn to that of the next. Whoever changes nothing else at the time waits for nothing."""

Commands = dict[str, list[Command]]
"""By user, and of each in their order."""


class _Asked(NamedTuple):
    """What somebody asked for, and whom to answer: nobody, where time itself asks."""

    what: Command | Work
    is_alone: bool
    answer: asyncio.Future[Any] | None


class Turns:
    """Takes what is asked, and has it done.

    Args:
        begin: what there is to do before each turn. What it raises keeps the whole turn from being done.
        commit: does commands; gives what kept those of a user from being done. What it raises kept all of them.
        rest: called whenever nothing is left to do.
    """

    def __init__(
        self,
        *,
        begin: Callable[[], Awaitable[None]],
        commit: Callable[[Commands], Awaitable[Mapping[str, Exception]]],
        rest: Callable[[], None],
    ) -> None:
        self._begin = begin
        self._commit = commit
        self._rest = rest
        self._asked: deque[_Asked] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._next_s = 0.0  # when the next turn with commands may begin

    def command(self, command: Command) -> asyncio.Future[Any]:
        """Do a command."""
        return self._answered(command, is_alone=False)

    def remind(self, command: Command) -> None:
        """Do a command that nobody waits for."""
        self._ask(_Asked(command, False, None))

    def read(self, read: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """Read something, beside other reads."""
        return self._answered(read, is_alone=False)

    def alone(self, work: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """Do something, and nothing else meanwhile."""
        return self._answered(work, is_alone=True)

    async def settle(self) -> None:
        """Wait until nothing is left to do."""
        while self._worker is not None:
            await asyncio.shield(self._worker)

    def _answered(self, what: Command | Work, *, is_alone: bool) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._ask(_Asked(what, is_alone, answer))
        return answer

    def _ask(self, asked: _Asked) -> None:
        self._asked.append(asked)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="herenow registry")

    async def _work(self) -> None:
        try:
            while self._asked:
                if not callable(self._asked[0].what):
                    await self._take_commands()
                else:
                    await self._take_works()
        finally:
            self._worker = None
        self._rest()

    async def _take_commands(self) -> None:
        """Take commands, of each user those that stand together: so what is told keeps the order in which they came."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        if began_s < self._next_s and len(self._asked) < USERS_AT_ONCE:
            await asyncio.sleep(self._next_s - began_s)
            began_s = loop.time()
        taken: list[tuple[str, _Asked]] = []
        commands: Commands = {}
        last = None
        while self._asked and not callable(what := self._asked[0].what):
            if what.user_id != last and (what.user_id in commands or len(commands) == USERS_AT_ONCE):
                break
            last = what.user_id
            commands.setdefault(last, []).append(what)
            taken.append((last, self._asked.popleft()))
        self._next_s = began_s + GATHER_S if len(taken) >= BUSY else 0.0
        try:
            await self._begin()
            faults = await self._commit(commands)
        except Exception as error:
            faults = dict.fromkeys(commands, error)
        for user_id, asked in taken:
            _answer(asked, faults.get(user_id))

    async def _take_works(self) -> None:
        works = [self._asked.popleft()]
        while not works[0].is_alone and self._asked and callable(self._asked[0].what) and not self._asked[0].is_alone:
            works.append(self._asked.popleft())
        results: list[Any]
        try:
            await self._begin()
            do = (each.what() for each in works if callable(each.what))
            results = await asyncio.gather(*do, return_exceptions=True)
        except Exception as error:
            results = [error] * len(works)
        for asked, result in zip(works, results, strict=True):
            _answer(asked, result)


def _answer(asked: _Asked, result: object) -> None:
    if asked.answer is None or asked.answer.done():  # its awaiter was cancelled; it was done all the same
        return
    if isinstance(result, BaseException):
        asked.answer.set_exception(result)
    else:
        asked.answer.set_result(result)
