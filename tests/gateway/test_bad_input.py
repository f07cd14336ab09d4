"""Bad input: a clear error to whoever sent it, and no harm to anybody else."""

import asyncio
import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from captured import capture_logs
from clients import Client, Refused
from gateway.served import Serve, Served
from herenow.gateway.access.throttle import USERS_AN_EVENT
from raw import Raw, client_frame
from support import closed, connect_socket, receive, until, websocket


async def test_an_error_comes_as_an_event_where_no_acknowledgement_was_asked_for(server: Served) -> None:
    bob = await server.connect("bob")
    await bob.send("presence:watch", {"users": [5]})
    await bob.send("no such event", 1)
    await bob.until(lambda: len(bob.errors) == 2)
    assert [error["code"] for error in bob.errors] == ["bad_request", "unknown_event"]
    assert (await bob.call("x" * 1_000))["error"]["code"] == "unknown_event"
    assert len((await bob.call("x" * 1_000))["error"]["message"]) < 200
    await bob.close()


async def test_strings_of_nearly_a_megabyte_are_refused_and_harm_nobody(server: Served) -> None:
    alice, bob = await server.connect("alice"), await server.connect("bob")
    huge = "x" * 990_000
    for event, payload, code in (
        ("presence:get", {"users": [huge]}, "too_large"),
        ("presence:watch", {"all": True, "cursor": huge}, "too_large"),
        ("presence:claim", {"text": huge}, "too_large"),
        ("presence:idle", {"x": huge}, "too_large"),
        (huge, None, "unknown_event"),
    ):
        error = (await alice.call(event, payload))["error"]
        assert error["code"] == code
        assert len(error["message"]) < 250
    assert (await alice.call("presence:get", {"users": ["bob"]}))["ok"]
    await alice.close()
    await bob.close()


async def test_thousands_of_watches_are_kept_up_to_the_limit_and_forgotten_with_their_connection(
    server: Served,
) -> None:
    bob, carol = await server.connect("bob"), await server.connect("carol")
    for page in range(10):
        await bob.watch(*(f"user-{page}-{n}" for n in range(1_000)))
    refused = await bob.call("presence:watch", {"users": ["one more"]})
    assert refused["error"]["code"] == "too_many_watches"
    await carol.watch("user-9-999")
    someone = await server.connect("user-9-999")
    for watcher in (bob, carol):
        await watcher.until(lambda watcher=watcher: watcher.shows("user-9-999") == "online")
    await bob.close()
    await until(lambda: not server.gateway._audiences[None].watches.of("user-0-0"))
    await someone.close()
    await carol.close()


async def test_a_clock_that_jumps_back_an_hour_turns_no_version_back_and_is_believed(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, alice = await server.connect("bob", watch=("alice", "carol")), await server.connect("alice")
    await bob.until(lambda: bob.shows("alice") == "online")
    before = bob.view["alice"]
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600 * 10**9)
    carol = await server.connect("carol")
    await bob.until(lambda: bob.shows("carol") == "online")
    assert bob.view["carol"]["version"] > before["version"]
    await alice.call("presence:claim", {"availability": "busy"})
    await bob.until(lambda: bob.shows("alice") == "busy")
    await carol.close()
    await alice.leave()
    await bob.until(lambda: bob.shows("alice") == bob.shows("carol") == "offline")
    assert bob.view["alice"]["version"] > before["version"]
    moments = [datetime.fromisoformat(view["lastActive"]) for view in (bob.view["alice"], before)]
    assert moments[0] < moments[1] - timedelta(minutes=50)
    await until(lambda: server.presence.writer.state().pending == 0)
    assert [await server.row(user) for user in ("alice", "carol")] == [(False, "offline")] * 2
    assert (await server.presence.audit.round()).ghosts == 0
    await bob.close()


