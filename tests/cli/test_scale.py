"""100,000 users in the store: the commands take what they need, a page at a time."""

import asyncio
import contextlib
import resource
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli_support import ENVIRONMENT
from herenow.store.sqlite.store import SqlStore
from herenow.times import to_iso

USERS = 100_000
MOST_KIB = 30_000
"""More than an empty store needs. All users at once would be some 60 MB, as rows alone."""


_CROWD = """
    WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?)
    INSERT INTO users (id, isOnline, lastActive, presenceAvailability, presenceVersion)
    SELECT 'user-' || n, 1, ?, 'online', n + 1 FROM numbers
"""


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 100,000 users, all of them left online by a server that died."""
    directory = tmp_path_factory.mktemp("crowd")
    asyncio.run(empty(directory))
    with contextlib.closing(sqlite3.connect(directory / "herenow.db")) as connection, connection:
        connection.execute(_CROWD, (USERS, to_iso(time.time_ns() // 1_000_000)))
    return directory


async def empty(directory: Path) -> None:
    store = SqlStore(f"sqlite:///{directory}/herenow.db")
    await store.open()
    await store.init()
    await store.close()


def peak_kib(*arguments: str, cwd: Path) -> int:
    """The most memory that a command held."""
    program = (
        "import resource, sys\n"
        "from herenow.cli.app import app\n"
        "try:\n"
        "    app(sys.argv[1:])\n"
        "finally:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode in (0, 1), ended.stderr
    return int(ended.stderr.split()[-1])


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_SELF"), reason="no getrusage here")
def test_no_command_loads_all_users(crowd: Path, tmp_path: Path) -> None:
    asyncio.run(empty(tmp_path))
    commands: list[tuple[str, ...]] = [
        ("status", "--json"),
        ("stale", "--dry-run"),
        ("explain", "user-5"),
        ("cleanup", "--dry-run"),
        ("cleanup",),
    ]
    least = peak_kib("status", "--json", cwd=tmp_path)
    held = {command: peak_kib(*command, cwd=crowd) - least for command in commands}
    assert {command: more for command, more in held.items() if more > MOST_KIB} == {}
