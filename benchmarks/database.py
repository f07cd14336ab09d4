"""A real MongoDB for the suites that write to one: started for a run, emptied for each server, its commands counted."""

import contextlib
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from benchmarks.processes import ServerError, pinned

URL = "BENCH_MONGO_URL"
"""The environment variable in which the peers find it."""

START_S = 30.0

_NO_WORK = {"hello", "isMaster", "ping", "serverStatus", "endSessions", "buildInfo"}
"""Commands that ask nothing of the data: a driver's own, and ours."""


def find_mongod() -> str:
    """Find the program that the tests' dependencies bring, or the system's.

    Raises:
        ServerError: there is none.
    """
    ours = Path(sysconfig.get_paths()["purelib"]) / "fiftyone/db/bin/mongod"
    found = str(ours) if ours.exists() else shutil.which("mongod")
    if found is None:
        raise ServerError("no mongod: run `make install`, or install MongoDB 6.0 or later")
    return found


@contextlib.contextmanager
def running(*, cache_gb: float = 0.25, cores: frozenset[int] | None = None) -> Iterator[None]:
    """Run a MongoDB while inside; its address stands in the environment.

    Args:
        cache_gb: the size of its cache.
        cores: where it may run; by default where the caller does.

    Raises:
        ServerError: it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory = Path(tempfile.mkdtemp(prefix="herenow-bench-"))
    command = [find_mongod(), "--port", str(port), "--dbpath", str(directory), "--bind_ip", "127.0.0.1"]
    command += [
        "--nounixsocket",
        "--quiet",
        "--logpath",
        str(directory / "log"),
        "--wiredTigerCacheSizeGB",
        str(cache_gb),
    ]
    with pinned(cores):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        os.environ[URL] = f"mongodb://127.0.0.1:{port}/bench"
        _await(process)
        yield
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)
        os.environ.pop(URL, None)


def _await(process: "subprocess.Popen[bytes]") -> None:
    ends_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < ends_s:
        with contextlib.suppress(PyMongoError), _client() as client:
            client.admin.command("ping")
            return
    raise ServerError("mongod does not start")


def _client() -> MongoClient[dict[str, Any]]:
    return MongoClient(os.environ[URL], serverSelectionTimeoutMS=2000)


def seed(count: int) -> None:
    """Begin anew, with so many users, ``u0`` and so on, nobody of them online, and the index of both designs."""
    with _client() as client:
        client.drop_database("bench")
        users = client["bench"]["users"]
        users.insert_many(
            [{"_id": f"u{number}", "name": f"User {number}", "isOnline": False} for number in range(count)]
        )
        users.create_index([("isOnline", 1), ("lastActive", -1)])


def online() -> int:
    """How many users the database shows online."""
    with _client() as client:
        return client["bench"]["users"].count_documents({"isOnline": True})


def commands() -> int:
    """How many commands the database has worked on so far."""
    with _client() as client:
        counted = client.admin.command("serverStatus")["metrics"]["commands"]
    return sum(
        int(value["total"]) for name, value in counted.items() if isinstance(value, dict) and name not in _NO_WORK
    )
