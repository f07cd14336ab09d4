"""Two servers, two clocks: a server that was stopped and replaced, and clocks an hour apart; all processes are real.

The story: a server was stopped (SIGSTOP, a laptop that slept), another one took its place, and it went on. It found its
clients silent, and wrote them offline: ten of twenty users who were online with the new server were offline in the
database for a minute.
"""

import asyncio
import contextlib
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import socketio

import mongod
from cli_support import answer, herenow, serving_process
from clients import Client
from programs import CLOCK
from support import until

SHORT: dict[str, Any] = {
    "HERENOW_NODE_BEAT_S": "0.1",
    "HERENOW_NODE_LEASE_S": "0.6",
    "HERENOW_OFFLINE_WITHIN_S": "0.5",
    "HERENOW_PING_INTERVAL_S": "1",
    "HERENOW_PING_TIMEOUT_S": "1",
}
LEASE_S = float(SHORT["HERENOW_NODE_LEASE_S"])
USERS = [f"user-{n}" for n in range(10)]
HOUR_S = 3600


@pytest.fixture
def database() -> Iterator[Any]:
    with mongod.shared().client() as client:
        yield client[mongod.fresh_database()]


class Road:
    """What stands before two servers, as a load balancer does: where the clients come in, and where that leads."""

    def __init__(self) -> None:
        self.port = 0  # of the server that it leads to now

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        async with server:
            yield "http://{}:{}".format(*server.sockets[0].getsockname())

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pour(reader, far_writer), _pour(far_reader, writer), return_exceptions=True)


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def owner(database: Any) -> Any:
    return database.herenow_nodes.find_one({"_id": "users"})


async def test_a_server_that_was_stopped_and_replaced_writes_not_one_row_and_sends_its_clients_away(
    tmp_path: Path, database: Any
) -> None:
    options = ("-d", mongod.shared().url(database.name))
    database.users.insert_many([{"_id": user} for user in [*USERS, "comes-back"]])
    places = [tmp_path / name for name in ("old", "new")]
    for place in places:
        place.mkdir()
    road = Road()
    session = aiohttp.ClientSession()  # of its own the client leaves one open each time that it comes back
    stock = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.2, http_session=session)
    greeted = asyncio.Event()
    stock.on("presence:ready", lambda _: greeted.set())

    def rows() -> list[Any]:
        return list(database.users.find({"_id": {"$in": USERS}}).sort("_id", 1))

    with serving_process(places[0], *options, **SHORT) as old:
        async with road.open() as address:
            road.port = port_of(old.address)
            clients = [await Client.connect(old.address, user) for user in USERS]
            await stock.connect(address, auth={"userId": "comes-back"}, transports=["websocket"])
            await until(lambda: database.users.count_documents({"isOnline": True}) == 11)
            old.program.send_signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE_S)
            with serving_process(places[1], *options, **SHORT) as new:
                # They come to the new one; of half of them it writes a row, for the others all is as it was.
                clients += [await Client.connect(new.address, user) for user in USERS]
                for client in clients[10:15]:
                    await client.call("presence:claim", {"availability": "busy"})
                await until(lambda: database.users.count_documents({"presence.availability": "busy"}) == 5)
                road.port = port_of(new.address)
                before = rows()
                assert all(row["isOnline"] for row in before)
                greeted.clear()
                old.program.send_signal(signal.SIGCONT)
                assert await asyncio.to_thread(old.program.wait, 20) == 1
                assert "belongs to another server" in old.logged()
                async with asyncio.timeout(20):
                    await greeted.wait()
                assert rows() == before
                assert database.users.find_one("comes-back")["isOnline"]
                assert all(client.closed.is_set() for client in clients[:10]), "the old one sent them away"
                for client in clients:
                    await client.close()
                await stock.disconnect()
                await session.close()


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """The wall clock of another machine: what is written here, it is ahead of ours, in seconds."""
    path = tmp_path / "clock"
    path.write_text("0")
    return path


def turn(clock: Path, ahead_s: int) -> None:
    clock.write_text(str(ahead_s))


async def test_commands_whose_clock_is_an_hour_off_find_the_server_that_lives(
    tmp_path: Path, database: Any, clock: Path
) -> None:
    options = ("-d", mongod.shared().url(database.name))
    database.users.insert_many([{"_id": "alice"}, {"_id": "ghost"}])
    state: dict[str, Any] = {"XDG_STATE_HOME": str(tmp_path)}
    with serving_process(tmp_path, *options, **state, HERENOW_AUDIT_EVERY_S="3600") as server:
        alice = await Client.connect(server.address, "alice")
        for ahead_s in (-HOUR_S, HOUR_S):
            turn(clock, ahead_s)
            here = {**state, CLOCK: str(clock)}
            database.users.update_one({"_id": "ghost"}, {"$set": {"isOnline": True}})
            cleaned = answer(herenow("cleanup", "--json", *options, cwd=tmp_path, **here))
            assert (cleaned["offline"], cleaned["protectedUsers"]) == (1, 1)
            told = answer(herenow("status", "--json", *options, cwd=tmp_path, **here))
            assert [each["isAlive"] for each in told["servers"]] == [True]
            assert answer(herenow("explain", "alice", "--json", *options, cwd=tmp_path, **here))["source"] == "server"
            assert database.users.find_one("alice")["isOnline"]
            second = herenow("serve", "--dev", "--port", "0", *options, cwd=tmp_path, **here)
            assert (second.returncode, "belongs to another server" in second.stderr) == (2, True)
        await alice.leave()


