"""A peer that sends rubbish: a documented error for it, nothing for anybody else, and nothing left behind."""

import asyncio
import gc
import os
import random
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from herenow.socketio_server import Namespace, Server, ServerSettings
from herenow.socketio_server.on_uvicorn.websocket import FastWebSocket
from raw import HANDSHAKE, Raw, client_frame, close_code
from support import (
    SHELLS,
    Poller,
    Shell,
    closed,
    connect_socket,
    http_client,
    never_busy_for,
    receive,
    serving,
    until,
    websocket,
)

SEED = int(os.environ.get("HERENOW_SEED", "1"))


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Shell:
    kind: Shell = request.param
    return kind


@pytest.fixture
def server() -> Server:
    settings = ServerSettings(ping_interval_ms=5_000, ping_timeout_ms=5_000, connect_timeout_ms=700)
    server = Server(settings)
    server.namespace("/").on("echo")(lambda socket, *args: args)
    return server


@pytest.fixture
def namespace(server: Server) -> Namespace:
    return server.namespace("/")


@pytest.fixture
async def url(server: Server, shell: Shell, caplog: pytest.LogCaptureFixture) -> AsyncIterator[str]:
    """Serve; at the end nothing may be left of any client, nor a traceback in any log."""
    gc.collect()
    before = websockets_in_memory()  # of other tests, whose loops were closed over their timers
    async with serving(server.asgi_app(), shell) as address:
        honest = await connect_socket(address)
        yield address
        await honest.send('421["echo","still served"]')
        assert await receive(honest) == '431["still served"]'
        await honest.close()
        await until(lambda: not server.engine.connections)
        assert server.namespace("/").sockets == {}
    logged = [record for phase in ("call", "teardown") for record in caplog.get_records(phase) if record.exc_info]
    # uvicorn's own WebSocket logs a traceback for text that is not UTF-8; ours must not.
    assert [record.getMessage() for record in logged if not record.name.startswith("uvicorn")] == []
    gc.collect()
    assert websockets_in_memory() <= before


def websockets_in_memory() -> set[int]:
    return {id(each) for each in gc.get_objects() if type(each) is FastWebSocket}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (client_frame(b"40", mask=False), 1002),
        (client_frame(b"40", rsv=4), 1002),
        (client_frame(b"40", opcode=3), 1002),
        (client_frame(b"40", opcode=0), 1002),  # a continuation of nothing
        (client_frame(b"x" * 126, opcode=9), 1002),  # a control frame that is too long
        (client_frame(b"x", opcode=9, fin=False), 1002),
        (client_frame(b"4", fin=False) + client_frame(b"0"), 1002),  # two messages in one
        (client_frame(b"\xff\xfe"), 1007),
        (client_frame(b"4", fin=False) + client_frame(b"\xff", opcode=0), 1007),
        (client_frame(b"\x03\xe8\xff", opcode=8), 1007),  # a close reason that is not UTF-8
        (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),  # announces eight exabytes
        (client_frame(b"4" + b"x" * 999_999, fin=False) + client_frame(b"x" * 9, opcode=0), 1009),
    ],
)
async def test_what_breaks_websockets_own_rules_is_closed_with_its_code(url: str, frame: bytes, code: int) -> None:
    raw = await Raw.upgrade(url)
    await raw.send(frame)
    assert await close_code(raw) == code
    raw.abort()


async def test_random_bytes_after_the_handshake(url: str) -> None:
    rng = random.Random(SEED)
    for _ in range(150):
        raw = await Raw.upgrade(url)
        data = rng.randbytes(rng.randrange(1, 200))
        if rng.random() < 0.5:  # well framed, so that the rubbish gets further in
            data = client_frame(data, rng.choice([1, 2, 0, 8, 9, 10]), fin=rng.random() < 0.8)
        await raw.send(data)
        raw.abort()


async def test_random_packets(url: str) -> None:
    rng = random.Random(SEED)
    alphabet = [
        "4",
        "0",
        "2",
        "5",
        "1",
        "-",
        "/",
        ",",
        '["echo"',
        '{"_placeholder":true,"num":',
        "]",
        "}",
        "9",
        '"',
        "\\",
        "é",
    ]
    for _ in range(150):
        raw = await Raw.upgrade(url)
        await raw.send(client_frame(b"40"))
        for _ in range(3):
            await raw.send(client_frame("".join(rng.choices(alphabet, k=rng.randrange(1, 8))).encode()))
            await raw.send(client_frame(rng.randbytes(3), 2) if rng.random() < 0.3 else b"")
        raw.abort()


