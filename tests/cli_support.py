"""Commands and servers as an operator runs them: processes of their own, on real ports and real files."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from support import ROOT

_ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("HERENOW_")} | {
    "PYTHONPATH": str(ROOT / "src"),
    "COLUMNS": "120",
    "PYTHONUNBUFFERED": "1",
}

Ended = subprocess.CompletedProcess[str]


def herenow(*arguments: str | Path, cwd: Path, timeout_s: float = 60, **environment: str) -> Ended:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "herenow.cli", *map(str, arguments)],
        cwd=cwd,
        env={**_ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def answer(ended: Ended) -> Any:
    """What a command printed with ``--json``."""
    return json.loads(ended.stdout)


class Server:
    """A ``herenow serve`` in a process of its own.

    Attributes:
        directory: where its ``herenow.db`` is.
        address: where it listens.
    """

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self.directory = directory
        self._out = (directory / "serve.out").open("w+")
        self._err = (directory / "serve.err").open("w+")
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "herenow.cli", "serve", "--port", "0", *options],
            cwd=directory,
            env={**_ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
        )
        self.address = ""

    def wait_until_ready(self, timeout_s: float = 20.0) -> None:
        """Wait until it answers."""
        ends_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_s and self.popen.poll() is None:
            words = self.said().split()
            found = [word for word in words if word.startswith("http://")]
            if found:
                self.address = found[0]
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{self.address}/readyz", timeout=5).status_code == 200:
                        return
            time.sleep(0.02)
        raise AssertionError(f"the server does not start: {self.said()} {self.logged()}")

    def said(self) -> str:
        """What it printed."""
        return (self.directory / "serve.out").read_text()

    def logged(self) -> str:
        """What it logged."""
        return (self.directory / "serve.err").read_text()

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 10.0) -> tuple[int, float]:
        """Send a signal; return the exit code, and the seconds that it took."""
        began_s = time.monotonic()
        self.popen.send_signal(number)
        return self.popen.wait(timeout_s), time.monotonic() - began_s

    def close(self) -> None:
        """End it, however it is."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        self._out.close()
        self._err.close()


@contextlib.contextmanager
def serving_process(directory: Path, *options: str, dev: bool = True, **environment: str) -> Iterator[Server]:
    """Run a server while inside; no traceback may be in its log."""
    server = Server(directory, *(["--dev"] if dev else []), *options, **environment)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.close()
    assert "Traceback" not in server.logged(), server.logged()
