"""100,000 users in the store: the commands take what they need, a page at a time."""

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_support import ENVIRONMENT
from herenow.model import Availability, StoredUser
from herenow.store.sql import SqlStore

USERS = 100_000
MOST_KIB = 30_000
"""More than an empty store needs. All users at once would be some 60 MB, as rows alone."""


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 100,000 users, all of them left online by a server that died."""
    directory = tmp_path_factory.mktemp("crowd")
    asyncio.run(fill(directory))
    return directory


async def fill(directory: Path) -> None:
    store = SqlStore(f"sqlite:///{directory}/herenow.db")
    await store.open()
    await store.init()
    now_ms = time.time_ns() // 1_000_000
    for start in range(0, USERS, 10_000):
        await store.apply(
            [
                StoredUser(f"user-{number}", True, Availability.ONLINE, now_ms - number, None, number + 1)
                for number in range(start, start + 10_000)
            ]
        )
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
    asyncio.run(_empty(tmp_path))
    commands: list[tuple[str, ...]] = [
        ("status", "--json"),
        ("stale", "--dry-run"),
        ("explain", "user-5"),
        ("cleanup", "--dry-run"),
        ("cleanup",),
    ]
    held: Callable[..., int] = peak_kib
    too_much = {
        command: excess
        for command in commands
        if (excess := held(*command, cwd=crowd) - held(*command, cwd=tmp_path)) > MOST_KIB
    }
    assert too_much == {}


async def _empty(directory: Path) -> None:
    store = SqlStore(f"sqlite:///{directory}/herenow.db")
    await store.open()
    await store.init()
    await store.close()
