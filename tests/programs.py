"""Runs ``herenow …`` in processes of their own, which the tests need not wait for to load.

A process that has loaded herenow once is forked for each command (the standard library's fork server). What runs is
the same program with its own id, files, environment and signals, and is killed like any other; it only starts a second
sooner, and half of what the tests of the commands did was loading. ``tests/cli/test_start.py`` starts the program as
people do, and so does ``make soak``.
"""

import functools
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import NoReturn, Protocol
from unittest import mock

from support import PYTHONPATH

os.environ["COLUMNS"] = "120"  # Rich looks when it is loaded

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["preloaded"])


@functools.cache
def _begin() -> None:
    """Start the fork server: of what is on our ``sys.path`` it knows nothing, and passes over what it cannot load."""
    with mock.patch.dict(os.environ, PYTHONPATH=PYTHONPATH):
        forkserver.ensure_running()


CLOCK = "TESTS_CLOCK"
"""The variable that names a file for a program: by so many seconds its wall clock is ahead of ours, at any moment."""


class Running(Protocol):
    """A process; as much of :class:`subprocess.Popen` as the tests need."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, minus the signal's number if one killed it; ``None`` while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """

    def send_signal(self, number: int, /) -> None:
        """Send it a signal; nothing once it has ended."""

    def kill(self) -> None:
        """``kill -9``."""


def start(
    *arguments: str, cwd: Path, environment: Mapping[str, str], out: Path, err: Path, from_nothing: bool = False
) -> Running:
    """Run ``herenow`` with these arguments.

    Args:
        arguments: what follows ``herenow``.
        cwd: where it runs.
        environment: all of its environment.
        out: the file that its output is added to.
        err: the file for its errors; may be the same.
        from_nothing: load it anew, as ``herenow`` on a command line does.
    """
    if not from_nothing:
        return _Forked(arguments, cwd, environment, out, err)
    with out.open("ab") as out_file, err.open("ab") as err_file:
        return subprocess.Popen(
            [sys.executable, "-m", "herenow.cli", *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
        )


class _Forked:
    """See :class:`Running`."""

    def __init__(
        self, arguments: tuple[str, ...], cwd: Path, environment: Mapping[str, str], out: Path, err: Path
    ) -> None:
        _begin()
        self._arguments = arguments
        given = (arguments, str(cwd), dict(environment), str(out), str(err))
        self._process = _forks.Process(target=_run, args=given, daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._arguments, timeout or 0)
        return code

    def send_signal(self, number: int, /) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _follow_clock(path: Path) -> None:
    """Let this process have a wall clock that a test sets, while it runs too."""
    real_ns = time.time_ns

    def time_ns() -> int:
        return real_ns() + round(float(path.read_text()) * 1e9)

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def _run(arguments: tuple[str, ...], cwd: str, environment: dict[str, str], out: str, err: str) -> NoReturn:
    """Become the program."""
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w")), encoding="utf-8", write_through=True)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if CLOCK in environment:
        _follow_clock(Path(environment[CLOCK]))
    sys.argv = [str(Path(sys.executable).with_name("herenow")), *arguments]
    from herenow.cli.app import main

    main()
    sys.exit()
