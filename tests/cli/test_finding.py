"""How the commands find the server: while its database is away, inside an application, and over its restarts."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.test_watch import first_change, watching
from cli_support import ENVIRONMENT, Ended, Server, answer, herenow, serving_process
from clients import Client
from herenow.cli import target
from herenow.cli.app import app
from herenow.http.models import Stats
from herenow.http.state_file import StateFile, running_servers
from herenow.settings import Settings
from herenow.store.nodes import Node
from mongod import Mongod
from raw import Raw
from support import ROOT, free_port, http_client, until


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A home of its own for each test: what is found, this test started."""
    home = str(tmp_path / "state")
    monkeypatch.setenv("XDG_STATE_HOME", home)
    return home


# -- while the database is away --------------------------------------------------------------------------------------


async def test_a_start_waits_for_a_database_that_is_away_and_the_commands_find_the_server_all_the_same(
    tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "PASSING_S", 0.2)
    monkeypatch.chdir(tmp_path)
    database = Mongod()
    url = database.url("shop")
    environment = {"XDG_STATE_HOME": state, "HERENOW_CREATE_USERS": "true", "HERENOW_DATABASE_TIMEOUT_S": "0.5"}
    port = str(free_port())
    server = Server(tmp_path, "--dev", "-d", url, "--port", port, **environment)
    try:
        await until(lambda: "waiting for the database" in server.logged(), timeout_s=30)
        async with http_client(base_url=f"http://127.0.0.1:{port}") as http:  # nobody is left without an answer
            alive, ready = await http.get("/healthz"), await http.get("/readyz")
            assert (alive.status_code, alive.json()) == (200, {"alive": True})
            assert (ready.status_code, ready.json()["ready"]) == (503, False)
            refused = await http.get("/socket.io/?EIO=4&transport=polling")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert (await http.head("/v1/stats")).headers["Retry-After"] == "1"
        silent = await Raw.open(f"http://127.0.0.1:{port}")
        for options in (["-d", url], []):  # with its address, and without: it was started in this directory
            ended = CliRunner().invoke(app, ["status", *options])
            assert ended.exit_code == 2
            assert f"(process {server.program.pid}) is starting, and waits for its database" in ended.stderr
        await asyncio.to_thread(database.start)
        with database.client() as client:
            client["shop"]["users"].insert_one({"_id": "alice"})
        await asyncio.to_thread(server.wait_until_ready, 30)
        silent.abort()
        ended = CliRunner().invoke(app, ["status", "-d", url, "--json"])
        assert (ended.exit_code, json.loads(ended.stdout)["servers"][0]["pid"]) == (0, server.program.pid)
        database.kill()
        alice = await Client.connect(server.address, "alice")
        found = target.find_server(Settings.load(database=url))
        assert found is not None and found.get("/v1/stats", Stats).users == 1, "asked, and not the database"
        ended = CliRunner().invoke(app, ["status"])
        assert str(server.program.pid) in ended.output, "whatever it can tell, it is that server which tells it"
        await alice.close()
    finally:
        server.close()
        database.close()


def test_a_start_that_waits_ends_when_it_is_told_to_and_leaves_no_state_file(tmp_path: Path, state: str) -> None:
    url = f"mongodb://127.0.0.1:{free_port()}/shop"
    server = Server(tmp_path, "--dev", "-d", url, XDG_STATE_HOME=state)
    try:
        while "waiting for the database" not in server.logged():
            assert server.program.poll() is None
        (file,) = Path(state, "herenow").glob("*.json")
        assert json.loads(file.read_text())["phase"] == "starting"
        assert server.end()[0] == 0
        assert list(file.parent.iterdir()) == []
    finally:
        server.close()


# -- inside an application -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def application(directory: Path) -> Iterator[int]:
    """Run the application of the README, word for word; gives its process id."""
    readme = (ROOT / "README.md").read_text()
    written = re.search(r"## In your own application\n+```python\n(.*?)```", readme, re.DOTALL)
    assert written is not None
    (directory / "app.py").write_text(written[1])
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(free_port())]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=directory, env=ENVIRONMENT | environment_of(directory), stderr=log)
    try:
        while "startup complete" not in (directory / "log").read_text():
            assert process.poll() is None, (directory / "log").read_text()
        yield process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (directory / "log").read_text()


def environment_of(directory: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(directory / "state")}


