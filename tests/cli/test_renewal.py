"""One server renewed in its place: with SIGHUP, and with ``herenow restart``. Nobody is seen to go."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

import mongod
from cli_support import ENVIRONMENT, herenow
from clients import Client
from e2e.renewable import Renewable, crowd, renewable
from support import free_port, http_get, listens, until

USERS = 30


@pytest.mark.parametrize("database", ["sqlite", "mongodb"])
async def test_nobody_is_seen_to_go_as_often_as_it_is_renewed(tmp_path: Path, database: str) -> None:
    mongodb = None if database == "sqlite" else mongod.shared().url(mongod.fresh_database())
    with renewable(tmp_path, mongodb=mongodb) as server:
        async with crowd(server, USERS) as seen:
            pid = server.program.pid
            for life in (2, 3):
                server.hang_up()
                server.hang_up()  # the second is one too many, or finds the first under way
                await until(partial(server.has_begun, life), 40)
                await until(partial(all_are_back, server), 30)
            await asyncio.sleep(3)  # the grace of whoever had not come back would be over
            assert server.program.pid == pid
            assert seen == []
            assert server.counts() == (USERS + 1, 0)
            assert (await asyncio.to_thread(server.end))[0] == 0
        assert server.counts()[0] == 0


async def test_new_code_that_would_not_start_leaves_the_old_one_serving(tmp_path: Path) -> None:
    cases = {
        "offline_within_s": ("herenow.toml", "offline_within_s = -1\n"),
        "there is no setting": ("herenow.toml", "no_such_setting = 1\n"),
        "half an update": ("typer.py", "raise ImportError('half an update')\n"),
        "did not say within": ("typer.py", "import time\ntime.sleep(1000)\n"),
    }
    with renewable(tmp_path) as server:
        alice = await Client.connect(server.address, "alice")
        for number, (says, (name, text)) in enumerate(cases.items(), 1):
            (tmp_path / name).write_text(text)
            server.hang_up()
            await until(lambda number=number: len(refusals(server)) == number, 40)  # type: ignore[misc]
            assert says in refusals(server)[-1]
            (tmp_path / name).unlink()
        assert not alice.closed.is_set()
        assert not server.has_begun(2)
        ended = await asyncio.to_thread(herenow, "restart", cwd=tmp_path, **state_of(server))
        assert (ended.returncode, "renewed: the server of" in ended.stdout) == (0, True), ended.stderr
        await asyncio.wait_for(alice.closed.wait(), 5)
        await until(partial(server.has_begun, 2))


async def test_a_port_that_is_taken_leaves_the_old_one_serving_and_another_one_is_gone_to(tmp_path: Path) -> None:
    settings = tmp_path / "herenow.toml"
    settings.write_text(f"port = {free_port()}\n")
    with renewable(tmp_path, where=()) as server:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            settings.write_text(f"port = {taken}\n")
            ended = await asyncio.to_thread(herenow, "restart", cwd=tmp_path, **state_of(server))
            assert ended.returncode == 1
            assert "in use by another program" in ended.stderr
        server.hang_up()
        await until(lambda: listens(taken), 40)
        await until(partial(server.has_begun, 2))


@pytest.mark.parametrize("event", ["trying the new code", "stopping", "renewing"])
async def test_a_sigterm_in_the_middle_is_an_end(tmp_path: Path, event: str) -> None:
    with renewable(tmp_path) as server:
        async with crowd(server, USERS):
            server.hang_up()
            await until(lambda: f'"event": "{event}"' in server.logged(), 30)
            assert (await asyncio.to_thread(server.end, timeout_s=15))[0] == 0, server.logged()
        assert server.counts()[0] == 0


async def test_a_kill_in_the_middle_is_a_crash_like_any_other(tmp_path: Path) -> None:
    where = ("--port", str(free_port()))
    with renewable(tmp_path, where=where) as server:
        async with crowd(server, USERS) as seen:
            server.hang_up()
            await until(lambda: '"event": "renewing"' in server.logged(), 30)
            server.close()
            with renewable(tmp_path, where=where) as again:
                await until(partial(all_are_back, again), 15)
                await asyncio.sleep(3)
                assert seen == []


async def test_hang_ups_while_it_becomes_the_new_code_end_nothing(tmp_path: Path) -> None:
    """Between two codes nobody hears a signal, and a process that hears none ends of this one."""
    with renewable(tmp_path) as server:
        server.hang_up()
        await until(lambda: '"event": "renewing"' in server.logged(), 30)
        while not server.has_begun(2):
            server.hang_up()
            await asyncio.sleep(0.01)
            assert server.program.poll() is None
        assert (await asyncio.to_thread(server.end, timeout_s=15))[0] == 0, server.logged()


@pytest.mark.parametrize("moment", ["store prepared", "started", "watch it"])
async def test_the_end_of_its_terminal_is_an_end(tmp_path: Path, moment: str) -> None:
    """The signal is the same: a server whose window was closed must not go on, not even if it starts just now."""
    async with on_a_terminal(tmp_path) as (program, terminal, log):
        await until(lambda: moment in log.read_text(), 20)
        os.close(terminal)
        await until(lambda: has_ended_well(program), 20)


async def test_one_that_needs_no_terminal_outlives_it_and_is_renewed_as_ever(tmp_path: Path) -> None:
    async with on_a_terminal(tmp_path, nohup=True) as (program, terminal, log):
        await until(lambda: "watch it" in log.read_text(), 20)
        os.close(terminal)
        await until(lambda: "the terminal has gone, and is not needed" in log.read_text())
        for life in (2, 3):  # the third has to know it from the second
            os.kill(program, signal.SIGHUP)
            await until(lambda life=life: log.read_text().count("watch it") == life, 30)  # type: ignore[misc]
        assert log.read_text().count("trying the new code") == 2
        os.kill(program, signal.SIGTERM)
        await until(lambda: has_ended_well(program), 20)


@contextlib.asynccontextmanager
async def on_a_terminal(directory: Path, *, nohup: bool = False) -> AsyncIterator[tuple[int, int, Path]]:
    """Start a server on a terminal of its own; gives its process, the terminal's other end, and the log."""
    log = directory / "log"
    log.touch()
    program, terminal = pty.fork()
    if program == 0:
        os.chdir(directory)
        for number in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), number)
        # Whatever the tests were started with is not to be inherited.
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
        os.execve(sys.executable, [sys.executable, "-m", "herenow.cli", "serve", "--dev", "--port", "0"], ENVIRONMENT)
    try:
        yield program, terminal, log
    except BaseException:
        os.kill(program, signal.SIGKILL)
        raise


def has_ended_well(program: int) -> bool:
    """Say whether a child has ended; it must have ended well."""
    pid, status = os.waitpid(program, os.WNOHANG)
    assert pid == 0 or os.waitstatus_to_exitcode(status) == 0
    return pid != 0


def refusals(server: Renewable) -> list[str]:
    """Why it was not renewed, each time."""
    return [json.loads(line)["reason"] for line in server.logged().splitlines() if '"event": "not renewed' in line]


def all_are_back(server: Renewable) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        connections: int = http_get(f"{server.address}/v1/stats", timeout=2).json()["connections"]
        return connections == USERS + 1
    return False


def state_of(server: Renewable) -> dict[str, Any]:
    return {"XDG_STATE_HOME": server.environment["XDG_STATE_HOME"]}
