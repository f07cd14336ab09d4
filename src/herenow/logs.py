"""The log of herenow: loggers of the standard library's under ``herenow``, by which an event is told with its fields.

    log = get_logger("herenow.gateway")
    log.info("connected", user="alice", transport="websocket")

Nothing is configured here, and no handler added: what becomes of a line is the application's to say, by ``logging``.
``herenow serve`` says it in ``cli/logs.py``.

A log call never raises into the code that makes it, whatever its handlers, filters and formatters do: who is online
must not depend on whether that can be told. Nor does it format anything: that is for whoever writes the line.
"""

import contextlib
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any


class Line:
    """What a record says, as its ``msg``; as text, ``event key=value``.

    Attributes:
        event: what happened.
        fields: to whom, and how.
    """

    __slots__ = ("event", "fields")

    def __init__(self, event: str, fields: Mapping[str, object]) -> None:
        self.event = event
        self.fields = fields

    def __str__(self) -> str:
        return " ".join([self.event, *(f"{name}={_plain(value)}" for name, value in self.fields.items())])


class Log:
    """One logger. The positional argument is the event, a fixed sentence; what varies goes into fields.

    ``exc_info`` is no field but the fault that the line is about: an exception, or ``True`` for the one being handled.
    """

    __slots__ = ("_is_enabled", "_logger")

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._is_enabled = logger.isEnabledFor

    @property
    def tells_info(self) -> bool:
        """Whether a line of :meth:`info` is written by anybody: what only such lines need is not worth doing else."""
        return self._is_enabled(logging.INFO)

    def debug(self, event: str, /, *, exc_info: object = None, **fields: object) -> None:
        if self._is_enabled(logging.DEBUG):
            self._tell(logging.DEBUG, event, exc_info, fields)

    def info(self, event: str, /, *, exc_info: object = None, **fields: object) -> None:
        if self._is_enabled(logging.INFO):
            self._tell(logging.INFO, event, exc_info, fields)

    def warning(self, event: str, /, *, exc_info: object = None, **fields: object) -> None:
        if self._is_enabled(logging.WARNING):
            self._tell(logging.WARNING, event, exc_info, fields)

    def error(self, event: str, /, *, exc_info: object = None, **fields: object) -> None:
        if self._is_enabled(logging.ERROR):
            self._tell(logging.ERROR, event, exc_info, fields)

    def critical(self, event: str, /, *, exc_info: object = None, **fields: object) -> None:
        if self._is_enabled(logging.CRITICAL):
            self._tell(logging.CRITICAL, event, exc_info, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error, with the fault that is being handled."""
        if self._is_enabled(logging.ERROR):
            self._tell(logging.ERROR, event, True, fields)

    def _tell(self, level: int, event: str, exc_info: Any, fields: dict[str, object]) -> None:
        with contextlib.suppress(Exception):  # a handler of somebody's: there is nobody left to tell
            self._logger.log(level, Line(event, fields), exc_info=exc_info, stacklevel=3)


class Guarded(logging.LoggerAdapter[logging.Logger]):
    """A logger for a library that logs in the middle of what it does for us: it never raises either."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        with contextlib.suppress(Exception):
            super().log(level, msg, *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs


def get_logger(name: str) -> Log:
    """Return the logger of this name: ``herenow``, a dot and a part."""
    return Log(logging.getLogger(name))


def _plain(value: object) -> str:
    """A value that is no risk for the line it stands in: as it is if it is one plain word, else as Python writes it."""
    text = str(value)
    return text if text.isprintable() and text and not any(each in text for each in " ='\"") else repr(text)
