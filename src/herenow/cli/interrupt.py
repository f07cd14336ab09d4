"""What Ctrl-C does where nothing is to be put away; and that it does nothing while something is."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final, NoReturn

INTERRUPTED: Final = 130
"""The exit code of a command that a person has ended."""


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """End at once, as a signal handler."""
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let neither Ctrl-C nor SIGTERM end what puts things away, which takes a moment at most."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
