"""Where the log goes: to stderr, for people on a terminal, as one JSON object a line otherwise.

A fault is one line on a terminal, with what was raised and where; its traceback stands in the JSON, and in the log of
``--log-level debug``. Lines of the libraries (uvicorn, websockets, asyncio) look like ours.
"""

import asyncio
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from herenow.cli.options import describe
from herenow.socketio_server.faults import LOGGER as FAULTS

LEVELS = ("debug", "info", "warning", "error")


def set_up(level: str) -> None:
    """Log from this level on.

    Args:
        level: one of ``LEVELS``.
    """
    for_people = sys.stderr.isatty()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if for_people else "iso", utc=not for_people),
        structlog.processors.StackInfoRenderer(),
    ]
    if for_people:
        console = structlog.dev.ConsoleRenderer(14, exception_formatter=structlog.dev.plain_traceback)
        final: list[Any] = [console] if level == "debug" else [in_one_line, console]
    else:
        final = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final]
        )
    )
    handler.addFilter(_is_news)
    root = logging.getLogger()
    root.handlers = [handler]
    # What the libraries say below a warning is about themselves.
    root.setLevel(max(number, logging.WARNING) if level != "debug" else number)
    logging.getLogger(FAULTS).setLevel(number)  # news of peers, though the Socket.IO server is a library too


def in_one_line(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put in the place of a traceback what was raised, and where."""
    given = line.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else (given if isinstance(given, tuple) else sys.exc_info())[1]
    if given and error is not None:
        line["raised"] = describe(error)
    return line


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line tells something. That a request was cut short at the end is what an end is."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError)
