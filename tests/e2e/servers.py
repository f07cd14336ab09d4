"""Herenow servers in processes of their own, to be stopped, killed and started again."""

import contextlib
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx

from programs import Running, start
from support import ROOT, free_port, http_get, listens


class PresenceServer:
    """``herenow serve`` on a port and a database that stay the same over restarts.

    Args:
        database: the SQLite file.
        flags: of the command; by default that of a first try.
        settings: further settings, by name.

    Attributes:
        from_nothing: whether a start is timed, and so begins with loading the program.
    """

    from_nothing = False

    def __init__(self, database: Path, /, *, flags: tuple[str, ...] = ("--dev",), **settings: Any) -> None:
        self.database = database
        self._flags = flags
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = settings
        self._log = database.with_suffix(".log")
        self._process: Running | None = None

    @property
    def address(self) -> str:
        """Of its database."""
        return f"sqlite:///{self.database}"

    @property
    def environment(self) -> dict[str, str]:
        """Its settings."""
        given = {"database": self.address, **self._settings}
        settings = {f"HERENOW_{name.upper()}": str(value) for name, value in given.items()}
        return {**os.environ, "PYTHONPATH": str(ROOT / "src"), **settings}

    def start(self, timeout_s: float = 20.0) -> float:
        """Start it and wait until it is ready; return how long that took, in seconds."""
        began = time.monotonic()
        self._process = self._launch("serve", *self._flags, "--port", str(self.port))
        while time.monotonic() - began < timeout_s:
            if self._process.poll() is not None:
                raise AssertionError(f"the server ended at once:\n{self.log()[-3000:]}")
            with contextlib.suppress(httpx.HTTPError):
                if listens(self.port) and http_get(self.url + "/readyz", timeout=1).status_code == 200:
                    return time.monotonic() - began
            time.sleep(0.02)
        raise AssertionError(f"the server is not ready after {timeout_s} s:\n{self.log()[-3000:]}")

    def _launch(self, *arguments: str) -> Running:
        return start(
            *arguments,
            cwd=self.database.parent,
            environment=self.environment,
            out=self._log,
            err=self._log,
            from_nothing=self.from_nothing,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """``kill -9``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self, timeout_s: float = 5.0) -> float:
        """``SIGTERM``; return how long it took to exit, in seconds. It must exit with 0."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout_s)
        assert code == 0, f"exit code {code}:\n{self.log()[-3000:]}"
        return time.monotonic() - began

    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What it wrote, over all its lives."""
        return self._log.read_text()

    def cpu_s(self) -> float:
        """The processor time that the process has used."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rows(self) -> dict[str, tuple[bool, str]]:
        """What the store says of every user: online, last active. Read past the server, as the application would."""
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=5) as connection:
            found = connection.execute("SELECT id, isOnline, lastActive FROM users").fetchall()
        connection.close()
        return {str(user): (online == 1, str(active)) for user, online, active in found}

    def online_rows(self) -> set[str]:
        """Whom the store shows online."""
        return {user for user, (online, _) in self.rows().items() if online}
