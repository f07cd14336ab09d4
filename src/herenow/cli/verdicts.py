"""What became of a promise that was put to the proof: its bound beside what was measured."""

import math
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from websockets.exceptions import WebSocketException

from herenow.cli.socketio_client import NotLetIn
from herenow.errors import RegistryUnavailable, StoreError

TRIES = 3


class Result(msgspec.Struct, frozen=True, rename="camel"):
    """What became of a promise.

    Attributes:
        promise: its number.
        what: it in words.
        bound: what was promised.
        measured: what happened.
        measured_ms: the time measured, where it is one.
        ok: it was kept.
    """

    promise: str
    what: str
    bound: str
    measured: str
    measured_ms: float | None
    ok: bool


Done = Callable[[Result], None]
"""Told of each result as it comes."""


async def told(promise: str, what: str, probe: Awaitable[Sequence[Result]], done: Done) -> None:
    """Run a probe and tell of what came of it. One that cannot be finished has not kept its promise."""
    try:
        for result in await probe:
            done(result)
    except (NotLetIn, OSError, WebSocketException, StoreError, RegistryUnavailable) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        done(Result(promise, what, "", f"failed: {reason}", None, False))


async def until_kept(probe: Callable[[int], Awaitable[list[Result]]]) -> list[Result]:
    """Run a probe, which is told the number of the try, until its promise is kept or has had all its tries."""
    for number in range(1, TRIES + 1):
        results = await probe(number)
        if number > 1:
            results = [msgspec.structs.replace(each, measured=f"{each.measured}, try {number}") for each in results]
        if all(each.ok for each in results):
            break
    return results


def since(began_s: float, seen_s: float | None) -> float | None:
    """How long it took until something was seen, in milliseconds; ``None``: it never was."""
    return None if seen_s is None else max(0.0, (seen_s - began_s) * 1000)


def timed(promise: str, what: str, bound_ms: float, times_ms: Sequence[float | None], *, share: float = 1.0) -> Result:
    """Judge times by the worst one, or by the one that a share of them keeps."""
    known = sorted(each for each in times_ms if each is not None)
    bound = f"{bound_ms:,.0f} ms"
    if len(known) < len(times_ms):
        return Result(promise, what, bound, f"{len(times_ms) - len(known)} of {len(times_ms)} never", None, False)
    worst_ms = known[math.ceil(len(known) * share) - 1]
    return Result(promise, what, bound, f"{worst_ms:,.0f} ms", round(worst_ms, 1), worst_ms <= bound_ms)


def unseen(promise: str, what: str, changes: int, tried: str) -> Result:
    """Judge what others saw, where there was nothing to see."""
    return Result(promise, what, "no change", f"{changes} in {tried}", None, changes == 0)
