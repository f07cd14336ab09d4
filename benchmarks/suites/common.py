"""What several suites do: measure a phase, wait for the store."""

import sqlite3
import time
from collections.abc import Callable

from benchmarks import database
from benchmarks.processes import RunError
from benchmarks.servers import Run

AFTERMATH_S = 0.1
"""How long after a phase the CPU time is still the phase's: collections and closures that it left behind."""

STORED_S = 20.0
"""How long the database may take to hold what was told."""


def cpu_s_of(run: Run, phase: Callable[[], object]) -> float:
    """Return the CPU seconds that the server spends on a phase and its aftermath."""
    time.sleep(AFTERMATH_S)
    before_s = run.cpu_s()
    phase()
    time.sleep(AFTERMATH_S)
    return run.cpu_s() - before_s


def online(run: Run) -> int:
    """How many users the server's database shows online."""
    if run.peer.database == "mongodb":
        return database.online()
    with sqlite3.connect(run.database.removeprefix("sqlite:///"), timeout=10) as connection:
        (count,) = connection.execute("SELECT count(*) FROM users WHERE isOnline").fetchone()
    connection.close()
    return int(count)


def wait_until_stored(run: Run, count: int) -> None:
    """Wait until the database shows so many users online.

    Raises:
        RunError: it does not.
    """
    ends_s = time.monotonic() + STORED_S
    while (found := online(run)) != count:
        if time.monotonic() > ends_s:
            raise RunError(f"{run.name}: {found} users are online in the database, and {count} should be")
        time.sleep(0.05)