async def test_random_bytes_in_polling_payloads(url: str) -> None:
    rng = random.Random(SEED)
    async with Poller(url) as poller:
        for _ in range(100):
            await poller.open()
            body = rng.randbytes(rng.randrange(0, 60)) if rng.random() < 0.5 else b"40\x1e" + rng.randbytes(5)
            assert (await poller.post(body)).status_code in (200, 400)
            assert (await poller.post("1")).status_code in (200, 400)
            poller.sid = ""


async def test_a_payload_of_tiny_packets_leaves_the_others_their_turn(url: str) -> None:
    """One of a megabyte once kept everybody waiting for a second."""
    async with Poller(url) as poller:
        await poller.open()
        async with never_busy_for(0.3):
            assert (await poller.post("40" + "\x1e6" * 400_000)).status_code == 200
        await poller.post("1")


@pytest.mark.parametrize("cut", [1, 5, 40, 100])
async def test_truncated_requests_and_frames(url: str, cut: int) -> None:
    for _ in range(20):
        raw = await Raw.open(url)
        await raw.send(HANDSHAKE[:cut])
        raw.abort()
        raw = await Raw.upgrade(url)
        await raw.send(client_frame(b"40" + b"x" * 200)[:cut])
        raw.abort()


@pytest.mark.parametrize(
    "head",
    [
        HANDSHAKE.replace(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", b""),
        HANDSHAKE.replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"short"),
        HANDSHAKE.replace(b"Version: 13", b"Version: 8"),
        HANDSHAKE.replace(b"EIO=4", b"EIO=4" + b"&a=b" * 200),
        HANDSHAKE.replace(b"Host: x", b"Host: x\r\nOrigin: http://[evil"),
        HANDSHAKE.replace(b"Host: x", b"Host: x\r\nOrigin: null"),
        HANDSHAKE.replace(b"EIO=4", b"EIO=%ff"),
    ],
)
async def test_a_bad_handshake_is_refused(url: str, head: bytes) -> None:
    raw = await Raw.open(url)
    await raw.send(head)
    assert (await raw.ended())[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 403", b"HTTP/1.1 426")
    raw.abort()


async def test_headers_that_are_not_worth_keeping_are_refused(url: str, shell: Shell) -> None:
    """A session keeps those of its handshake for as long as it lives."""
    headers = {f"X-Long-{number}": "x" * 4_000 for number in range(5)}
    with pytest.raises(InvalidStatus) as refused:
        address = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        await connect(address, additional_headers=headers)
    assert refused.value.response.status_code == (431 if shell == "fast" else 403)  # ASGI's close knows no other
    async with http_client(base_url=url, headers=headers) as http:
        answer = await http.get("/socket.io/?EIO=4&transport=polling")
        assert (answer.status_code, answer.json()["message"]) == (431, "Request header fields too large")


async def test_deep_json_closes_only_its_sender(url: str) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        raw = await Raw.upgrade(url)
        await raw.send(client_frame(b"40"))
        await raw.send(client_frame(b'42["echo",' + opening * 100_000 + b"1" + closing * 100_000 + b"]"))
        assert await close_code(raw) == 1002
        raw.abort()


async def test_a_storm_of_pings_of_websockets_own_is_answered(url: str) -> None:
    raw = await Raw.upgrade(url)
    await raw.send(client_frame(b"40"))
    await raw.send(client_frame(b"p", opcode=9) * 2_000)
    async with asyncio.timeout(10):
        data = b""
        while data.count(b"\x8a\x01p") < 2_000:
            data += await raw.reader.read(65_536)
    raw.abort()


async def test_a_request_for_more_attachments_than_memory_holds(url: str) -> None:
    raw = await Raw.upgrade(url)
    await raw.send(client_frame(b"40") + client_frame(b'459999999-["echo"]'))
    assert await close_code(raw) == 1002
    raw.abort()


async def test_a_session_id_of_another_client_is_of_no_use_for_a_second_websocket(url: str) -> None:
    async with Poller(url) as poller:
        await poller.open()
        victim = await websocket(url, sid=poller.sid)
        await victim.send("2probe")
        await victim.recv()
        thief = await websocket(url, sid=poller.sid)  # while the first still probes
        assert await closed(thief) == 1008
        await victim.send("5")
        await victim.send("40")
        assert str(await receive(victim)).startswith("40")
        thief = await websocket(url, sid=poller.sid)
        assert await closed(thief) == 1008
        assert (await poller.get()).status_code == 400
        assert (await poller.post("41")).status_code == 400
        await victim.send('421["echo",1]')
        assert await receive(victim) == "431[1]"
        await victim.close()
