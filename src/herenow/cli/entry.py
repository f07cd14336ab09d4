"""Where the program begins: a Ctrl-C ends it quietly from here on, not only once all is loaded."""

import os
import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130


def main() -> None:
    """Load the command line, and run it."""
    signal.signal(signal.SIGINT, leave)
    from herenow.cli.app import main as run  # half a second, in which a person may think better of it

    run()


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """End at once, as a signal handler: for where nothing is to be put away."""
    os._exit(INTERRUPTED)
