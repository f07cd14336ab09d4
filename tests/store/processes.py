"""Starts and stops the other processes of the tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Child:
    """A process that runs ``child.py``."""

    def __init__(self, command: str, path: Path) -> None:
        script = Path(__file__).with_name("child.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), command, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def read_line(self) -> str:
        """Wait for the next line that it prints; empty once it has ended."""
        return self._pipe(self._process.stdout).readline().strip()

    def read_rest(self) -> list[str]:
        """Read what a killed one had printed before its end."""
        return self._pipe(self._process.stdout).read().split()

    def let_go(self) -> None:
        """Send it a line, and wait until it has ended."""
        self._process.communicate("\n")

    def kill(self) -> None:
        """``kill -9``. Until ``reap`` it stays a zombie, as under a parent that does not look."""
        self._process.kill()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def reap(self) -> None:
        """End it, if it still runs, and let the system forget it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            self._pipe(pipe).close()

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


@contextmanager
def child(command: str, path: Path) -> Iterator[Child]:
    """Run one, and kill it at the end if it still lives."""
    process = Child(command, path)
    try:
        yield process
    finally:
        process.reap()
