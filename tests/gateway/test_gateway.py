"""Presence over Socket.IO: slow readers, the end of the server, and the page that a crowd shares."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from captured import capture_logs
from clients import Client
from gateway.served import Serve, Served
from herenow.model import Availability, Claim, Claimed, StoredUser
from support import connect_socket, receive, until, websocket

# -- slow readers ------------------------------------------------------------------------------------------------


async def test_a_slow_reader_gets_the_net_when_it_reads_again(serve: Serve) -> None:
    async with serve(write_buffer_high=20_000, max_status_text=100_000, max_events_per_s=10_000) as server:
        slow, quick = await server.connect("slow", watch=("alice",)), await server.connect("quick")
        await quick.watch(all=True)
        alice = await server.connect("alice")
        slow.ws.transport.pause_reading()
        socket = next(s for s in server.gateway.server.namespace("/").sockets.values() if s.data.user_id == "slow")
        count = 0
        while not socket.slow:
            count += 1
            await alice.call("presence:claim", {"text": f"{count} " + "x" * 90_000})
            await asyncio.sleep(0.06)
            assert count < 300
        for last in range(20):
            await alice.call("presence:claim", {"text": f"last {last}"})
        await quick.until(lambda: quick.view["alice"].get("statusText") == "last 19")
        assert len(socket.data.pending) == 1
        slow.ws.transport.resume_reading()
        await slow.until(lambda: slow.shows("alice") and slow.view["alice"].get("statusText") == "last 19", 20)
        assert len(slow.causes("alice")) < count + 20
        for client in (slow, quick, alice):
            await client.close()


async def test_a_reader_that_stays_slow_is_closed_and_may_come_back(serve: Serve) -> None:
    async with serve(
        write_buffer_high=20_000, max_status_text=100_000, max_events_per_s=10_000, slow_reader_timeout_s=0.4
    ) as server:
        slow, watcher = await server.connect("slow", watch=("alice",)), await server.connect("bob", watch=("slow",))
        alice = await server.connect("alice")
        slow.ws.transport.pause_reading()
        connections = server.gateway.server.namespace("/").sockets
        async with asyncio.timeout(20):
            while any(socket.data.user_id == "slow" for socket in connections.values()):
                await alice.call("presence:claim", {"text": "x" * 90_000 + str(time.monotonic())})
        slow.ws.transport.resume_reading()
        await slow.closed.wait()
        assert [error["code"] for error in slow.errors] == ["slow_reader"]
        assert slow.ws.close_code == 1006, "a close frame keeps some clients from coming back"
        await watcher.until(lambda: watcher.shows("slow") == "offline")
        assert watcher.causes("slow") == ["error"]  # after the grace: it was not its own wish
        for client in (alice, watcher):
            await client.close()


# -- the end -----------------------------------------------------------------------------------------------------


async def test_a_stop_tells_the_clients_and_writes_everyone_offline(serve: Serve, tmp_path: Path) -> None:
    async with serve() as server:
        alice = await server.connect("alice")
        lingering = await server.connect("bob")
        await lingering.close()
        await until(lambda: server.presence.writer.state().pending == 0)
    await alice.closed.wait()
    assert [error["code"] for error in alice.errors] == ["shutting_down"]
    async with serve() as again:
        rows = await again.presence.store.read(["alice", "bob"])
        assert {row.is_online for row in rows.values()} == {False}
        assert len(rows) == 2


async def test_polling_clients_are_served_too(server: Served) -> None:
    import socketio

    client = socketio.AsyncClient()
    diffs: asyncio.Queue[Any] = asyncio.Queue()
    client.on("presence:diff", diffs.put_nowait)
    await client.connect(server.url, auth={"userId": "poller"}, transports=["polling"])
    assert (await client.call("presence:watch", {"users": ["alice"]}))["ok"]
    alice = await server.connect("alice")
    async with asyncio.timeout(5):
        assert (await diffs.get())["changes"][0]["userId"] == "alice"
    await alice.close()
    await client.disconnect()


async def test_an_unknown_namespace_is_refused(server: Served) -> None:
    async with websocket(server.url) as ws:
        await ws.recv()
        await ws.send("40/admin,")
        assert await receive(ws) == '44/admin,{"message":"Invalid namespace"}'


async def test_evicted_connections_are_closed(server: Served) -> None:
    alice, bob = await server.connect("alice"), await server.connect("bob", watch=("alice",))
    assert await server.presence.disconnect("alice") == 1
    await alice.closed.wait()
    await bob.until(lambda: bob.shows("alice") == "offline")
    assert bob.causes("alice") == ["left"]
    assert await server.presence.disconnect("alice") == 0
    ws = await connect_socket(server.url, '40{"userId":"alice"}')
    await bob.until(lambda: bob.shows("alice") == "online")
    await ws.close()
    await bob.close()


# -- the page that a crowd shares --------------------------------------------------------------------------------


async def test_all_who_join_at_once_and_share_a_page_know_each_other_in_the_end(serve: Serve) -> None:
    async with serve(flush_interval_s=0.2, offline_within_s=2.0) as server:
        names = [f"user-{number}" for number in range(40)]

        async def join(name: str) -> tuple[Client, int]:
            client = await server.connect(name)
            return client, (await client.watch(all=True))["version"]

        joined = await asyncio.gather(*map(join, names))
        assert len({version for _, version in joined}) < len(names), "nobody shared a page: this test shows nothing"
        for client, _ in joined:
            await client.until(lambda client=client: all(client.shows(name) == "online" for name in names))
        for client, _ in joined:
            await client.close()


async def test_a_page_is_not_kept_while_nobody_is_told_of_changes(serve: Serve) -> None:
    """Without a watcher there is no flush, and the page of the last one would stand for ever."""
    async with serve(flush_interval_s=0.5, offline_within_s=2.0) as server:
        alice = await server.connect("alice")
        await alice.watch(all=True)
        await alice.watch(all=True)  # the flush that told her of herself is over: this page would be kept
        await alice.leave()
        bob = await server.connect("bob")
        carol = await server.connect("carol")
        page = await carol.watch(all=True)
        assert {user["userId"] for user in page["users"]} == {"bob", "carol"}
        await bob.close()
        await carol.close()


async def test_a_change_that_cannot_be_told_takes_no_other_with_it(serve: Serve) -> None:
    """A time that no text has, or half a character, once lost the diffs of everybody in the same window."""
    async with serve() as served:
        bob = await served.connect("bob")
        await bob.watch(all=True)
        registry = served.presence.registry
        registry.connect("half", "h", node="n")
        await registry.adopt(
            [StoredUser("early", True, Availability.BUSY, -5, Claim(Claimed.BUSY), 1)], last_beat_ms=0, grace_ms=60_000
        )
        with capture_logs() as logs:
            registry.claim("half", Claim(Claimed.BUSY, "\ud800"))
            registry.claim("early", Claim(Claimed.AWAY))
            await registry.connect("whole", "w", node="n")
            await bob.until(lambda: (bob.shows("early"), bob.shows("whole")) == ("away", "online"))
        assert {line["part"] for line in logs if "part" in line} == {"encoding"}, "it is said"


async def test_an_event_that_meets_the_stop_is_no_fault(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had waited for its turn, and found what it needed closed: a traceback for each."""
    waiting, go_on = list[Any](), asyncio.Event()

    async def wait(client: Any) -> None:
        waiting.append(client)
        await go_on.wait()

    async def closed(_: str) -> None:
        raise RuntimeError("the registry is closed")

    async with serve() as server:
        alice = await Client.connect(server.url, "alice")
        monkeypatch.setattr(server.gateway._throttle, "wait", wait)
        monkeypatch.setattr(server.presence.registry, "active", closed)
        with capture_logs() as lines:
            await alice.send("presence:active", {})
            await until(lambda: waiting)
            server.gateway.stop()
            go_on.set()
            await until(lambda: not waiting[0].running)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == []
