"""The child processes of a run: the server under measurement and its load, started, spoken to, and always killed."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from benchmarks.measure import gauge
from benchmarks.orders import Do, Order, Reply

ROOT = Path(__file__).resolve().parent.parent

START_S = 20.0
"""How long a server may take until it says ``ready``."""

ORDER_S = 600.0
"""How long one order may take in all. The load itself gives up earlier when nothing moves."""

STDERR_LINES = 15


class BenchmarkError(Exception):
    """A run that cannot go on; the text says which server and why.

    BenchmarkError
    ├── ServerError   a server did not start
    └── RunError      a server did not do what the load asked of it
    """


class ServerError(BenchmarkError):
    """A server did not start."""


class RunError(BenchmarkError):
    """A server did not do what the load asked of it."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which CPU cores the server and the load may run on; ``None``: the scheduler's choice."""

    server: frozenset[int] | None = None
    load: frozenset[int] | None = None

    @classmethod
    def choose(cls) -> Self:
        """Give the server the last core for itself and the load the first, where the system can pin and has two."""
        if sys.platform == "linux":
            available = sorted(os.sched_getaffinity(0))
            if len(available) >= 2:
                return cls(server=frozenset(available[-1:]), load=frozenset(available[:1]))
        return cls()

    @property
    def pinned(self) -> bool:
        """Whether both sides are pinned."""
        return self.server is not None


@contextlib.contextmanager
def pinned(cores: frozenset[int] | None) -> Iterator[None]:
    """Run the block on ``cores``; a child started in it inherits them, from its first instruction and thread on."""
    if sys.platform == "linux" and cores is not None:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)
    else:
        yield


class Child:
    """One child process with its standard error kept in a file. A context manager: leaving it kills the process."""

    def __init__(
        self, command: Sequence[str], cores: frozenset[int] | None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._cores = cores
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # A file, not a pipe: nobody reads along, so a pipe that fills would stop the child.
        self._stderr = tempfile.TemporaryFile()
        with pinned(self._cores):
            # A session of its own: Ctrl-C reaches the runner only, which then kills in order.
            self._process = subprocess.Popen(
                self._command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd=ROOT,
                env={**os.environ, "NODE_ENV": "production", **self._environment},
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stderr.close()
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        if self._process is None:
            raise AssertionError("the child is used before it is entered")
        return self._process

    def send_line(self, line: bytes) -> None:
        """Write one line to the child's standard input; a dead child is found by the read that follows."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + b"\n")

    def read_line(self, within_s: float) -> bytes:
        """Return the next line of standard output, or nothing at its end.

        Raises:
            TimeoutError: no line came within ``within_s`` seconds.
        """
        stdout = self.process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], within_s)[0]:
            raise TimeoutError
        return stdout.readline()

    def last_words(self) -> str:
        """Return the last lines of standard error, indented, for a message to end with."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").splitlines()[-STDERR_LINES:]
        return "".join(f"\n    {line}" for line in lines)


class ServerProcess(Child):
    """A peer, on a free port, entered once it is ready."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        cores: frozenset[int] | None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = free_port()
        super().__init__([*command, str(self.port)], cores, environment)

    def __enter__(self) -> Self:
        try:
            super().__enter__()
            self._await_ready()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, OSError):
                raise ServerError(f"{self.name} does not start: {error}") from error
            raise
        self.gauge = gauge(self.process.pid)
        return self

    def _await_ready(self) -> None:
        deadline_s = time.monotonic() + START_S
        try:
            while line := self.read_line(max(0.0, deadline_s - time.monotonic())):
                if line.strip() == b"ready":
                    return
        except TimeoutError:
            raise ServerError(f"{self.name} is not ready after {START_S:g} s{self.last_words()}") from None
        code = self.process.wait()
        raise ServerError(f"{self.name} ended with exit code {code} before it was ready{self.last_words()}")


class LoadProcess(Child):
    """The load for one server, or for several that are one cluster."""

    def __init__(self, servers: Sequence[ServerProcess], cores: frozenset[int] | None) -> None:
        self._server = servers[0]
        ports = (str(server.port) for server in servers)
        super().__init__([sys.executable, "-m", "benchmarks.load", *ports], cores)

    def order(self, do: Do, count: int = 0, **more: Any) -> Reply:
        """Give one order, of which ``orders.Order`` has the words, and return the load's reply.

        Raises:
            RunError: the server did not do what was asked, or the load itself failed.
        """
        name = self._server.name
        self.send_line(msgspec.json.encode(Order(do=do, count=count, **more)))
        try:
            line = self.read_line(ORDER_S)
        except TimeoutError:
            raise RunError(f"{name}: `{do} {count}` did not end within {ORDER_S:g} s{self.last_words()}") from None
        if not line:
            raise RunError(f"{name}: the load ended during `{do} {count}`{self.last_words()}")
        reply = msgspec.json.decode(line, type=Reply)
        if reply.error is not None:
            raise RunError(f"{name}: {reply.error} (in `{do} {count}`){self._server.last_words()}")
        return reply


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