def test_the_commands_find_the_application_of_the_readme_where_it_was_started(tmp_path: Path, state: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*arguments: str, cwd: Path = tmp_path) -> Ended:
        return herenow(*arguments, cwd=cwd, XDG_STATE_HOME=state)

    with application(tmp_path) as pid:
        status = run("status", "--json")
        assert (status.returncode, answer(status)["servers"][0]["pid"]) == (0, pid)
        assert answer(status)["database"].endswith("/app.db")
        assert run("explain", "alice").stdout.startswith("● alice is shown offline")
        for command in ("cleanup", "stale"):
            ended = run(command)
            assert (ended.returncode, "no server" in ended.stdout) == (0, False)
        restart = run("restart")
        assert (restart.returncode, "is part of an application" in restart.stderr) == (2, True), "SIGHUP would end it"
        assert not (tmp_path / "herenow.db").exists()
        lost = run("status", cwd=elsewhere)
        assert (lost.returncode, "name its database with --database" in lost.stderr) == (2, True)
        assert f"sqlite:///{tmp_path}/app.db" in lost.stderr
        assert run("status", "--database", f"sqlite:///{tmp_path}/app.db", cwd=elsewhere).returncode == 0
    assert list(Path(state, "herenow").iterdir()) == []
    assert not list(tmp_path.glob("*-server"))


def test_where_two_servers_were_started_the_command_asks_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        file = StateFile(Settings.load(database=f"sqlite:///{name}.db"))
        file.write(Node.here(name=name, epoch=1, address="", now_ms=1, lease_ms=1), "serving", address="http://x")
    ended = CliRunner().invoke(app, ["status"])
    assert ended.exit_code == 2
    for name in ("a", "b"):
        assert f"--database sqlite:///{tmp_path}/{name}.db" in ended.stderr
    named = target.find_server(Settings.load(database="sqlite:///b.db"))
    assert named is not None and named.state.node.name == "b"


# -- over restarts ---------------------------------------------------------------------------------------------------


async def test_nine_clean_restarts_are_lived_through_by_who_follows_and_by_who_asks(tmp_path: Path, state: str) -> None:
    port = str(free_port())
    asked: list[Ended] = []

    def ask() -> None:
        asked.append(herenow("status", "--json", cwd=tmp_path, XDG_STATE_HOME=state))

    options = ("--port", port)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving_process(tmp_path, *options, XDG_STATE_HOME=state))
        process = stack.enter_context(watching(tmp_path, "--json", "alice", XDG_STATE_HOME=state))
        last = json.loads(await first_change(process, server.address, "alice"))["version"]
        for _ in range(9):
            asking = threading.Thread(target=ask)
            asking.start()
            assert (await asyncio.to_thread(server.end))[0] == 0
            server = stack.enter_context(serving_process(tmp_path, *options, XDG_STATE_HOME=state))
            await asyncio.to_thread(asking.join)
            assert process.poll() is None, process.stderr and process.stderr.read()
        assert [ended.returncode for ended in asked] == [0] * 9, [ended.stderr for ended in asked]
        told = await first_change(process, server.address, "alice")
        assert json.loads(told)["version"] > last, "told by the tenth server"
        assert [each.phase for each in running_servers("")] == ["serving"]


def test_who_asks_while_an_application_is_started_again_waits_for_it_and_is_not_sent_to_another_database(
    tmp_path: Path, state: str
) -> None:
    """Between the two no state file is there, and ``herenow.db``, which nobody uses, was looked for and advised."""
    asked: list[Ended] = []
    with application(tmp_path):
        pass
    asking = threading.Thread(
        target=lambda: asked.append(herenow("status", "--json", cwd=tmp_path, XDG_STATE_HOME=state))
    )
    asking.start()
    with application(tmp_path) as pid:
        asking.join()
    assert asked[0].returncode == 0, asked[0].stderr
    assert answer(asked[0])["servers"][0]["pid"] == pid
    assert "start the server or the application" in asked[0].stderr and "trying again" in asked[0].stderr
    os.utime(Path(state, "herenow"), (0, 0))
    ended = herenow("status", cwd=tmp_path, XDG_STATE_HOME=state)
    assert (ended.returncode, "trying again" in ended.stderr) == (2, False)
    assert "start the server or the application, or name its database" in ended.stderr
