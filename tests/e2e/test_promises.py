"""The promises of the design, one by one, against a server in a process of its own, at the default settings."""

import asyncio
import contextlib
import json
import shutil
import signal
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cli_support import herenow
from clients import Client
from e2e.servers import PresenceServer
from support import ROOT, connect_socket, until

OFFLINE_WITHIN_S = 2.0
MARGIN_S = 0.5
"""What a busy test machine may add to a bound; `herenow test` measures without it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceServer]:
    server = PresenceServer(tmp_path_factory.mktemp("promises") / "app.db")
    server.start()
    yield server
    assert server.stop() < 5


def is_stored_online(server: PresenceServer, user: str) -> bool:
    return user in server.online_rows()


async def test_p1_a_connect_is_told_at_once_and_stored(server: PresenceServer) -> None:
    bob = await Client.connect(server.url, "p1-watcher")
    told: list[float] = []
    for n in range(20):
        name = f"p1-{n}"
        await bob.watch(name)
        began = time.monotonic()
        alice = await Client.connect(server.url, name)
        await bob.until(lambda name=name: bob.shows(name) == "online")
        told.append(time.monotonic() - began)
        await until(partial(is_stored_online, server, name), 0.25 + MARGIN_S)
        await alice.leave()
    assert statistics.median(told) < 0.1
    await bob.leave()


async def test_p2_an_unclean_end_is_told_within_the_bound_and_never_before_the_grace(server: PresenceServer) -> None:
    bob = await Client.connect(server.url, "p2-watcher")
    await bob.watch("p2-closed", "p2-killed")
    closed, killed = await Client.connect(server.url, "p2-closed"), await Client.connect(server.url, "p2-killed")
    await bob.until(lambda: bob.shows("p2-closed") == bob.shows("p2-killed") == "online")
    began = time.monotonic()
    killed.kill()
    await closed.close()
    await bob.until(lambda: "offline" in (bob.shows("p2-closed"), bob.shows("p2-killed")))
    assert time.monotonic() - began > 1.5
    await bob.until(lambda: bob.shows("p2-closed") == bob.shows("p2-killed") == "offline")
    assert time.monotonic() - began < OFFLINE_WITHIN_S + MARGIN_S
    await until(lambda: not server.online_rows() & {"p2-closed", "p2-killed"}, MARGIN_S)
    await bob.leave()


async def test_p3_leaving_on_purpose_is_told_at_once(server: PresenceServer) -> None:
    bob = await Client.connect(server.url, "p3-watcher")
    await bob.watch("p3")
    alice = await Client.connect(server.url, "p3")
    await bob.until(lambda: bob.shows("p3") == "online")
    began = time.monotonic()
    await alice.leave()
    await bob.until(lambda: bob.shows("p3") == "offline")
    assert time.monotonic() - began < 0.1 + MARGIN_S
    await bob.leave()


async def test_p4_a_silent_loss_is_noticed_within_its_bound(tmp_path: Path) -> None:
    server = PresenceServer(tmp_path / "app.db", ping_interval_s=1.0, ping_timeout_s=0.5)
    server.start()
    try:
        bob = await Client.connect(server.url, "watcher")
        await bob.watch("silent")
        ws = await connect_socket(server.url, '40{"userId":"silent"}')
        began = time.monotonic()  # from here on it answers no ping, and no FIN comes
        await bob.until(lambda: bob.shows("silent") == "online")
        await bob.until(lambda: bob.shows("silent") == "offline", 10)
        assert time.monotonic() - began < 1.0 + 0.5 + OFFLINE_WITHIN_S + MARGIN_S
        assert bob.causes("silent")[-1] == "timeout"
        ws.transport.abort()
        await bob.leave()
    finally:
        server.stop()


async def test_p5_after_a_kill_who_comes_back_does_not_flicker_and_no_ghost_stays(tmp_path: Path) -> None:
    server = PresenceServer(tmp_path / "app.db", restart_grace_s=9.5)
    server.start()
    stays, goes = await Client.connect(server.url, "stays"), await Client.connect(server.url, "goes")
    await until(lambda: server.online_rows() == {"stays", "goes"})
    server.kill()
    await stays.closed.wait()
    await goes.closed.wait()
    assert server.online_rows() == {"stays", "goes"}  # the original system's fault, for a moment
    server.start()
    began = time.monotonic()
    try:
        bob = await Client.connect(server.url, "watcher")
        await bob.watch("stays", "goes")
        assert (bob.shows("stays"), bob.shows("goes")) == ("online", "online")
        stays = await Client.connect(server.url, "stays")
        await bob.until(lambda: bob.shows("goes") == "offline", 15)
        assert time.monotonic() - began < 9.5 + MARGIN_S + 0.5
        assert bob.causes("goes") == ["restart"]
        assert bob.causes("stays") == []
        await until(lambda: server.online_rows() == {"stays", "watcher"}, 1)
        await stays.leave()
        await bob.leave()
    finally:
        server.stop()


def node_scenario(server: PresenceServer, name: str, *arguments: str, timeout_s: float) -> dict[str, object]:
    node = shutil.which("node")
    assert node is not None, "Node is not on the PATH: run `make install`, or install Node 20 or later"
    done = subprocess.run(
        [node, name, server.url, *arguments],
        cwd=ROOT / "tests/node",
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_p6_reloads_with_the_stock_client_are_seen_by_nobody(server: PresenceServer) -> None:
    result = node_scenario(server, "reloads.mjs", "25", timeout_s=90)
    assert result == {"reloads": 25, "changes": ["connect"], "final": "online"}


def test_p7_tabs_of_the_stock_client_come_and_go_unseen(server: PresenceServer) -> None:
    result = node_scenario(server, "tabs.mjs", timeout_s=90)
    assert result == {"orders": 6, "changes": ["connect", "left"] * 6}


async def test_p9_a_database_that_is_locked_for_a_while_loses_nothing(server: PresenceServer) -> None:
    bob = await Client.connect(server.url, "p9-watcher")
    await bob.watch(*(f"p9-{n}" for n in range(20)))
    early = [await Client.connect(server.url, f"p9-{n}") for n in range(10)]
    await until(lambda: len({f"p9-{n}" for n in range(10)} & server.online_rows()) == 10)
    with contextlib.closing(sqlite3.connect(server.database, isolation_level=None)) as intruder:
        intruder.execute("BEGIN EXCLUSIVE")
        late = [await Client.connect(server.url, f"p9-{n}") for n in range(10, 20)]
        for client in early:
            await client.leave()
        # Presence goes on in real time.
        await bob.until(
            lambda: (
                all(bob.shows(f"p9-{n}") == "offline" for n in range(10))
                and all(bob.shows(f"p9-{n}") == "online" for n in range(10, 20))
            )
        )
        await asyncio.sleep(2.5)
        assert bob.shows("p9-15") == "online"
        intruder.execute("ROLLBACK")
    online = {f"p9-{n}" for n in range(10, 20)}
    await until(
        lambda: {user for user in server.online_rows() if user.startswith("p9-") and user != "p9-watcher"} == online, 2
    )
    for client in late:
        await client.leave()
    await bob.leave()


async def test_sigterm_tells_the_clients_and_writes_everyone_offline(tmp_path: Path) -> None:
    server = PresenceServer(tmp_path / "app.db")
    server.start()
    alice, lingers = await Client.connect(server.url, "alice"), await Client.connect(server.url, "lingers")
    await lingers.close()
    slow = await Client.connect(server.url, "slow")
    slow.ws.transport.pause_reading()
    await until(lambda: len(server.online_rows()) == 3)
    took_s = await asyncio.to_thread(server.stop)
    await alice.closed.wait()
    assert took_s < 5
    assert [error["code"] for error in alice.errors] == ["shutting_down"]
    assert server.online_rows() == set()
    slow.kill()


def test_a_second_server_on_the_same_store_is_refused(server: PresenceServer) -> None:
    directory = server.database.parent
    done = herenow("serve", "--dev", "--port", "0", "-d", f"sqlite:///{server.database}", cwd=directory)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "belongs to another server" in done.stderr
    assert server.is_running()


async def test_nothing_but_the_beat_is_written_while_nobody_changes(server: PresenceServer) -> None:
    alice = await Client.connect(server.url, "quiet")
    await asyncio.sleep(1)
    with contextlib.closing(sqlite3.connect(server.database)) as reader:

        def users() -> list[tuple[object, ...]]:
            return reader.execute("SELECT * FROM users ORDER BY id").fetchall()

        def beat() -> object:
            return reader.execute("SELECT * FROM herenow_nodes").fetchall()

        before, beat_before = users(), beat()
        await asyncio.sleep(2.5)
        assert users() == before
        assert beat() != beat_before
    await alice.leave()


async def test_a_server_that_is_stopped_and_continued_keeps_its_word(server: PresenceServer) -> None:
    """A laptop that sleeps, a virtual machine that is paused: the clock jumps ahead."""
    bob = await Client.connect(server.url, "paused-watcher")
    await bob.watch("paused")
    alice = await Client.connect(server.url, "paused")
    await bob.until(lambda: bob.shows("paused") == "online")
    assert server._process is not None
    server._process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(3)
    server._process.send_signal(signal.SIGCONT)
    assert (await alice.call("presence:get", {"users": ["paused"]}))["users"][0]["isOnline"] is True
    assert bob.causes("paused") == ["connect"]
    await alice.leave()
    await bob.leave()
