"""Lines of the log that somebody outside can cause: of those alike, one a minute, with the number of those between.

Whoever looks for a reason finds it in the log. Whoever causes such lines on purpose, or a thousand times a second by
mistake, fills neither the log nor the memory, and takes no line away from another event: each has its own hundred.
"""

import traceback
from collections import defaultdict
from collections.abc import Callable, Hashable
from time import monotonic
from typing import Final, NamedTuple

EVERY_S: Final = 60.0
"""Between two lines of a kind."""

MOST_KINDS: Final = 100
"""So many kinds of an event have a line of their own in that time; all others share one."""


A_MINUTE: Final = 20
"""Lines of one user and one event that are written in a minute, where each tells of something that happened."""


class Said(NamedTuple):
    """A line that is to be written.

    Attributes:
        more: how many of its kind were left out since the last one.
        is_of_others: whether it stands for all kinds that have no line of their own.
    """

    more: int
    is_of_others: bool


def alike(error: BaseException) -> Hashable:
    """What errors are of one kind: of the same type, from the same place in the code."""
    place = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)][-1:]
    return type(error).__name__, *place


class Sparing:
    """Decides which lines are written."""

    def __init__(self) -> None:
        # of each event by kind, oldest first: when its last line was, and how many were left out since
        self._said: defaultdict[str, dict[Hashable, tuple[float, int]]] = defaultdict(dict)

    def take(self, event: str, kind: Hashable, now_s: float) -> Said | None:
        """Count a line; ``None``: it is left out.

        Args:
            event: what happened.
            kind: whom or what it is about.
            now_s: the time, by a steady clock, in seconds.
        """
        said = self._said[event]
        if kind not in said and len(said) >= MOST_KINDS:
            _forget(said, now_s)
            if len(said) >= MOST_KINDS:
                kind = None
        at_s, more = said.get(kind, (-EVERY_S, 0))
        if now_s - at_s < EVERY_S:
            said[kind] = (at_s, more + 1)
            return None
        said.pop(kind, None)
        said[kind] = (now_s, 0)
        return Said(more, is_of_others=kind is None)

    def say(self, write: Callable[..., None], event: str, /, *, of: Hashable, **fields: object) -> None:
        """Write a line, or leave it out.

        Args:
            write: a method of a ``Log``.
            event: what happened.
            of: whom or what it is about: lines of the same event about the same are alike.
            fields: of the line; ``more`` joins them where some were left out.
        """
        said = self.take(event, of, monotonic())
        if said is not None:
            about = "more_of_others" if said.is_of_others else "more"
            write(event, **fields, **({about: said.more} if said.more else {}))


class Ration:
    """Lines of one event that are of one user each, and true each time: a few a minute are written, then counted.

    Every user has as many, however many users there are: their comings and goings are what the log is read for. Only
    who comes and goes all the time, on purpose or by mistake, has them counted.
    """

    def __init__(self) -> None:
        self._taken: defaultdict[str, int] = defaultdict(int)  # by user's key, in this minute

    def take(self, key: str) -> bool:
        """Count a line of a user; say whether it is to be written."""
        self._taken[key] += 1
        return self._taken[key] <= A_MINUTE

    def begin(self) -> dict[str, int]:
        """Begin a minute; return how many lines of whom were left out in the one before."""
        left_out = {key: taken - A_MINUTE for key, taken in self._taken.items() if taken > A_MINUTE}
        self._taken.clear()
        return left_out


def _forget(said: dict[Hashable, tuple[float, int]], now_s: float) -> None:
    """Drop those whose minute is over; with a few, what was counted since is not said any more."""
    while said and now_s - next(iter(said.values()))[0] >= EVERY_S:
        del said[next(iter(said))]
