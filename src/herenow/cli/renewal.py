"""A server renewed in place: the new code takes the listening socket over, and nobody is seen to go.

SIGHUP. First the same command is tried (``serve --check``), with the new code and the settings of now, in a process of
its own, while the old one goes on: where that fails, or takes too long, nothing else happens. Then the old one tells
its clients to come back, writes what is left to write, leaves everyone online in the store, and becomes the new one
(``exec``): the same process id, for whoever supervises it, and the same listening socket, so that whoever comes
meanwhile waits in its queue. The new one owns the store as the same node, adopts everyone, and whoever is back within
``restart_grace_s`` was never seen to go.

A server that was started on a terminal ends when that is closed, as ever, though SIGHUP is what tells it so; one that
was started with ``nohup`` goes on.

What is handed over goes by the environment: the number of the listening socket, and which life of the node goes on.
SIGTERM and SIGHUP are held back in between: the new one hears the one first, and needs the other no more.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import Final, NamedTuple

from herenow.logs import get_logger

log = get_logger("herenow.serve")

LISTENER: Final = "HERENOW_LISTENER"
RENEWED: Final = "HERENOW_RENEWED"
OURS: Final = "HERENOW_RENEWS_AT"

_HELD: Final = (signal.SIGTERM, signal.SIGHUP)

TRIED_FOR_S: Final = 20.0
"""How long the new code may take to say that it would start."""


class Renewed(NamedTuple):
    """Which life of a node goes on.

    Attributes:
        epoch: its stamp.
        ended_ms: when its process before served last, Unix time.
    """

    epoch: int
    ended_ms: int


def take_over() -> tuple[socket.socket | None, Renewed | None]:
    """Take what the code before this one has handed over in this very process, if any; once."""
    number, life = os.environ.pop(LISTENER, ""), os.environ.pop(RENEWED, "")
    with contextlib.suppress(ValueError, OSError):
        pid, descriptor = map(int, number.split(":"))
        epoch, ended_ms = map(int, life.split(":"))
        if pid == os.getpid():
            os.set_inheritable(descriptor, False)
            return socket.socket(fileno=descriptor), Renewed(epoch, ended_ms)
    return None, None


class Terminal:
    """The terminal that controls this process, if there is one: its end sends SIGHUP, too.

    To be made before anybody handles that signal.

    Attributes:
        is_needed: its end is the process's. ``nohup`` says that it is not, by having the signal ignored.
    """

    def __init__(self) -> None:
        self.is_needed = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self._was_there = _is_there()

    def has_gone(self) -> bool:
        """Say, the first time that this is so, that it is there no more."""
        has_gone = self._was_there and not _is_there()
        self._was_there = self._was_there and not has_gone
        return has_gone

    def hand_on(self) -> None:
        """Let what this process becomes know whether it needs a terminal."""
        if not self.is_needed:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def hold_signals() -> None:
    """Hold signals back: there is nobody who could end what is handed over, and it must not die of one more SIGHUP."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def hear_signals() -> None:
    """Let those come in that were held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


async def try_new_code(address: str) -> str | None:
    """Say why the same command would not start now; ``None``: it would.

    Args:
        address: host and port at which this process listens, which need not be free.
    """
    command = [*sys.orig_argv, "--check"]
    try:
        program = await asyncio.create_subprocess_exec(
            sys.executable, *command[1:], stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, OURS: address},
        )  # fmt: skip
    except OSError as error:
        return f"it cannot be run: {(error.strerror or str(error)).lower()}"
    try:
        async with asyncio.timeout(TRIED_FOR_S):
            _, said = await program.communicate()
    except TimeoutError:
        return f"it did not say within {TRIED_FOR_S:g} s that it would start"
    finally:
        if program.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
            await program.wait()
    if program.returncode == 0:
        return None
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].removeprefix("herenow: ") if lines else f"it ended with {program.returncode}"


def become_new(listener: socket.socket, life: Renewed) -> None:
    """Become the new code, in this process. Does not return.

    Raises:
        OSError: the system cannot run it.
    """
    os.set_inheritable(listener.fileno(), True)
    os.environ[LISTENER] = f"{os.getpid()}:{listener.fileno()}"
    os.environ[RENEWED] = f"{life.epoch}:{life.ended_ms}"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)
