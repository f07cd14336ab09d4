"""The library's log: the application's own ``logging`` decides, and nothing that it does reaches who logs."""

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from herenow.logs import Guarded, Line, get_logger
from support import ROOT


@contextmanager
def handler(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("herenow")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def test_a_line_reads_as_text_and_keeps_its_fields() -> None:
    stream = io.StringIO()
    writes = logging.StreamHandler(stream)
    writes.setFormatter(logging.Formatter("%(name)s %(levelname)s %(funcName)s: %(message)s"))
    with handler(writes):
        get_logger("herenow.test").warning("refused", user="alice", reason="two words\n", empty="", number=3)
    assert stream.getvalue() == (
        "herenow.test WARNING test_a_line_reads_as_text_and_keeps_its_fields: "
        "refused user=alice reason='two words\\n' empty='' number=3\n"
    )
    assert Line("refused", {"number": 3}).fields == {"number": 3}


class Fails(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left")


class Odd:
    def __str__(self) -> str:
        raise ZeroDivisionError


def test_no_log_call_raises_whatever_its_handlers_filters_and_fields_do() -> None:
    log, library = get_logger("herenow.test"), Guarded(logging.getLogger("herenow.test"), {})
    with handler(Fails()):
        for level in ("debug", "info", "warning", "error", "critical", "exception"):
            getattr(log, level)("an event", key="value")
            getattr(library, level)("an event: %s", "value")
    stream = io.StringIO()
    stream.close()
    with handler(logging.StreamHandler(stream)):
        log.error("an event", key=Odd())
        library.error("%s", Odd())


@pytest.mark.parametrize("level", ["NOTSET", "INFO", "WARNING", "DEBUG"])
def test_the_library_form_configures_nothing_and_logs_as_the_application_says(level: str) -> None:
    """Once it wrote everything to stdout, whatever the application's ``logging`` said, debug lines too."""
    program = f"""
import asyncio, io, logging, sys, tempfile
stream = io.StringIO()
if "{level}" != "NOTSET":
    logging.basicConfig(level="{level}", stream=stream, format="%(name)s|%(levelname)s|%(message)s")
before = list(logging.getLogger().handlers)
from herenow import Presence

async def main():
    with tempfile.TemporaryDirectory() as directory:
        presence = Presence(f"sqlite:///{{directory}}/app.db", dev=True)
        await presence.start()
        await presence.registry.connect("alice", "c", node="n")
        while presence.writer.state().pending:
            await asyncio.sleep(0.01)
        await presence.stop()

asyncio.run(main())
names = [name for name in logging.root.manager.loggerDict if name == "herenow" or name.startswith("herenow.")]
assert names
assert logging.getLogger().handlers == before
assert not any(logging.getLogger(name).handlers or logging.getLogger(name).level for name in names)
text = stream.getvalue()
assert ("herenow.presence|INFO|change user=alice" in text) == ("{level}" in ("INFO", "DEBUG")), text
assert ("|DEBUG|flushed" in text) == ("{level}" == "DEBUG"), text
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_nobody_else_makes_loggers_of_their_own() -> None:
    """A logger that ``herenow.logs`` did not make raises into who calls it, or writes to stdout."""
    for path in (ROOT / "src" / "herenow").rglob("*.py"):
        if path.name != "logs.py":
            text = path.read_text()
            assert "structlog" not in text, path
            assert "= logging.getLogger(" not in text or path.parts[-2:] == ("transports", "requests.py"), path