async def test_a_successor_whose_clock_is_an_hour_behind_waits_for_a_lease_and_no_longer(
    tmp_path: Path, database: Any, clock: Path
) -> None:
    options = ("-d", mongod.shared().url(database.name))
    database.users.insert_one({"_id": "alice"})
    with serving_process(tmp_path, *options, **SHORT) as old:
        await Client.connect(old.address, "alice")
        await until(lambda: database.users.find_one("alice")["isOnline"])
        old.close()
    # as if it had been on another machine, into which nobody here can look
    database.herenow_nodes.update_one({}, {"$set": {"process": "", "host": "elsewhere"}})
    turn(clock, -HOUR_S)
    await asyncio.sleep(LEASE_S)
    other: dict[str, Any] = {CLOCK: str(clock)}
    began_s = time.monotonic()
    with serving_process(tmp_path, *options, **SHORT, **other) as new:
        assert time.monotonic() - began_s < 20
        alice = await Client.connect(new.address, "alice")
        assert database.users.find_one("alice")["isOnline"]
        await alice.leave()
        await until(lambda: not database.users.find_one("alice")["isOnline"])


async def test_a_wall_clock_that_jumps_under_a_running_server_harms_nobody(tmp_path: Path, clock: Path) -> None:
    other: dict[str, Any] = {CLOCK: str(clock)}
    secret = "a secret of at least thirty-two bytes"
    settings: dict[str, Any] = {
        **SHORT,
        "HERENOW_JWT_SECRET": secret,
        "HERENOW_AUDIT_EVERY_S": "0.3",
        CLOCK: str(clock),
    }

    def token(user: str, *, lives_s: int) -> str:
        return jwt.encode({"sub": user, "exp": int(time.time()) + lives_s}, secret)

    def rows() -> dict[str, bool]:
        with contextlib.closing(sqlite3.connect(tmp_path / "herenow.db")) as connection:
            return dict(connection.execute("SELECT id, isOnline FROM users"))

    with serving_process(tmp_path, dev=False, **settings) as server:
        stays = await Client.connect(server.address, token=token("stays", lives_s=600))
        await stays.watch(all=True)
        for user, ahead_s in (("a", HOUR_S), ("b", -HOUR_S), ("c", 0)):
            goes = await Client.connect(server.address, token=token(user, lives_s=3 * HOUR_S))
            turn(clock, ahead_s)
            await goes.close()  # without a goodbye: the grace must end in its time
            await stays.until(lambda user=user: stays.shows(user) == "offline", 10)
            told = answer(await asyncio.to_thread(herenow, "status", "--json", cwd=tmp_path, **other))
            assert [each["isAlive"] for each in told["servers"]] == [True]
            await until(lambda user=user: rows().get(user) == 0)  # type: ignore[misc]
        await asyncio.sleep(1.2)  # who would be thrown out, or be mended by the audit, would be by now
        assert not stays.closed.is_set()
        assert (stays.errors, stays.shows("stays")) == ([], "online")
        assert rows()["stays"] == 1
        assert server.program.poll() is None
        await stays.leave()


async def test_a_row_of_the_server_that_somebody_removes_or_damages_heals_and_commands_live_through_it(
    tmp_path: Path, database: Any
) -> None:
    options = ("-d", mongod.shared().url(database.name))
    database.users.insert_one({"_id": "alice"})
    state: dict[str, Any] = {"XDG_STATE_HOME": str(tmp_path)}
    with serving_process(tmp_path, *options, **state, HERENOW_NODE_BEAT_S="1", HERENOW_NODE_LEASE_S="10") as server:
        alice = await Client.connect(server.address, "alice")
        await until(lambda: database.users.find_one("alice")["isOnline"])
        whole = {name: value for name, value in owner(database).items() if name != "beat_ms"}
        for damage in ({"$set": {"pid": "a word", "beat_ms": "soon"}}, {"$unset": {"lease_ms": 1, "host": 1}}, None):
            if damage is None:
                database.herenow_nodes.delete_many({})
            else:
                database.herenow_nodes.update_one({}, damage)
            cleaned = herenow("cleanup", "--json", *options, cwd=tmp_path, **state)
            assert (cleaned.returncode, answer(cleaned)["protectedUsers"]) == (0, 1)
            await until(lambda: {**(owner(database) or {}), "beat_ms": 0} == {**whole, "beat_ms": 0})
            assert database.users.find_one("alice")["isOnline"]
        database.herenow_nodes.delete_many({})
        second = herenow("serve", "--dev", "--port", "0", *options, cwd=tmp_path, **state)
        assert (second.returncode, "belongs to another server" in second.stderr) == (2, True)
        assert server.program.poll() is None
        await alice.leave()
