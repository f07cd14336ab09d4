"""``herenow serve`` as a process: how it starts, refuses, and ends."""

import asyncio
import json
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from cli_support import ENVIRONMENT, Server, herenow, serving_process
from herenow.cli.socketio_client import Caller
from support import Poller, free_port, http_get, listens, until, websocket_url


def rows(directory: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(directory / "herenow.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_it_says_where_it_listens_and_the_store_says_so_too(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        said = server.said()
        assert str(tmp_path / "herenow.db") in said
        assert "a closed tab shows within 2 s" in said
        assert 'auth: { userId: "alice" }' in said
        assert rows(tmp_path, "SELECT address FROM herenow_nodes") == [(server.address,)]
        assert not server.address.endswith(":0")


def test_the_state_file_is_for_the_servers_user_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        file = tmp_path / "herenow.db-server"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        token = json.loads(file.read_text())["token"]
        headers = {"Authorization": f"Bearer {token}", "Host": "elsewhere"}
        assert http_get(f"{server.address}/v1/admin/status", headers=headers).status_code == 200
        assert server.end()[0] == 0
        assert not file.exists()


def test_the_log_is_json_where_nobody_reads_along(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        server.end()
    lines = server.logged().splitlines()
    assert lines and all(line.startswith("{") and '"event"' in line for line in lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_at_the_end_clients_are_told_and_everyone_is_offline(tmp_path: Path, number: int) -> None:
    with serving_process(tmp_path) as server:
        told: list[Any] = []
        client = await Caller.open(server.address, "alice", lambda event, payload: told.append((event, payload)))
        await until(lambda: told)  # presence:ready: until then, events are held back
        code, seconds = await asyncio.to_thread(server.end, number)
        await client.cut()
    assert code == 0
    assert seconds < 5
    assert ("presence:error", "shutting_down") in [(event, payload.get("code")) for event, payload in told]
    assert rows(tmp_path, "SELECT id, isOnline FROM users") == [("alice", 0)]
    assert rows(tmp_path, "SELECT * FROM herenow_nodes") == []


async def test_who_cannot_wait_and_signals_again_has_a_clean_end_too(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        slow = await connect(websocket_url(server.address), compression=None, ping_interval=None, max_queue=1)
        await slow.recv()
        await slow.send('40{"userId":"slow"}')
        await slow.recv()
        slow.transport.pause_reading()
        server.program.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.05)
        code, seconds = await asyncio.to_thread(server.end, signal.SIGINT)
        slow.transport.abort()
    assert (code, seconds < 2) == (0, True)
    assert rows(tmp_path, "SELECT count(*) FROM users WHERE isOnline") == [(0,)]


async def test_it_ends_in_time_with_open_polls_slow_readers_and_half_requests(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        async with Poller(server.address) as poller:
            await poller.open()
            await poller.post('40{"userId":"poller"}')
            await poller.get()  # the CONNECT
            polling = asyncio.create_task(poller.get())
            slow = await connect(websocket_url(server.address), compression=None, ping_interval=None, max_queue=1)
            await slow.recv()
            await slow.send('40{"userId":"slow"}')
            slow.transport.pause_reading()
            host, port = server.address.removeprefix("http://").split(":")
            half = socket.create_connection((host, int(port)))
            half.sendall(b"POST /v1/admin/cleanup HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
            await asyncio.sleep(0.3)
            code, seconds = await asyncio.to_thread(server.end)
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            half.close()
            slow.transport.abort()
    assert (code, seconds < 5) == (0, True)
    assert rows(tmp_path, "SELECT count(*) FROM users WHERE isOnline") == [(0,)]


async def test_after_kill_9_the_next_start_finds_the_ghosts_and_who_comes_back_never_flickers(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        clients = [await Caller.open(server.address, user) for user in ("back", "gone")]
        await until(lambda: rows(tmp_path, "SELECT count(*) FROM users WHERE isOnline") == [(2,)])
        server.end(signal.SIGKILL)
        for client in clients:
            await client.cut()
    assert rows(tmp_path, "SELECT count(*) FROM users WHERE isOnline") == [(2,)]
    (tmp_path / "again").mkdir()
    database = f"sqlite:///{tmp_path}/herenow.db"
    again = tmp_path / "again"
    with serving_process(
        again, "--database", database, HERENOW_OFFLINE_WITHIN_S="0.5", HERENOW_RESTART_GRACE_S="8"
    ) as server:
        seen: list[Any] = []
        watcher = await Caller.open(server.address, "watcher", lambda event, payload: seen.append((event, payload)))
        await watcher.emit("presence:watch", {"users": ["back", "gone"]})
        back = await Caller.open(server.address, "back")
        await until(lambda: any(event == "presence:diff" for event, _ in seen), timeout_s=9)
        changes = [change for event, payload in seen if event == "presence:diff" for change in payload["changes"]]
        assert [(change["userId"], change["cause"]) for change in changes] == [("gone", "restart")]
        await back.cut()
        await watcher.cut()


def test_public_keys_say_who_a_client_is_as_well_as_a_secret(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"HERENOW_JWT_JWKS_URL": "https://127.0.0.1:1/jwks.json"}  # asked when the first token comes
    with serving_process(tmp_path, "--host", "0.0.0.0", dev=False, **keys) as server:
        assert "reachable from other machines" in server.said()


def test_a_port_in_use_is_told_in_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ended = herenow("serve", "--dev", "--port", port, cwd=tmp_path)
    assert ended.returncode == 2
    sentence = f"herenow: 127.0.0.1:{port} is in use by another program: stop it, or choose another port with --port\n"
    assert ended.stderr == sentence
    assert not (tmp_path / "herenow.db").exists()


@pytest.mark.parametrize(
    ("options", "environment", "names"),
    [
        (("--host", "0.0.0.0"), {}, "HERENOW_JWT_SECRET"),
        (("--host", "0.0.0.0", "--dev"), {}, "--dev"),
        (("--host", "0.0.0.0", "--dev"), {"HERENOW_JWT_SECRET": "x" * 32}, "--dev"),
        (("--host", "::", "--dev"), {}, "--dev"),
        ((), {}, "HERENOW_JWT_SECRET"),
        ((), {"HERENOW_JWT_SECRET": "short"}, "32 bytes"),
        (("--host", "no.such.host.invalid"), {"HERENOW_JWT_SECRET": "x" * 32}, "no.such.host.invalid"),
        (("--dev", "--port", "99999"), {}, "port"),
        (("--dev",), {"HERENOW_PING_TIMEOUT_S": "25"}, "ping_timeout_s"),
        (("--dev", "--port", "0", "--database", "postgresql://x/y"), {}, "postgresql"),
        (("--dev", "--port", "0", "--database", "nonsense"), {}, "nonsense"),
        (("--dev", "--port", "0", "--database", "sqlite:////no/such/directory/x.db"), {}, "/no/such/directory/x.db"),
        (("--dev", "--page", "/no/such/page"), {}, "/no/such/page"),
        (("--dev", "--log-level", "loud"), {}, "loud"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(
    tmp_path: Path, options: tuple[str, ...], environment: dict[str, str], names: str
) -> None:
    ended = herenow("serve", *options, cwd=tmp_path, timeout_s=20, **environment)
    assert ended.returncode == 2
    assert names in ended.stderr.replace("\n", " ")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_second_server_on_the_store_refuses_and_names_the_first(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        said = (tmp_path / "herenow.db-server").read_text()
        ended = herenow("serve", "--dev", "--port", "0", cwd=tmp_path)
        assert ended.returncode == 2
        assert f"process {server.program.pid}" in ended.stderr.splitlines()[-1]
        assert (tmp_path / "herenow.db-server").read_text() == said


def test_the_page_of_the_api_runs_nothing_of_other_people(tmp_path: Path) -> None:
    """An operator's key is typed in there. And it is there without the internet."""
    with serving_process(tmp_path) as server:
        page = http_get(f"{server.address}/docs")
        assert page.status_code == 200
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(loaded) == 3
        for path in loaded:
            assert path.startswith("/docs-files/")
            assert http_get(server.address + path).status_code == 200


def test_a_page_is_served_beside_the_api(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<h1>who is here</h1>")
    with serving_process(tmp_path, "--page", "page") as server:
        assert "who is here" in http_get(server.address).text
        assert http_get(f"{server.address}/v1/stats").status_code == 200
        assert httpx.head(f"{server.address}/healthz").status_code == 200
        assert http_get(f"{server.address}/../herenow.db").status_code == 404
        missing = http_get(f"{server.address}/v1/nothing")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


async def test_it_ends_with_1_and_writes_nothing_when_another_server_takes_the_store_over(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        client = await Caller.open(server.address, "alice")
        await until(lambda: rows(tmp_path, "SELECT count(*) FROM users WHERE isOnline") == [(1,)])
        take_over(tmp_path)
        assert await asyncio.to_thread(server.program.wait, 10) == 1
        await client.cut()
        assert "belongs to another server: process 4711 on elsewhere" in server.logged()
    assert rows(tmp_path, "SELECT isOnline FROM users") == [(1,)]
    assert rows(tmp_path, "SELECT host FROM herenow_nodes") == [("elsewhere",)]


def take_over(directory: Path) -> None:
    """Be a server on another machine, which has no part in this one's file lock."""
    connection = sqlite3.connect(directory / "herenow.db", isolation_level=None)
    try:
        beat_ms = time.time_ns() // 1_000_000 + 60_000
        connection.execute(
            "UPDATE herenow_nodes SET name='other', epoch=epoch+1, host='elsewhere', pid=4711, process='', beat_ms=?",
            (beat_ms,),
        )
    finally:
        connection.close()


def test_it_starts_on_ipv6_loopback(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    server = Server(tmp_path, "--dev", "--host", "::1")
    try:
        server.wait_until_ready()
        assert server.address.startswith("http://[::1]:")
        assert herenow("status", cwd=tmp_path).returncode == 0
    finally:
        server.close()


def test_it_ends_cleanly_without_standard_streams(tmp_path: Path) -> None:
    """A socket had the number of one of them, and the event loop ended the process with a signal as it closed it."""
    port = free_port()
    command = [sys.executable, "-m", "herenow.cli", "serve", "--dev", "--port", str(port)]
    closed = f"import os; [os.close(each) for each in (0, 1, 2)]; os.execv({sys.executable!r}, {command!r})"
    program = subprocess.Popen([sys.executable, "-c", closed], cwd=tmp_path, env=ENVIRONMENT)
    try:
        ends_s = time.monotonic() + 20
        while not (listens(port) and http_get(f"http://127.0.0.1:{port}/readyz").status_code == 200):
            assert program.poll() is None
            assert time.monotonic() < ends_s
            time.sleep(0.05)
        program.send_signal(signal.SIGTERM)
        assert program.wait(10) == 0
    finally:
        program.kill()
        program.wait()
