"""Commands and servers as an operator runs them: processes of their own, on real ports and real files."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from programs import start
from support import ROOT

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("HERENOW_")} | {
    "PYTHONPATH": str(ROOT / "src"),
    "COLUMNS": "120",
    "PYTHONUNBUFFERED": "1",
}

Ended = subprocess.CompletedProcess[str]


def herenow(*arguments: str | Path, cwd: Path, timeout_s: float = 60, **environment: str) -> Ended:
    """Run a command to its end."""
    given = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as directory:
        out, err = Path(directory, "out"), Path(directory, "err")
        program = start(*given, cwd=cwd, environment={**ENVIRONMENT, **environment}, out=out, err=err)
        try:
            code = program.wait(timeout_s)
        finally:
            program.kill()
        return Ended(given, code, out.read_text(), err.read_text())


def broken(proof: dict[str, Any]) -> list[dict[str, Any]]:
    """The promises that ``herenow test --json`` found broken, but for times that came up to a second late.

    The machine runs other tests beside; how fast herenow is, ``make bench`` says.
    """

    def is_late(result: dict[str, Any]) -> bool:
        measured_ms, bound = result["measuredMs"], result["bound"]
        return measured_ms is not None and measured_ms <= float(bound.removesuffix(" ms").replace(",", "")) + 1_000

    return [each for each in proof["results"] if not each["ok"] and not is_late(each)]


def answer(ended: Ended) -> Any:
    """What a command printed with ``--json``."""
    return json.loads(ended.stdout)


class Server:
    """A ``herenow serve`` in a process of its own.

    Attributes:
        directory: where its ``herenow.db`` is.
        address: where it listens.
        where: the options that say where it listens.
        from_nothing: whether it is loaded anew, as on a command line: a fork would become something else by ``exec``.
    """

    where: tuple[str, ...] = ("--port", "0")
    from_nothing = False

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self.directory = directory
        for name in ("serve.out", "serve.err"):
            (directory / name).write_text("")
        self.program = start(
            *("serve", *self.where, *options),
            cwd=directory,
            environment={**ENVIRONMENT, **environment},
            out=directory / "serve.out",
            err=directory / "serve.err",
            from_nothing=self.from_nothing,
        )
        self.address = ""

    def wait_until_ready(self, timeout_s: float = 20.0) -> None:
        """Wait until it answers."""
        ends_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_s and self.program.poll() is None:
            words = self.said().split()
            found = [word for word in words if word.startswith(("http://", "https://"))]
            if found:
                self.address = found[0]
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{self.address}/readyz", timeout=5, verify=False).status_code == 200:
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
        self.program.send_signal(number)
        return self.program.wait(timeout_s), time.monotonic() - began_s

    def close(self) -> None:
        """End it, however it is."""
        self.program.kill()
        self.program.wait()


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
