"""A command for a crowd, in parts: for so many users at a time, while the others are served in between."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from herenow.model import Evicted
from herenow.registry.commands import Command, Effects, Now

USERS_AT_ONCE = 500
"""A command for a crowd, and a crowd that falls due in the same moment, as all who do not come back after a restart,
take a turn of the event loop for so many users. A turn takes some 5 ms, with what the subscribers do; the loop serves
the others in between."""

UNFINISHED: Final = object()
"""What a part gives that is not the last."""


class Crowd:
    """What is done to a crowd: each call does a part of it, all at the moment of the first.

    A fault in what is done to one keeps none of the others; the first is raised once all are done.

    Args:
        apply: applies one command.
        plan: says which, once it has its turn.
    """

    def __init__(self, apply: Callable[[Command, Now], Effects], plan: Callable[[], Iterable[Command]]) -> None:
        self._apply = apply
        self._plan = plan
        self._commands: Iterator[Command] | None = None
        self._now: Now | None = None
        self._evicted: list[Evicted] = []
        self._fault: Exception | None = None

    def __call__(self, now: Now) -> Any:
        if self._commands is None or self._now is None:
            self._commands, self._now = iter(self._plan()), now
        left = USERS_AT_ONCE
        for command in islice(self._commands, USERS_AT_ONCE):
            left -= 1
            try:
                self._evicted += self._apply(command, self._now).evicted
            except Exception as error:
                self._fault = self._fault or error
        if not left:
            return UNFINISHED
        if self._fault is not None:
            raise self._fault
        return tuple(self._evicted)
