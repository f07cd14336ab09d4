"""The commands, with a live server and on the store alone: what they do, and by which code they end."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli_support import ENVIRONMENT, Server, answer, herenow, serving_process
from herenow.cli import target
from herenow.cli.app import app
from herenow.cli.socketio_client import Caller
from herenow.times import to_iso
from support import ROOT, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving_process(tmp_path) as server:
        yield server


def write(directory: Path, statement: str, *parameters: object) -> None:
    """Write behind everybody's back, as another program would."""
    connection = sqlite3.connect(directory / "herenow.db", isolation_level=None)
    try:
        connection.execute(statement, parameters)
    finally:
        connection.close()


def put_online(directory: Path, *user_ids: str, last_active: str = "2020-01-01T00:00:00.000Z") -> None:
    for user_id in user_ids:
        write(
            directory,
            "INSERT INTO users (id, isOnline, lastActive, presenceAvailability, presenceVersion) "
            "VALUES (?, 1, ?, 'online', 1)",
            user_id,
            last_active,
        )


def online(directory: Path) -> list[str]:
    connection = sqlite3.connect(directory / "herenow.db")
    try:
        return [row[0] for row in connection.execute("SELECT id FROM users WHERE isOnline ORDER BY id")]
    finally:
        connection.close()


# -- on the store alone ----------------------------------------------------------------------------------------------


def test_init_creates_says_what_it_did_and_finds_nothing_to_do_again(tmp_path: Path) -> None:
    planned = herenow("init", "--dry-run", "--json", cwd=tmp_path)
    assert (planned.returncode, answer(planned)["dryRun"]) == (0, True)
    assert not (tmp_path / "herenow.db").exists()
    done = herenow("init", "--json", cwd=tmp_path)
    assert answer(done)["steps"] == answer(planned)["steps"] != []
    again = herenow("init", cwd=tmp_path)
    assert (again.returncode, again.stdout.strip().endswith("nothing to do")) == (0, True)


def test_status_without_a_server_is_good_when_nobody_is_online(tmp_path: Path) -> None:
    herenow("init", cwd=tmp_path)
    ended = herenow("status", cwd=tmp_path)
    assert ended.returncode == 0
    assert "no server is running" in ended.stdout


def test_a_dead_servers_ghosts_are_found_and_cleaned_up(tmp_path: Path) -> None:
    herenow("init", cwd=tmp_path)
    put_online(tmp_path, "alice", "bob")
    status = herenow("status", cwd=tmp_path)
    assert status.returncode == 1
    assert "2 ghosts" in status.stdout
    explained = herenow("explain", "alice", cwd=tmp_path)
    assert explained.returncode == 1
    assert explained.stdout.startswith("● alice is a ghost")
    planned = herenow("cleanup", "--dry-run", "--json", cwd=tmp_path)
    assert answer(planned) == {"dryRun": True, "offline": 2, "protectedUsers": 0, "closed": 0}
    assert online(tmp_path) == ["alice", "bob"]
    assert answer(herenow("cleanup", "--json", cwd=tmp_path))["offline"] == 2
    assert online(tmp_path) == []
    assert herenow("status", cwd=tmp_path).returncode == 0


