"""A throw-away server for ``herenow test``: its own process, port and data, and nothing left of it afterwards.

Its users are in a SQLite file beside the application's, on the same disk, or in a MongoDB database beside it, on the
same server.
"""

import asyncio
import os
import shutil
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

STARTS_WITHIN_S = 20.0
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
        offline_within_s = min(live.offline_within_s, LONGEST_OFFLINE_WITHIN_S)
        shorter = {
            "offline_within_s": offline_within_s,
            "ping_interval_s": min(live.ping_interval_s, 1.0),
            "ping_timeout_s": min(live.ping_timeout_s, 1.5),
            "restart_grace_s": min(live.restart_grace_s, 1.5 * LONGEST_RECONNECT_S + offline_within_s),
        }
        self.settings = live.model_copy(update=shorter)
        self.shortened = [
            f"{name} {getattr(live, name):g} → {value:g}"
            for name, value in shorter.items()
            if value != getattr(live, name)
        ]

    def server(self, name: str) -> "ScratchServer":
        """Describe a server with users of its own; it is not started."""
        if self._database is None:
            where: dict[str, object] = {"database": f"sqlite:///{self.directory}/{name}.db"}
        else:
            where = {"database": self._database.url, "users_collection": name, "create_users": True}
        return ScratchServer(self.directory, name, self.settings.model_copy(update=where))

    def remove(self) -> None:
        """Leave nothing behind."""
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
        node: the server's row there, once it is started.
    """

    def __init__(self, directory: Path, name: str, settings: Settings) -> None:
        self._directory = directory
        self._log = directory / f"{name}.log"
        # Neither the application's own settings nor its herenow.toml: the working directory is the scratch one.
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HERENOW_")}
        ours = str(Path(herenow.__file__).parent.parent)
        paths = [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        python_path = os.pathsep.join(str(Path(path).absolute()) for path in paths)
        given = {f"HERENOW_{name.upper()}": str(getattr(settings, name)) for name in _GIVEN}
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
        """Start it, and wait until its row in the store says where it listens.

        Raises:
            CouldNotLook: it does not start.
        """
        self._process = self._spawn()
        self.node = await self._wait_for_row(self._process)
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

    async def _wait_for_row(self, process: subprocess.Popen[bytes]) -> Node:
        deadline_s = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                break
            try:
                sightings = (await self.store.roll()).sightings
            except StoreError:
                sightings = ()  # not prepared yet
            for sighting in sightings:
                if sighting.node.pid == process.pid and sighting.is_fresh:
                    return sighting.node
            await asyncio.sleep(0.02)
        said = self._log.read_text(errors="replace").strip().splitlines()
        why = said[-1].removeprefix("herenow: ") if said else f"it says nothing within {STARTS_WITHIN_S:g} s"
        raise CouldNotLook(f"the throw-away server does not start: {why}")

    def kill(self) -> None:
        """End it as ``kill -9`` does. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    async def close(self) -> None:
        """Kill it, and let its database go."""
        self.kill()
        await self.store.close()
