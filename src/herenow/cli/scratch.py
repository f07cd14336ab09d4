"""A throw-away server for ``herenow test``: its own process, port and data, and nothing left of it afterwards.

Its users are in a SQLite file beside the application's, on the same disk, or in a MongoDB database beside it, on the
same server.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import herenow
from herenow.cli.options import CouldNotLook
from herenow.cli.output import complain
from herenow.errors import StoreError
from herenow.http import state_file
from herenow.settings import LONGEST_RECONNECT_S, Settings, sqlite_path
from herenow.store.address import is_mongo
from herenow.store.base import Store
from herenow.store.nodes import Node
from herenow.store.opening import open_store

if TYPE_CHECKING:
    from herenow.store.mongo.scratch import ScratchDatabase

_GIVEN = (
    "database",
    "users_collection",
    "create_users",
    "offline_within_s",
    "ping_interval_s",
    "ping_timeout_s",
    "restart_grace_s",
)
"""The settings that a throw-away server is given; in the environment, where a password is seen by nobody else."""

_GIVEN_TO_NODES = ("cluster_prefix", "node_beat_s", "node_lease_s")
"""And those that one of a cluster is given as well."""

STARTS_WITHIN_S = 20.0
ENDS_WITHIN_S = 10.0
LONGEST_OFFLINE_WITHIN_S = 3.0


class Scratch:
    """A directory, and for MongoDB a database; removed at the end.

    Attributes:
        settings: those of the throw-away servers: the application's, with the long waits made short.
        shortened: what was made short, as sentences.
    """

    def __init__(self, live: Settings) -> None:
        database = sqlite_path(live.database)
        beside = Path(tempfile.gettempdir()) if database is None else database.absolute().parent
        self._database = _scratch_database(live)
        try:
            self.directory = Path(tempfile.mkdtemp(prefix=".herenow-test-", dir=beside))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise CouldNotLook(
                f"scratch data cannot be put beside the database, in {beside}: {reason}; "
                "run this where the database is, as a user who may write there"
            ) from error
        changed = self._changed(live)
        self.settings = live.model_copy(update=changed)
        self.shortened = [
            f"{name} {getattr(live, name):g} → {value:g}"
            for name, value in changed.items()
            if isinstance(value, float) and value != getattr(live, name)
        ]
        self._servers: list[ScratchServer] = []

    def _changed(self, live: Settings) -> dict[str, object]:
        """Say which settings are others than the application's: its long waits are made short."""
        offline_within_s = min(live.offline_within_s, LONGEST_OFFLINE_WITHIN_S)
        return {
            "cluster": None,
            "offline_within_s": offline_within_s,
            "ping_interval_s": min(live.ping_interval_s, 1.0),
            "ping_timeout_s": min(live.ping_timeout_s, 1.5),
            "restart_grace_s": min(live.restart_grace_s, 1.5 * LONGEST_RECONNECT_S + offline_within_s),
        }

    def server(self, name: str, *, users: str | None = None) -> "ScratchServer":
        """Describe a server; it is not started.

        Args:
            name: what its log is called.
            users: what its database is called; servers of one cluster share one. By default it has one of its own.
        """
        if self._database is None:
            where: dict[str, object] = {"database": f"sqlite:///{self.directory}/{users or name}.db"}
        else:
            where = {"database": self._database.url, "users_collection": users or name, "create_users": True}
        server = ScratchServer(self.directory, name, self.settings.model_copy(update=where))
        self._servers.append(server)
        return server

    def remove(self) -> None:
        """Leave nothing behind."""
        for server in self._servers:
            server.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._database is not None:
            try:
                self._database.drop()
            except StoreError as error:
                complain(str(error))


def _scratch_database(live: Settings) -> "ScratchDatabase | None":
    """Describe a MongoDB database for scratch data; ``None`` where files do.

    Raises:
        StoreUrlInvalid: the address is none, or the driver is not installed.
    """
    open_store(live)  # for its errors alone
    if not is_mongo(live.database):
        return None
    from herenow.store.mongo.scratch import ScratchDatabase  # here: the driver is an extra

    return ScratchDatabase(live.database)


class ScratchServer:
    """One throw-away server, which can be killed and started again on the same data.

    Attributes:
        store: its database, seen from outside.
        node: the server as it describes itself, once it is started.
    """

    def __init__(self, directory: Path, name: str, settings: Settings) -> None:
        self._directory = directory
        self._log = directory / f"{name}.log"
        # Neither the application's own settings nor its herenow.toml: the working directory is the scratch one.
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HERENOW_")}
        ours = str(Path(herenow.__file__).parent.parent)
        paths = [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        python_path = os.pathsep.join(str(Path(path).absolute()) for path in paths)
        names = _GIVEN if settings.cluster is None else (*_GIVEN, *_GIVEN_TO_NODES)
        given = {f"HERENOW_{name.upper()}": str(getattr(settings, name)) for name in names}
        if settings.cluster is not None:
            given["HERENOW_CLUSTER"] = settings.cluster_url
        # XDG_STATE_HOME: nobody but us is to find it.
        self._environment = {**kept, **given, "PYTHONPATH": python_path, "XDG_STATE_HOME": str(directory)}
        self._process: subprocess.Popen[bytes] | None = None
        self.store: Store = open_store(settings)
        self.node: Node | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        if self.node is None:
            raise AssertionError("the server is not started")
        return self.node.address

    async def start(self) -> Self:
        """Start it, and wait until its state file says where it listens.

        Raises:
            CouldNotLook: it does not start.
        """
        self._process = self._spawn()
        self.node = await self._wait_for_state(self._process)
        return self

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "herenow.cli", "serve", "--dev", "--host", "127.0.0.1", "--port", "0"]
        command += ["--log-level", "warning"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us alone: we end it
            )

    async def _wait_for_state(self, process: subprocess.Popen[bytes]) -> Node:
        deadline_s = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < deadline_s and process.poll() is None:
            for path in (self._directory / "herenow").glob("*.json"):
                state = state_file.read(path)
                if state is not None and state.node.pid == process.pid and state.phase == "serving":
                    return state.node
            await asyncio.sleep(0.02)
        said = self._log.read_text(errors="replace").strip().splitlines()
        why = said[-1].removeprefix("herenow: ") if said else f"it says nothing within {STARTS_WITHIN_S:g} s"
        raise CouldNotLook(f"the throw-away server does not start: {why}")

    def pause(self) -> None:
        """Let it stand still, as ``kill -STOP`` does."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    async def stop(self) -> int | None:
        """Ask it to end, and wait until it has; returns its exit code, or ``None``: it goes on."""
        process = self._send(signal.SIGTERM)
        try:
            return await asyncio.to_thread(process.wait, ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            return None

    def _send(self, number: signal.Signals) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise AssertionError("the server is not started")
        self._process.send_signal(number)
        return self._process

    def kill(self) -> None:
        """End it as ``kill -9`` does. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    async def close(self) -> None:
        """Kill it, and let its database go."""
        self.kill()
        await self.store.close()
