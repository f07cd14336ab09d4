"""What herenow logs, as a test sees it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from herenow.logs import Line


class _Capture(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, Line):
            line = {**record.msg.fields, "event": record.msg.event, "log_level": record.levelname.lower()}
            if record.exc_info:
                line["exc_info"] = record.exc_info[1]
            self.lines.append(line)


@contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """Give the lines that are logged while inside: the fields of each, its ``event`` and its ``log_level``."""
    logger, capture = logging.getLogger("herenow"), _Capture()
    level = logger.level
    logger.addHandler(capture)
    logger.setLevel(logging.DEBUG)
    try:
        yield capture.lines
    finally:
        logger.setLevel(level)
        logger.removeHandler(capture)