async def test_a_fault_of_the_servers_is_answered_and_logged(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(user_ids: Any) -> Any:
        raise ZeroDivisionError("a secret")

    bob = await server.connect("bob")
    monkeypatch.setattr(server.presence, "snapshot", fail)
    answer = await bob.call("presence:get", {"users": ["a"]})
    assert answer["error"] == {"code": "internal", "message": "the server could not do it", "temporary": True}
    await bob.close()


async def test_who_leaves_or_is_put_out_is_told_not_to_come_back(server: Served) -> None:
    """Otherwise the stock client reconnects after a second, and whoever left is online again."""
    for way in ("leave", "put out"):
        ws = await connect_socket(server.url, '40{"userId":"alice"}')
        await receive(ws)
        if way == "leave":
            await ws.send('421["presence:leave"]')
            assert await receive(ws) == '431[{"ok":true}]'
        else:
            await server.presence.disconnect("alice")
        assert await receive(ws) == "41"
        assert await closed(ws) == 1000


async def test_events_are_limited(serve: Serve) -> None:
    async with serve(max_events_per_s=10) as server:
        bob = await server.connect("bob")
        answers = await asyncio.gather(*(bob.call("presence:get", {"users": []}) for _ in range(40)))
        refused = [answer["error"] for answer in answers if not answer["ok"]]
        assert 5 <= len(refused) <= 20  # it is not read from for a while, in which its allowance grows
        assert refused[0]["code"] == "rate_limited"
        assert refused[0]["temporary"] is True
        await bob.close()


async def test_refused_events_fill_the_log_with_one_line_a_user_and_code(serve: Serve) -> None:
    """Within its limits, one client wrote 3.7 GB a day. The metric counts all."""
    async with serve(max_events_per_s=50) as server:
        bob, carol = await server.connect("bob"), await server.connect("carol")
        errors = server.presence.meters.errors
        with capture_logs() as logs:
            for _ in range(20):
                assert not (await bob.call("presence:get", {}))["ok"]
                assert not (await bob.call("presence:nothing"))["ok"]
            assert not (await carol.call("presence:get", {}))["ok"]
            await asyncio.gather(*(bob.call("presence:idle") for _ in range(200)))
        said = [(line["event"], line.get("code"), line["user"]) for line in logs if line["log_level"] == "info"]
        assert sorted(line for line in said if line[0] in ("event refused", "rate limited")) == sorted(
            [
                ("event refused", "bad_request", "bob"),
                ("event refused", "unknown_event", "bob"),
                ("event refused", "bad_request", "carol"),
                ("rate limited", None, "bob"),
            ],
            key=str,
        )
        counted = {code: errors.labels(code)._value.get() for code in ("bad_request", "unknown_event")}
        assert counted == {"bad_request": 21, "unknown_event": 20}
        assert errors.labels("rate_limited")._value.get() > 1
        for client in (bob, carol):
            await client.close()


async def test_connections_that_are_refused_fill_the_log_with_one_line_a_code(serve: Serve) -> None:
    async with serve() as server:
        with capture_logs() as logs:
            for _ in range(20):
                with pytest.raises(Refused):
                    await Client.connect(server.url, any="thing")
        assert len([line for line in logs if line["event"] == "connection refused"]) == 1
        assert server.presence.meters.refused.labels("unauthorized")._value.get() == 20


@pytest.mark.parametrize("last", ["41", None])
@pytest.mark.parametrize("payload", ['{"all":true}', '{"users":["bob","carol"]}'])
async def test_a_watch_that_comes_with_the_end_leaves_no_watcher(
    server: Served, payload: str, last: str | None
) -> None:
    """Both in one segment: the watch's turn comes when its connection has gone."""
    for _ in range(5):
        raw = await Raw.upgrade(server.url)
        await raw.send(client_frame(b'40{"userId":"alice"}'))
        await until(lambda: server.gateway._namespace.sockets)
        end = client_frame(b"\x03\xe8", 8) if last is None else client_frame(last.encode())
        await raw.send(client_frame(f'420["presence:watch",{payload}]'.encode()) + end)
        await until(lambda: not server.gateway._namespace.sockets)
        raw.abort()
    await asyncio.sleep(0.1)
    watches = server.gateway._audiences[None].watches
    assert (watches._of_all, watches._users_of, watches._of_user) == (set(), {}, {})


async def test_a_user_with_many_tabs_may_not_send_more_than_a_user_may(serve: Serve) -> None:
    async with serve(max_events_per_s=20, max_events_per_s_of_user=30) as server:
        tabs = [await server.connect("alice") for _ in range(4)]
        bob = await server.connect("bob")
        answers = await asyncio.gather(*(tab.call("presence:active") for _ in range(30) for tab in tabs))
        refused = [answer["error"] for answer in answers if not answer["ok"]]
        assert len(answers) - len(refused) >= 60
        assert {error["code"] for error in refused} == {"rate_limited"}
        assert any("this user's connections" in error["message"] for error in refused)
        assert (await bob.call("presence:active"))["ok"]
        for client in (*tabs, bob):
            await client.close()
        await until(lambda: not server.gateway._audiences[None].bucket_of)


async def test_many_users_in_one_event_count_as_more_events(server: Served) -> None:
    """Without it, three clients that ask for a thousand strangers fifty times a second keep the server busy."""
    bob = await server.connect("bob")
    strangers = {"users": [f"stranger-{n}" for n in range(1_000)]}
    for payload in (
        ("presence:get", strangers),
        ("presence:watch", {**strangers, "since": 0}),
        ("presence:watch", {"all": True, "since": 0}),
    ):
        began_s = time.monotonic()
        answers = await asyncio.gather(*(bob.call(*payload) for _ in range(60)))
        events = 100 + 50 * (time.monotonic() - began_s)  # the burst, and what came back since
        assert sum(answer["ok"] for answer in answers) <= events / (1 + 1_000 / USERS_AN_EVENT)
        assert {answer["error"]["code"] for answer in answers if not answer["ok"]} <= {"rate_limited"}
        await asyncio.sleep(0.5)
    await bob.close()


async def test_more_changes_than_a_page_are_a_snapshot(server: Served) -> None:
    bob = await server.connect("bob")
    since = (await bob.watch(all=True))["version"]
    for n in range(1_001):
        server.presence.registry.connect(f"user-{n:04}", f"connection-{n}", node="test")
    answer = await bob.watch(all=True, since=since)
    assert (answer["full"], len(answer["users"]), "cursor" in answer) == (True, 1_000, True)
    await bob.close()


async def test_an_event_before_the_client_is_known_closes_it(server: Served) -> None:
    async with websocket(server.url) as ws:
        await ws.recv()
        await ws.send('42["presence:watch",{"all":true}]')
        with pytest.raises(Exception, match="1002"):
            while True:
                await ws.recv()
    assert (await server.presence.stats()).connections == 0


async def test_a_message_above_the_maximum_closes_only_its_sender(serve: Serve) -> None:
    async with serve(max_payload=10_000) as server:
        alice, bob = await server.connect("alice"), await server.connect("bob", watch=("alice",))
        await alice.send("presence:get", {"users": ["x" * 20_000]})
        await alice.closed.wait()
        assert alice.ws.close_code == 1009
        assert (await bob.call("presence:get", {"users": ["bob"]}))["ok"]
        await bob.until(lambda: bob.shows("alice") == "offline")
        assert bob.causes("alice") == ["error"]
        await bob.close()
