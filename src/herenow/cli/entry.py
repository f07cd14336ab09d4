"""Where the program begins: a Ctrl-C ends it quietly from here on, not only once all is loaded."""

import contextlib
import os
import signal

from herenow.cli.interrupt import leave


def main() -> None:
    """Load the command line, and run it."""
    signal.signal(signal.SIGINT, leave)
    open_what_is_closed()
    from herenow.cli.app import main as run  # half a second, in which a person may think better of it

    run()


def open_what_is_closed() -> None:
    """Open ``/dev/null`` in the place of standard streams that are closed: else a socket would have their number."""
    for descriptor in range(3):
        with contextlib.suppress(OSError):
            try:
                os.fstat(descriptor)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free: this one