def test_stale_takes_only_the_silent_and_no_time_to_come_for_a_sign_of_life(tmp_path: Path) -> None:
    herenow("init", cwd=tmp_path)
    put_online(tmp_path, "old")
    put_online(tmp_path, "new", last_active=to_iso(time.time_ns() // 1_000_000))
    assert answer(herenow("stale", "--dry-run", "--json", cwd=tmp_path))["offline"] == 1
    put_online(tmp_path, "later", last_active="2999-01-01T00:00:00.000Z")
    assert answer(herenow("stale", "--older-than", "1h", "--json", cwd=tmp_path))["offline"] == 2
    assert online(tmp_path) == ["new"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_where_the_answer_cannot_be_written_the_systems_word_is_told(tmp_path: Path, options: tuple[str, ...]) -> None:
    herenow("init", cwd=tmp_path)
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "herenow.cli", "status", *options]
        ended = subprocess.run(
            command,
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr == "herenow: the system refuses: no space left on device\n"


def test_cleanup_outdoes_rows_from_a_clock_ahead(tmp_path: Path) -> None:
    herenow("init", cwd=tmp_path)
    put_online(tmp_path, "alice")
    write(tmp_path, "UPDATE users SET presenceVersion = ?", 2**51)
    assert answer(herenow("cleanup", "--json", cwd=tmp_path))["offline"] == 1


# -- with a live server ----------------------------------------------------------------------------------------------


async def test_status_shows_who_is_online_since_when_and_with_how_many_connections(server: Server) -> None:
    clients = [await Caller.open(server.address, user) for user in ("alice", "alice", "bob")]
    await clients[2].emit("presence:idle", {})
    ended = await asyncio.to_thread(herenow, "status", "--json", cwd=server.directory)
    found = answer(ended)
    assert ended.returncode == 0
    assert {user["userId"]: (user["availability"], user["connections"]) for user in found["onlineFirst"]} == {
        "alice": ("online", 2),
        "bob": ("away", 1),
    }
    assert all(user["since"] for user in found["onlineFirst"])
    assert (found["stats"]["connections"], found["stats"]["users"], found["onlineTotal"]) == (3, 2, 2)
    assert found["servers"][0]["address"] == server.address and found["servers"][0]["isAlive"]
    assert found["bounds"] == {"offlineWithinMs": 2000, "silentLossMs": 17000, "restartMs": 15000}
    for client in clients:
        await client.cut()


async def test_a_ghost_beside_a_live_server_is_drift_which_cleanup_mends_without_harm_to_the_living(
    server: Server,
) -> None:
    alice = await Caller.open(server.address, "alice")
    put_online(server.directory, "casper")

    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(herenow, *arguments, cwd=server.directory)

    status = await run("status")
    assert status.returncode == 1
    assert "1 ghost" in status.stdout and "casper" in status.stdout
    explained = await run("explain", "casper")
    assert explained.returncode == 1
    assert "a ghost, repaired within 60 s" in explained.stdout
    planned = await run("cleanup", "--dry-run", "--json")
    assert answer(planned) == {"dryRun": True, "offline": 1, "protectedUsers": 1, "closed": 0}
    assert online(server.directory) == ["alice", "casper"]
    assert answer(await run("cleanup", "--json")) == {**answer(planned), "dryRun": False}
    assert online(server.directory) == ["alice"]
    assert (await run("status")).returncode == 0
    await alice.cut()


async def test_cleanup_with_disconnect_closes_the_living(server: Server) -> None:
    clients = [await Caller.open(server.address, user) for user in ("alice", "alice", "bob")]
    ended = await asyncio.to_thread(herenow, "cleanup", "--disconnect", "--json", cwd=server.directory)
    assert answer(ended) == {"dryRun": False, "offline": 2, "protectedUsers": 0, "closed": 3}
    assert online(server.directory) == []
    for client in clients:
        await client.cut()


async def test_stale_leaves_alone_who_is_connected(server: Server) -> None:
    alice = await Caller.open(server.address, "alice")
    put_online(server.directory, "casper")
    await until(lambda: "alice" in online(server.directory))
    await asyncio.sleep(0.05)
    ended = await asyncio.to_thread(herenow, "stale", "--older-than", "1ms", "--json", cwd=server.directory)
    assert answer(ended) == {"dryRun": False, "offline": 1, "protectedUsers": 1, "closed": 0}
    assert online(server.directory) == ["alice"]
    await alice.cut()


async def test_explain_tells_the_verdict_first_then_each_connection(server: Server) -> None:
    alice = await Caller.open(server.address, "alice")
    await asyncio.sleep(0.2)
    ended = await asyncio.to_thread(herenow, "explain", "alice", cwd=server.directory)
    first, *rest = ended.stdout.splitlines()
    assert ended.returncode == 0
    assert first == "● alice is shown online: 1 connection."
    assert any("websocket" in line and "127.0.0.1" in line for line in rest)
    assert any("it agrees" in line for line in rest)
    assert rest[-1].split()[-2:] == ["online", "connect"]
    await alice.cut()


def tell(server: Server, **otherwise: str) -> None:
    """Let the file beside the database say something else, for commands that know no other."""
    file = server.directory / "herenow.db-server"
    file.write_text(json.dumps(json.loads(file.read_text()) | otherwise))


def test_a_command_that_cannot_read_the_state_file_is_told_so(server: Server) -> None:
    file = server.directory / "herenow.db-server"
    file.unlink()
    file.mkdir()  # a mode would not keep root out
    write(server.directory, "UPDATE herenow_nodes SET started_ms = 0")
    for command in (["status"], ["cleanup"], ["stale"], ["explain", "alice"]):
        ended = herenow(*command, cwd=server.directory, XDG_STATE_HOME=str(server.directory / "another's"))
        assert ended.returncode == 2
        assert f"{file} cannot be read" in ended.stderr
        assert "as the server's own user" in ended.stderr
        assert ended.stdout == ""


def test_a_command_waits_for_the_state_file_of_a_server_that_is_just_starting(server: Server) -> None:
    file = server.directory / "herenow.db-server"
    write(server.directory, "UPDATE herenow_nodes SET started_ms = ?", int(time.time() * 1000) + 1000)
    text = file.read_text()
    file.unlink()
    timer = threading.Timer(1.0, lambda: file.write_text(text))
    timer.start()
    ended = herenow("status", cwd=server.directory, XDG_STATE_HOME=str(server.directory / "another's"))
    assert (ended.returncode, "is starting: trying again" in ended.stderr) == (0, True)
    timer.join()


def test_a_wrong_token_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with serving_process(tmp_path, dev=False, HERENOW_JWT_SECRET="x" * 32) as server:
        assert herenow("status", cwd=tmp_path).returncode == 0
        tell(server, token="not the token")
        ended = herenow("status", cwd=tmp_path, XDG_STATE_HOME=str(tmp_path / "another's"))
        assert (ended.returncode, "refuses" in ended.stderr) == (2, True)
        assert f"process {server.program.pid}" in ended.stderr


def test_a_server_that_lives_and_does_not_answer_is_told_in_a_sentence(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "PASSING_S", 0.3)
    monkeypatch.setenv("XDG_STATE_HOME", str(server.directory / "another's"))
    monkeypatch.chdir(server.directory)
    tell(server, address="http://127.0.0.1:1")
    ended = CliRunner().invoke(app, ["status"])
    assert (ended.exit_code, "cannot be reached (connection refused)" in ended.stderr) == (2, True)
    tell(server, address="")
    ended = CliRunner().invoke(app, ["cleanup"])
    assert (ended.exit_code, "no door for the commands" in ended.stderr) == (2, True)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["status"], "herenow init"),
        (["explain", "alice"], "herenow init"),
        (["cleanup"], "herenow init"),
        (["stale"], "herenow init"),
        (["status", "--database", "mysql://x/y"], "mysql"),
        (["status", "--database", "nonsense"], "nonsense"),
        (["init", "--database", "sqlite:////no/such/directory/x.db"], "/no/such/directory/x.db"),
        (["stale", "--older-than", "soon"], "soon"),
        (["stale", "--older-than", "0"], "'0'"),
        (["stale", "--older-than", "-5m"], "-5m"),
        (["stale", "--older-than", "99999999999d"], "10 years"),
        (["stale", "--older-than", "\u0665m"], "is no duration"),
        (["explain", "a\nb"], "control characters"),
        (["explain", "x" * 200], "128 characters"),
        (["explain", ""], "128 characters"),
        (["explain"], "USER"),
        (["nonsense"], "nonsense"),
        (["status", "--nonsense"], "--nonsense"),
        (["test", "--database", "sqlite:////no/such/directory/x.db"], "/no/such/directory"),
    ],
)
def test_what_cannot_be_looked_at_ends_with_2_and_a_sentence(tmp_path: Path, arguments: list[str], names: str) -> None:
    ended = herenow(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert names in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_file_and_a_wrong_toml_are_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "herenow.db").write_bytes(b"this is no database" * 100)
    for command in (["status"], ["init"], ["cleanup"], ["stale"], ["explain", "alice"], ["serve", "--dev"]):
        ended = herenow(*command, cwd=tmp_path)
        assert (ended.returncode, "is not a database" in ended.stderr) == (2, True), ended.stderr
    (tmp_path / "herenow.toml").write_text("port = = 1")
    ended = herenow("status", cwd=tmp_path)
    assert (ended.returncode, "herenow.toml" in ended.stderr) == (2, True)
    (tmp_path / "herenow.toml").write_text("prot = 1")
    ended = herenow("status", cwd=tmp_path)
    assert (ended.returncode, "'prot'" in ended.stderr) == (2, True)


def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "herenow.cli", "test"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob(".herenow-test-*/steady.db")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=20)
    assert (process.returncode, said, complained) == (130, "", "")
    assert list(tmp_path.iterdir()) == []


def test_help_and_version_are_good(tmp_path: Path) -> None:
    shown = herenow("--help", cwd=tmp_path)
    assert shown.returncode == 0
    for command in ("serve", "init", "status", "cleanup", "stale", "test", "explain", "watch", "token"):
        assert command in shown.stdout
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
    assert herenow("--version", cwd=tmp_path).stdout.startswith("herenow ")
