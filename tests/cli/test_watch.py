"""`herenow watch` beside a live server: what it prints, and that it outlives the server's restart."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli_support import ENVIRONMENT, herenow, serving_process
from clients import Client
from store.databases import execute


@contextmanager
def watching(directory: Path, *options: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "herenow.cli", "watch", *options],
        cwd=directory,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert "Traceback" not in errors
        assert process.returncode == 130


async def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    async with asyncio.timeout(15):
        return await asyncio.to_thread(process.stdout.readline)


async def first_change(process: "subprocess.Popen[str]", url: str, user: str = "warm-up") -> str:
    """Make changes until one is printed: the command takes a moment to begin."""
    coming = asyncio.create_task(line(process))
    while not coming.done():
        client = await Client.connect(url, user)
        await client.leave()
        await asyncio.wait([coming], timeout=0.2)
    return await coming


async def test_every_change_is_a_line_with_its_cause(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server, watching(tmp_path) as process:
        assert "warm-up" in await first_change(process, server.address)
        alice = await Client.connect(server.address, "alice [bold]")
        await alice.call("presence:claim", {"availability": "busy", "text": "on stage"})
        await alice.leave()
        told = ""
        while "alice [bold]  left" not in told:
            told += await line(process)
        lines = [each for each in told.splitlines() if "alice" in each]
        assert [each.split()[2] for each in lines] == ["online", "busy", "offline"]
        assert "alice [bold]  connect" in lines[0]
        assert "“on stage”" in lines[1]


async def test_a_user_is_followed_however_the_id_is_written(tmp_path: Path) -> None:
    execute(tmp_path / "herenow.db", "CREATE TABLE users (id INTEGER PRIMARY KEY)", "INSERT INTO users VALUES (7)")
    with serving_process(tmp_path) as server, watching(tmp_path, "--json", "007", "warm-up") as process:
        await first_change(process, server.address)
        await (await Client.connect(server.address, "+7")).leave()
        while json.loads(await line(process))["userId"] != "7":
            pass


async def test_a_restart_is_lived_through(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server, watching(tmp_path, "--json", "alice", "warm-up") as process:
        await first_change(process, server.address)
        server.end(signal.SIGKILL)
        with serving_process(tmp_path) as another:
            bob = await Client.connect(another.address, "bob")  # nobody asked for
            await bob.leave()
            alice = await Client.connect(another.address, "alice")
            seen = ""
            while "alice" not in seen:
                await alice.call("presence:claim", {"availability": "busy"})
                await alice.call("presence:claim", {"availability": None})
                seen += await first_change(process, another.address)
            assert all(json.loads(each)["userId"] in ("alice", "warm-up") for each in seen.splitlines())
            await alice.close()


def test_without_a_server_there_is_nothing_to_follow(tmp_path: Path) -> None:
    herenow("init", cwd=tmp_path)
    ended = herenow("watch", cwd=tmp_path)
    assert ended.returncode == 2
    assert "no server" in ended.stderr
