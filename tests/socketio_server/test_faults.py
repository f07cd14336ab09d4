"""Peers that speak no valid Socket.IO leave a trace: a count by reason, a line a minute an address, and an answer."""

import logging

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from herenow.socketio_server import Server, ServerSettings
from herenow.socketio_server.faults import LOGGER, Faults
from herenow.sparing import EVERY_S, MOST_KINDS
from raw import Raw
from support import SHELLS, Poller, Shell, http_client, serving, until, websocket, websocket_url

EVERY_MS = EVERY_S * 1000


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


def test_an_address_has_one_line_a_minute_and_every_fault_counts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    faults, counted = Faults(), [""]
    faults.on_fault = counted.append
    for at_ms in (0, 1, EVERY_MS - 1):
        faults.note("192.0.2.1", "a", at_ms)
    faults.note("192.0.2.2", "b", 2)
    faults.note("192.0.2.1", "c", EVERY_MS)
    faults.note(None, "d", EVERY_MS)
    faults.note("127.0.0.1", "e", EVERY_MS)
    assert lines(caplog) == [
        "no valid Socket.IO from 192.0.2.1: a",
        "no valid Socket.IO from 192.0.2.2: b",
        "no valid Socket.IO from 192.0.2.1: c (2 more since the last line)",
        "no valid Socket.IO from a Unix socket: d",
        "no valid Socket.IO from 127.0.0.1: e",
    ]
    assert counted[1:] == ["a", "a", "a", "b", "c", "d", "e"]


def test_a_crowd_of_addresses_fills_neither_the_log_nor_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    faults = Faults()
    for number in range(3 * MOST_KINDS):
        faults.note(f"10.0.{number // 250}.{number % 250}", "a", 0)
        faults.note(f"2001:db8::{number:x}", "of one customer", 0)
    assert len(lines(caplog)) == len(faults._sparing._said[LOGGER]) == MOST_KINDS + 1
    faults.note("192.0.2.1", "later", EVERY_MS)
    assert lines(caplog)[-1] == "no valid Socket.IO from 192.0.2.1: later"
    assert len(faults._sparing._said[LOGGER]) == 1


WRONG: dict[str, tuple[str | bytes, str]] = {
    "a type that there is not": ("4zzz", "a Socket.IO packet has no type or an unknown one"),
    "binary before CONNECT, as the msgpack parser sends": (
        b"\x85\xa4type\x00",
        "an attachment came without its packet",
    ),
    "an event before CONNECT": ('42["a"]', "a packet for a namespace that was not connected"),
    "JSON that is none": ("40{", "a payload is not valid JSON"),
    "no Engine.IO": ("x", "an Engine.IO packet has no type or an unknown one"),
    "a ping, which only servers send": ("2", "an Engine.IO packet that a client does not send here"),
}


@pytest.mark.parametrize("shell", SHELLS)
async def test_what_is_wrong_is_said_to_the_client_to_the_counter_and_to_the_log(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    counted: list[str] = []
    server = Server(ServerSettings(max_payload=100_000))
    server.engine.faults.on_fault = counted.append
    async with serving(server.asgi_app(), shell) as url:
        for packet, reason in WRONG.values():
            async with websocket(url) as ws:
                await ws.recv()
                await ws.send(packet)
                with pytest.raises(ConnectionClosed):
                    await ws.recv()
                assert (ws.close_code, ws.close_reason) == (1002, f"bad packet: {reason}")
            async with Poller(url) as poller:
                await poller.open()
                answer = await poller.post(packet if isinstance(packet, str) else "bhaR0eXBlAA==")
                assert (answer.status_code, answer.json()) == (400, {"code": 3, "message": f"Bad request: {reason}"})
            assert counted == [reason, reason]
            counted.clear()
        async with Poller(url) as poller:
            await poller.open()
            assert (await poller.post(b"4\xff")).json()["message"] == "Bad request: a payload is not UTF-8"
        async with Poller(url) as poller:
            await poller.open()
            assert (await poller.post("x" * 200_000)).status_code == 413
        async with websocket(url) as ws:
            await ws.recv()
            await ws.send("x" * 200_000)
            with pytest.raises(ConnectionClosed):
                await ws.recv()
        await until(lambda: len(counted) == 3)
        assert counted == ["a payload is not UTF-8", *["a message of more than max_payload"] * 2]
    assert len(lines(caplog)) == 1


async def test_a_handshake_that_is_none_leaves_a_trace_too() -> None:
    """Of clients older than Socket.IO 3, of programs that only know WebSocket, and of what is no client at all."""
    counted: list[str] = []
    server = Server(ServerSettings())
    server.engine.faults.on_fault = counted.append
    async with serving(server.asgi_app()) as url, http_client(base_url=url) as http:
        assert (await http.get("/socket.io/?EIO=3&transport=polling")).status_code == 400
        assert (await http.get("/socket.io/?EIO=4&transport=carrier-pigeon")).status_code == 400
        assert (await http.get("/socket.io/?EIO=4&transport=polling&" + "&".join("abc" * 200))).status_code == 400
        with pytest.raises(InvalidStatus):
            await connect(url.replace("http", "ws") + "/socket.io/")
        raw = await Raw.open(url)
        await raw.send(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n"
        )
        await raw.ended()
        raw.abort()
        async with Poller(url) as poller:
            await poller.open()
            async with websocket(url, sid=poller.sid) as ws:
                await ws.send("rubbish")
                with pytest.raises(ConnectionClosed):
                    await ws.recv()
            assert (await poller.http.get(poller.url, params=poller.query(sid="unknown"))).status_code == 400
        raw = await Raw.upgrade(url)
        await raw.send(b"\xff\xff\xff\xff")
        await raw.ended()
        raw.abort()
        await until(lambda: len(counted) == 7)
    assert counted == [
        "Unsupported protocol version",
        "Transport unknown",
        "Bad request: a query of too many fields",
        "Transport unknown",
        "Bad request: no valid WebSocket handshake",
        "a WebSocket that was to take a session over said something else",
        "a frame is no valid WebSocket",
    ]


async def test_a_query_of_60_kb_is_not_kept_for_as_long_as_a_session_lives() -> None:
    server = Server(ServerSettings())
    async with serving(server.asgi_app()) as url:
        with pytest.raises(InvalidStatus) as refused:
            await connect(websocket_url(url, x="y" * 60_000))
        assert refused.value.response.status_code == 414
        async with http_client() as http:
            answer = await http.get(f"{url}/socket.io/?EIO=4&transport=polling&x={'y' * 60_000}")
        assert (answer.status_code, answer.json()["message"]) == (414, "Query string too long")
        assert server.engine.connections == {}
