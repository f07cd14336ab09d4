"""For all tests."""

import asyncio
import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import settings

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
