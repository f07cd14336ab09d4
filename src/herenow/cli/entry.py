"""Where the program begins: a Ctrl-C ends it quietly from here on, not only once all is loaded."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130


def main() -> None:
    """Load the command line, and run it."""
    signal.signal(signal.SIGINT, _leave)
    from herenow.cli.app import main as run  # half a second, in which a person may think better of it

    run()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Nothing was begun: there is nothing to put away."""
    sys.stdout.flush()
    os._exit(INTERRUPTED)
