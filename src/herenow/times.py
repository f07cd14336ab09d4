"""Times as people and other programs read them: ISO 8601, UTC, milliseconds, ``Z``.

Inside herenow a time is whole milliseconds since the Unix epoch. On disk and on the wire it is text of fixed width
(``2025-03-01T09:30:00.250Z``), which sorts as it reads and which JavaScript's ``Date`` and SQLite's ``strftime`` parse.
"""

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

LATEST_MS = 253_402_300_799_999
"""The last millisecond that four digits of year can say."""

_LATEST_US = LATEST_MS * 1000

# Linux's own monotonic clock stands still while the machine sleeps. Elsewhere the system's does not.
_STEADY = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)


def unix_us() -> int:
    """Read the wall clock, in microseconds since the epoch.

    A clock that is so wrong that its time cannot be written (a machine without a battery, a year of five digits) is
    taken for the nearest time that can.
    """
    now_us = time.time_ns() // 1000
    return now_us if 0 <= now_us <= _LATEST_US else min(max(0, now_us), _LATEST_US)


def unix_s() -> float:
    """Read the wall clock, in seconds since the epoch; as :func:`unix_us`."""
    return unix_us() / 1_000_000


def unix_ms() -> int:
    """Read the wall clock, in milliseconds since the epoch; as :func:`unix_us`."""
    return unix_us() // 1000


def steady_s() -> float:
    """Read a clock that nobody sets, and that goes on while the machine sleeps, or the process is stopped.

    Returns:
        Seconds since some moment: only differences mean anything.
    """
    return time.monotonic() if _STEADY is None else time.clock_gettime(_STEADY)


def to_iso(time_ms: int) -> str:
    """Write a time as text.

    Args:
        time_ms: milliseconds since the epoch, 0 to ``LATEST_MS``.

    Raises:
        ValueError: the time is outside that range.
    """
    if not 0 <= time_ms <= LATEST_MS:
        raise ValueError(f"{time_ms} ms is not between the years 1970 and 9999")
    second, millisecond = divmod(time_ms, 1000)
    return f"{_to_iso_second(second)}.{millisecond:03d}Z"


def to_nearest_iso(time_ms: int) -> str:
    """Write a time as text, or the nearest one that can be written."""
    if not 0 <= time_ms <= LATEST_MS:
        time_ms = min(max(0, time_ms), LATEST_MS)
    second, millisecond = divmod(time_ms, 1000)
    return f"{_to_iso_second(second)}.{millisecond:03d}Z"


def from_iso(text: str) -> int:
    """Read a time, in milliseconds since the epoch, from any ISO 8601 text; without a zone it is taken as UTC.

    Raises:
        ValueError: the text is not a time.
    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return (time - _EPOCH) // _MILLISECOND


def has_zone(text: str) -> bool:
    """Whether an ISO 8601 text says in which zone its time is.

    Raises:
        ValueError: the text is not a time.
    """
    return datetime.fromisoformat(text).tzinfo is not None


# The rows of one batch share a few seconds: formatting the whole second once makes a row three times cheaper.
@lru_cache(maxsize=1024)
def _to_iso_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()
