"""Nothing behind stdout and stderr stops the truth: a pipe without a reader, one that is full, a disk that is full."""

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import jwt
import pytest

from cli_support import ENVIRONMENT, herenow
from clients import Client
from programs import Running, start
from support import free_port, http_client, http_get, until

SECRET = "a secret of at least thirty-two bytes"
ADMIN = "an admin token of some length"


class Silent:
    """A server whose words reach nobody."""

    def __init__(self, directory: Path, said: Path, *options: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.directory = directory
        self.program: Running = start(
            *("serve", "--port", str(port), *options),
            cwd=directory,
            environment={
                **ENVIRONMENT,
                "HERENOW_JWT_LEEWAY_S": "0",
                "HERENOW_JWT_SECRET": SECRET,
                "HERENOW_ADMIN_TOKENS": f'["{ADMIN}"]',
                "HERENOW_OVERLOAD_LAG_S": "60",  # the machine may be busy with other tests
            },
            out=said,
            err=said,
        )

    async def ready(self) -> None:
        async with http_client() as client, asyncio.timeout(30):
            while True:
                assert self.program.poll() is None, "the server ended"
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/healthz")).status_code == 200:
                        return
                await asyncio.sleep(0.02)

    async def connect(self, user: str, **claims: float) -> Client:
        return await Client.connect(self.url, token=jwt.encode({"sub": user, **claims}, SECRET))

    async def lines_dropped(self) -> float:
        async with http_client() as client:
            shown = await client.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {ADMIN}"})
        found = re.search(r"^herenow_log_lines_dropped_total (\S+)", shown.text, re.MULTILINE)
        assert found is not None
        return float(found[1])

    async def end(self) -> float:
        """Stop it; return how long that took."""
        began_s = time.monotonic()
        self.program.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(self.program.wait, 10) == 0
        return time.monotonic() - began_s


@contextlib.contextmanager
def _reader_gone(directory: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    path = directory / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, lambda: os.close(reader)


@contextlib.contextmanager
def _pipe_full(directory: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    path = directory / "pipe"
    os.mkfifo(path)
    both = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(both, fcntl.F_SETPIPE_SZ, 4096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(both, b"x" * 4096)
    yield path, lambda: None
    os.close(both)


@contextlib.contextmanager
def _disk_full(directory: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    yield Path("/dev/full"), lambda: None


@pytest.mark.parametrize("behind", [_reader_gone, _pipe_full, _disk_full])
async def test_who_is_online_does_not_depend_on_whether_anybody_can_be_told_so_in_the_log(
    tmp_path: Path, behind: Callable[[Path], contextlib.AbstractContextManager[tuple[Path, Callable[[], None]]]]
) -> None:
    """A log call once raised in the midst of a disconnect: online for ever, past every token, and deaf to SIGTERM."""
    with behind(tmp_path) as (said, break_now):
        server = Silent(tmp_path, said, "--log-level", "debug")
        try:
            await server.ready()
            break_now()
            bob = await server.connect("bob")
            await bob.watch("alice", "carol", "dave")
            alice, carol = await server.connect("alice"), await server.connect("carol", exp=time.time() + 2)
            dave = await server.connect("dave")
            await bob.until(lambda: bob.shows("alice") == bob.shows("carol") == bob.shows("dave") == "online")
            await alice.close()
            dave.kill()
            await bob.until(lambda: bob.shows("alice") == bob.shows("dave") == "offline", 10)
            async with asyncio.timeout(10):
                await carol.closed.wait()
            await bob.until(lambda: bob.shows("carol") == "offline", 10)
            assert behind is _pipe_full or await server.lines_dropped() > 0
            assert await server.end() < 5
            async with asyncio.timeout(10):
                await bob.closed.wait()
            assert "shutting_down" in [error["code"] for error in bob.errors]
        finally:
            server.program.kill()
    database = sqlite3.connect(tmp_path / "herenow.db")
    assert database.execute("SELECT count(*), sum(isOnline) FROM users").fetchall() == [(4, 0)]
    database.close()


@pytest.mark.parametrize(("stream", "is_full"), [("stdout", False), ("stderr", False), ("stderr", True)])
def test_the_exit_code_of_a_command_does_not_depend_on_what_cannot_be_written(
    tmp_path: Path, stream: str, is_full: bool
) -> None:
    """Python itself tries again to write what it could not, as it ends, and makes the exit code 120."""
    reader, behind = os.pipe()
    os.close(reader)
    if is_full:
        os.close(behind)
        behind = os.open("/dev/full", os.O_WRONLY)
    ended = subprocess.run(
        [sys.executable, "-m", "herenow.cli", *(["token", "--api-key"] if stream == "stdout" else ["status"])],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=behind if stream == "stdout" else subprocess.DEVNULL,
        stderr=behind if stream == "stderr" else subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(behind)
    assert ended.returncode == (1 if stream == "stdout" else 2)
    assert not ended.stderr


# -- the disk of the database ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def _fill(disk: Path) -> Path:
    path = disk / "fill"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 1024)
    return path


async def test_a_server_starts_on_a_disk_that_is_full_and_writes_once_there_is_room(small_disk: Path) -> None:
    """The log, the token file, the lock file and the database: all of them on the disk that is full."""
    assert herenow("init", cwd=small_disk).returncode == 0
    (small_disk / "log").touch()
    fill = _fill(small_disk)
    server = Silent(small_disk, small_disk / "log")
    try:
        await server.ready()
        assert herenow("status", cwd=small_disk).stdout.startswith("0 online")
        bob = await server.connect("bob")
        await bob.watch("alice")
        alice = await server.connect("alice")
        await bob.until(lambda: bob.shows("alice") == "online")
        await until(lambda: "the store does not take what it is given" in http_get(f"{server.url}/readyz").text)
        with pytest.raises(subprocess.TimeoutExpired):  # it waits: the lock holds, with nothing written in it
            herenow("serve", "--port", "0", cwd=small_disk, timeout_s=3, HERENOW_JWT_SECRET=SECRET)
        fill.unlink()
        database = sqlite3.connect(small_disk / "herenow.db")

        def online() -> int:
            return int(database.execute("SELECT count(*) FROM users WHERE isOnline").fetchone()[0])

        await until(lambda: online() == 2)
        await until(lambda: database.execute("SELECT count(*) FROM herenow_nodes").fetchone() == (1,))
        database.close()
        await alice.close()
        await bob.until(lambda: bob.shows("alice") == "offline", 10)
        assert await server.end() < 5
        await bob.close()
    finally:
        server.program.kill()
