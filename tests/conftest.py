"""For all tests."""

import asyncio
import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

# A disk that is busy with something else, such as an installation, stalls all databases for seconds. What a process
# leaves behind when it is killed is the same in memory, so the tests' files are there, where there is room.
MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 1024**3:
    tempfile.tempdir = os.environ["TMPDIR"] = str(MEMORY)

# Where servers say that they run; never in the home of whoever runs the tests.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="herenow-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests on the loop that the server runs on, and what is marked so on asyncio's own as well."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.get_closest_marker("every_loop") is not None:
        loops["asyncio"] = asyncio.new_event_loop
    return loops


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of all later garbage collections: they are most of what short tests do."""
    gc.collect()
    gc.freeze()


# Two busy cores say nothing about how long an example may take.
settings.register_profile("tests", deadline=None, max_examples=int(os.environ.get("HERENOW_TEST_EXAMPLES", "60")))
settings.load_profile("tests")
