"""Rules broken on purpose: of each it must be seen that worlds fail without it, or the simulation proves nothing.

Each mutant is a patch of one rule, in herenow or in the twin of a script.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from herenow.gateway.departures import Departures
from herenow.gateway.rollcall import RollCall
from herenow.registry.redis import registry
from herenow.registry.redis.clock import ClusterClock
from herenow.registry.redis.serving import Serving
from herenow.registry.redis.tail import Tail
from simulation import scripts

Mutant = Callable[[], contextlib.AbstractContextManager[Any]]


def no_fence() -> contextlib.AbstractContextManager[Any]:
    """Who was given up commits all the same, however late it comes."""

    def commit(redis: scripts.Run, keys: list[str], args: list[bytes]) -> Any:
        return scripts.commit(redis, keys, [*args[:3], b"0", *args[4:6], b"", *args[7:]])

    return patch.dict(scripts.SCRIPTS, commit=commit)


def no_floor_of_versions() -> contextlib.AbstractContextManager[Any]:
    """Versions are given out by what Redis knows alone, and by a clock that stands."""

    def commit(redis: scripts.Run, keys: list[str], args: list[bytes]) -> Any:
        return scripts.commit(redis, keys, [*args[:2], b"1", b"0", b"0", *args[5:]])

    return patch.dict(scripts.SCRIPTS, commit=commit)


def no_revision() -> contextlib.AbstractContextManager[Any]:
    """Whoever comes last wins, whatever they had read."""

    def commit(redis: scripts.Run, keys: list[str], args: list[bytes]) -> Any:
        held = redis.call("HMGET", keys[0], *args[9::4])
        for at, there in zip(range(10, len(args), 4), held, strict=True):
            args[at] = there[:8] if there else b""
        return scripts.commit(redis, keys, args)

    return patch.dict(scripts.SCRIPTS, commit=commit)


def tail_at_the_end() -> contextlib.AbstractContextManager[Any]:
    """A tail that reads over a new connection begins at the end of the log, as ``$`` does."""

    async def reconnect(tail: Tail) -> None:
        tail.position, tail.place = (2**62, 0), 0

    return patch.object(Tail, "reconnect", reconnect)


def nothing_is_said_again() -> contextlib.AbstractContextManager[Any]:
    """A node that has come back does not say what it serves."""
    return patch.object(Serving, "all", lambda serving: iter(()))


@contextlib.contextmanager
def ends_are_told_once() -> Iterator[None]:
    """A disconnect that the registry did not take is not told again, and no roll call finds it."""

    def look(departures: Departures) -> None:
        told, departures._told = departures._told, []
        for departure, taken in told:
            if not taken.done():
                departures._told.append((departure, taken))
            elif not taken.cancelled():
                taken.exception()

    with patch.object(Departures, "look", look), patch.object(RollCall, "look", _do_nothing):
        yield


def lost_is_lost() -> contextlib.AbstractContextManager[Any]:
    """Nobody sees to those of whom others were told by commits that Redis has lost."""
    return patch.object(registry, "lost_changes", lambda log, kept: {})


def time_is_that_of_redis_alone() -> contextlib.AbstractContextManager[Any]:
    """A clock of Redis that was set is followed."""

    def look(clock: ClusterClock, time_us: int, **when: float) -> int:
        _LOOK(clock, time_us, **when)
        return 0

    return patch.object(ClusterClock, "look", look)


async def _do_nothing(*_: object) -> None:
    """Nothing."""


_LOOK = ClusterClock.look

MUTANTS: dict[str, Mutant] = {
    each.__name__: each
    for each in (
        no_fence, no_floor_of_versions, no_revision, tail_at_the_end, nothing_is_said_again,
        ends_are_told_once, lost_is_lost, time_is_that_of_redis_alone,
    )
}  # fmt: skip
