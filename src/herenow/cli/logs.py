"""Where the log goes: to stderr, for people on a terminal, as one JSON object a line otherwise.

A fault is one line on a terminal, with what was raised and where; its traceback stands in the JSON, and in the log of
``--log-level debug``. Lines of the libraries (uvicorn, websockets, asyncio) look like ours.

What is logged, and what else is printed while the server runs, is rendered and written by a thread (``outlet.py``): the
event loop never waits for who reads it.
"""

import asyncio
import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import structlog

from herenow.cli.options import describe
from herenow.cli.outlet import Outlet, Stream, descriptor_of
from herenow.logs import Line

LEVELS = ("debug", "info", "warning", "error")

FLUSH_S = 0.5
"""How long the end waits for the last lines to be written: nobody may read them."""

Shown = MutableMapping[str, Any]
Item = logging.LogRecord | str


class Voice:
    """All that a server says on stderr and stdout.

    Args:
        level: the log's, one of ``LEVELS``.
    """

    def __init__(self, level: str) -> None:
        self._errors = sys.stderr
        for_people = self._errors is not None and self._errors.isatty()
        self._show = _renderer(for_people=for_people, in_full=level == "debug")
        self._err: Outlet[Item] = Outlet(descriptor_of(cast(Any, sys.stderr)), self._render, self._tell_lost)
        self._out: Outlet[str] = Outlet(descriptor_of(cast(Any, sys.stdout)), lambda texts: _encoded("".join(texts)))
        self._level = logging.getLevelNamesMapping()[level.upper()]

    def begin(self) -> None:
        """Take the log, ``sys.stderr`` and ``sys.stdout`` over, for the rest of the process."""
        handler = _ToOutlet(self._err.put)
        root = logging.getLogger()
        root.handlers = [handler]
        # What the libraries say below a warning is about themselves.
        of_libraries = max(self._level, logging.WARNING) if self._level > logging.DEBUG else self._level
        root.setLevel(of_libraries)
        logging.getLogger("herenow").setLevel(self._level)
        logging.getLogger("herenow.socketio").setLevel(of_libraries)  # what any stranger can make it say
        if sys.stderr is not None:
            sys.stderr = cast(TextIO, Stream(cast(Any, sys.stderr), self._err.put))
        if sys.stdout is not None:
            sys.stdout = cast(TextIO, Stream(cast(Any, sys.stdout), self._out.put))

    def count_lost(self, count: Callable[[int], object]) -> None:
        """Have the lines counted that cannot be written."""
        self._err.on_dropped = count

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait for the last lines to be written, for so long at most each."""
        self._err.flush(timeout_s)
        self._out.flush(timeout_s)

    def _render(self, items: Sequence[Item]) -> bytes:
        return _encoded("".join(item if isinstance(item, str) else self._show(item) + "\n" for item in items))

    def _tell_lost(self, lines: int) -> bytes:
        record = logging.LogRecord(
            "herenow.log", logging.WARNING, "", 0, Line(f"{lines:,} lines dropped", {}), (), None
        )
        return self._render([record])


class _ToOutlet(logging.Handler):
    """Hands each record on. Nothing here waits or raises."""

    def __init__(self, put: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._put = put

    def handle(self, record: logging.LogRecord) -> bool:
        """Hand a record on, without the lock that keeps a handler's output in one piece: the outlet has a queue."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, asyncio.CancelledError):  # a request cut short at the end: that is what an end is
            self._put(record)
        return True


def _renderer(*, for_people: bool, in_full: bool) -> Callable[[logging.LogRecord], str]:
    """Make what turns a record into a line.

    Args:
        for_people: for a terminal, else JSON.
        in_full: with a fault's traceback on a terminal too.
    """
    if for_people:
        console = structlog.dev.ConsoleRenderer(14, exception_formatter=structlog.dev.plain_traceback)

        def for_terminal(record: logging.LogRecord) -> str:
            line = shown(record, timestamp=f"{datetime.fromtimestamp(record.created):%H:%M:%S}")
            if record.exc_info and record.exc_info[1] is not None:
                line["exc_info" if in_full else "raised"] = record.exc_info if in_full else describe(record.exc_info[1])
            return str(console(None, record.levelname.lower(), line))

        return for_terminal
    json = structlog.processors.JSONRenderer()

    def for_programs(record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        line = shown(record, timestamp=time.replace("+00:00", "Z"))
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        return str(json(None, record.levelname.lower(), line))

    return for_programs


def shown(record: logging.LogRecord, *, timestamp: str) -> Shown:
    """What of a record is shown, but for its fault: the event, the fields, how grave it is, and when it was."""
    if isinstance(record.msg, Line):
        line: Shown = {**record.msg.fields, "event": record.msg.event}
    else:
        line = {"event": record.getMessage()}
    return {**line, "level": record.levelname.lower(), "timestamp": timestamp}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
