"""Every MUST of the two protocol documents, and every case of their published suites, over real ports.

Each runs on both shells, with a short ping time-out and with a long one: with the long one a session that should be
closed at once and is only forgotten until its ping is overdue does not pass. References are to the headings of
docs/engine.io-protocol/v4-current.md and docs/socket.io-protocol/v5-current.md.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosedOK, InvalidStatus

from support import SHELLS, Poller, Process, closed, connect_socket, example, receive, websocket

PING_INTERVAL_MS = 300
BUSY_S = 0.3
"""By how much a server that shares its cores with other tests may be late."""
MATRIX = [(shell, timeout) for shell in SHELLS for timeout in (200, 3_000)]


def _options(request: pytest.FixtureRequest) -> list[str]:
    shell, timeout = request.param
    return ["--shell", shell, "--ping-timeout-ms", str(timeout)]


@pytest.fixture(scope="module", params=MATRIX, ids=lambda param: f"{param[0]}-{param[1]}")
def engine(request: pytest.FixtureRequest) -> Iterator[Process]:
    """The Engine.IO echo server."""
    with example("engineio_echo", *_options(request)) as process:
        process.ping_timeout_ms = request.param[1]
        yield process


@pytest.fixture(scope="module", params=MATRIX, ids=lambda param: f"{param[0]}-{param[1]}")
def server(request: pytest.FixtureRequest) -> Iterator[Process]:
    """The Socket.IO echo server."""
    with example("socketio_echo", *_options(request)) as process:
        process.ping_timeout_ms = request.param[1]
        yield process


EIO = "/engine.io/"


def engine_poller(process: Process) -> Poller:
    return Poller(process.url, EIO)


async def engine_websocket(process: Process, **query: str) -> ClientConnection:
    """Open a session over WebSocket; the handshake is read off."""
    ws = await websocket(process.url, EIO, **query)
    assert str(await ws.recv()).startswith("0")
    return ws


async def upgrade(poller: Poller, process: Process, path: str) -> ClientConnection:
    """Upgrade a polling session by the book."""
    ws = await websocket(process.url, path, sid=poller.sid)
    await ws.send("2probe")
    assert await ws.recv() == "3probe"
    await ws.send("5")
    return ws


# -- Engine.IO: Transports, request path and query parameters ---------------------------------------------------


async def test_a_handshake_over_polling_is_answered_with_an_open_packet(engine: Process) -> None:
    """Handshake: "it MUST respond with an open packet with the following JSON-encoded payload"."""
    async with engine_poller(engine) as poller:
        handshake = await poller.open()
    assert handshake == {
        "sid": poller.sid,
        "upgrades": ["websocket"],
        "pingInterval": PING_INTERVAL_MS,
        "pingTimeout": engine.ping_timeout_ms,
        "maxPayload": 1_000_000,
    }
    assert len(poller.sid) >= 20


async def test_a_handshake_over_websocket_is_answered_with_an_open_packet(engine: Process) -> None:
    async with websocket(engine.url, EIO) as ws:
        data = await ws.recv()
    assert str(data)[0] == "0"
    assert '"upgrades":[]' in str(data)


@pytest.mark.parametrize(
    "changes",
    [{"EIO": None}, {"EIO": "abc"}, {"EIO": "3"}, {"transport": None}, {"transport": "abc"}, {"sid": "unknown"}],
)
async def test_a_wrong_or_missing_query_parameter_is_answered_400(
    engine: Process, changes: dict[str, str | None]
) -> None:
    """Query parameters: "the server MUST respond with an HTTP 400 error status"."""
    async with engine_poller(engine) as poller:
        assert (await poller.get(**changes)).status_code == 400
        if "sid" in changes:
            assert (await poller.post("4x", **changes)).status_code == 400


@pytest.mark.parametrize(
    "query",
    [{"EIO": ""}, {"EIO": "abc"}, {"EIO": "3"}, {"transport": "abc"}, {"transport": "polling"}, {"sid": "unknown"}],
)
async def test_a_websocket_with_a_wrong_query_parameter_is_closed(engine: Process, query: dict[str, str]) -> None:
    """WebSocket: "If a mandatory query parameter is missing, then the server MUST close the WebSocket connection"."""
    with pytest.raises(InvalidStatus):
        await websocket(engine.url, EIO, **query)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_handshake_with_another_method_is_answered_400(engine: Process, method: str) -> None:
    async with engine_poller(engine) as poller:
        response = await poller.http.request(method, poller.url, params=poller.query())
    assert response.status_code == 400


async def test_a_session_with_another_method_is_answered_400(engine: Process) -> None:
    async with engine_poller(engine) as poller:
        await poller.open()
        assert (await poller.http.put(poller.url, params=poller.query())).status_code == 400
        await poller.post("4still here")
        assert (await poller.get()).text == "4still here"


# -- Engine.IO: sending and receiving ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", ["4hello", "4test1\x1e4test2\x1e4test3", "4hello\x1ebAQIDBA==", "4", "4é\u2028\U0001f600"]
)
async def test_payloads_go_and_come_by_polling(engine: Process, payload: str) -> None:
    """Sending data: "the server MUST return an HTTP 200 response, with the string ok in the response body"."""
    async with engine_poller(engine) as poller:
        await poller.open()
        posted = await poller.post(payload)
        assert (posted.status_code, posted.text) == (200, "ok")
        polled = await poller.get()
        assert (polled.status_code, polled.text) == (200, payload)


@pytest.mark.parametrize("payload", ["abc", "", "7", "4a\x1eabc", "b!!!", b"4\xff", "2", "0{}", "5"])
async def test_a_malformed_payload_closes_the_session(engine: Process, payload: str | bytes) -> None:
    async with engine_poller(engine) as poller:
        await poller.open()
        assert (await poller.post(payload)).status_code == 400
        assert (await poller.get()).status_code == 400


ARRIVES_S = 0.15
"""A request that is not answered at once has come to a server of another process by then; below a ping interval."""


async def test_a_second_get_closes_the_session(engine: Process) -> None:
    """Receiving data: "the server MUST return an HTTP 400 error status and close the session"."""
    async with engine_poller(engine) as poller:
        await poller.open()
        both = await asyncio.gather(poller.get(), poller.get())  # whichever comes second is refused
        assert sorted(answer.status_code for answer in both) == [200, 400]
        assert [answer.text for answer in both if answer.status_code == 200] == ["1"]
        assert (await poller.get()).status_code == 400


async def test_a_second_post_closes_the_session(engine: Process) -> None:
    """Sending data: "the server MUST return an HTTP 400 error status and close the session"."""
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"4slow"
        await go_on.wait()
        yield b"ness"

    async with engine_poller(engine) as poller:
        await poller.open()
        slow = asyncio.create_task(poller.http.post(poller.url, params=poller.query(), content=body()))
        await asyncio.sleep(ARRIVES_S)
        assert (await poller.post("4quick")).status_code == 400
        go_on.set()
        assert (await slow).status_code == 400
        assert (await poller.get()).status_code == 400


async def test_a_get_that_the_client_gives_up_closes_the_session(engine: Process) -> None:
    async with engine_poller(engine) as poller:
        await poller.open()
        get = asyncio.create_task(poller.get())
        await asyncio.sleep(ARRIVES_S)
        get.cancel()
        await asyncio.gather(get, return_exceptions=True)
        assert (await poller.get()).status_code == 400


@pytest.mark.parametrize("packet", ["4hello", "4", b"\x01\x02\x03\x04", b"", "4é\U0001f600", "4" + "x" * 70_000])
async def test_messages_go_and_come_by_websocket(engine: Process, packet: str | bytes) -> None:
    ws = await engine_websocket(engine)
    await ws.send(packet)
    assert await receive(ws) == packet
    await ws.close()


async def test_a_message_in_fragments_is_one_message(engine: Process) -> None:
    ws = await engine_websocket(engine)
    await ws.send(["4he", "l", "", "lo"])
    assert await receive(ws) == "4hello"
    await ws.send([b"\x01", b"", b"\x02"])
    assert await receive(ws) == b"\x01\x02"
    await ws.close()


@pytest.mark.parametrize("packet", ["abc", "", "7", "0{}", "2", "2probe", "5", "b!!!"])
async def test_a_malformed_packet_closes_the_websocket_at_once(engine: Process, packet: str) -> None:
    ws = await engine_websocket(engine)
    await ws.send(packet)
    assert await closed(ws) == 1002


# -- Engine.IO: the size of a payload ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_payload_above_the_maximum_is_refused_and_closes(engine: Process, chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield b"4" + bytes(99_999)

    async with engine_poller(engine) as poller:
        await poller.open()
        body = chunks() if chunked else b"4" + bytes(1_000_000)
        response = await poller.http.post(poller.url, params=poller.query(), content=body)
        assert response.status_code == 413
        assert (await poller.get()).status_code == 400


async def test_a_message_above_the_maximum_closes_the_websocket(engine: Process) -> None:
    ws = await engine_websocket(engine)
    await ws.send("4" + "x" * 1_000_000)
    assert await closed(ws) == 1009


# -- Engine.IO: Heartbeat ----------------------------------------------------------------------------------------


async def test_pings_and_pongs_keep_a_polling_session_open(engine: Process) -> None:
    async with engine_poller(engine) as poller:
        await poller.open()
        for _ in range(4):
            assert (await poller.get()).text == "2"
            assert (await poller.post("3")).status_code == 200


async def test_pings_and_pongs_keep_a_websocket_open(engine: Process) -> None:
    ws = await engine_websocket(engine)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(4):
        assert await receive(ws, pings=True) == "2"
        await ws.send("3")
    # Once they came at the interval or the time-out, whichever was longer: 9 s for these four.
    assert 4 * PING_INTERVAL_MS * 0.8 / 1000 < loop.time() - start < 4
    await ws.close()


async def test_a_polling_session_without_pongs_is_closed_at_its_time(engine: Process) -> None:
    """Heartbeat: "If the server does not receive a pong packet back, then it SHOULD consider [it] closed"."""
    async with engine_poller(engine) as poller:
        await poller.open()
        await asyncio.sleep((PING_INTERVAL_MS + engine.ping_timeout_ms) / 1000 + BUSY_S)
        assert (await poller.get()).status_code == 400


async def test_a_websocket_without_pongs_is_closed_at_its_time(engine: Process) -> None:
    ws = await engine_websocket(engine)
    assert await closed(ws, timeout_s=(PING_INTERVAL_MS + engine.ping_timeout_ms) / 1000 + 1) == 1001


# -- Engine.IO: close --------------------------------------------------------------------------------------------


async def test_a_polling_client_can_close(engine: Process) -> None:
    async with engine_poller(engine) as poller:
        await poller.open()
        get = asyncio.create_task(poller.get())
        await asyncio.sleep(ARRIVES_S)
        assert (await poller.post("1")).text == "ok"
        assert (await get).text == "6"
        assert (await poller.get()).status_code == 400


async def test_a_websocket_client_can_close(engine: Process) -> None:
    ws = await engine_websocket(engine)
    await ws.send("1")
    assert await closed(ws) == 1000


# -- Engine.IO: Upgrade ------------------------------------------------------------------------------------------


async def test_an_upgrade_lets_the_get_go_and_answers_the_probe(engine: Process) -> None:
    """Upgrade: "The server MUST send a noop packet to any pending GET request" and answer the probe with a pong."""
    async with engine_poller(engine) as poller:
        await poller.open()
        get = asyncio.create_task(poller.get())
        await asyncio.sleep(ARRIVES_S)
        async with websocket(engine.url, EIO, sid=poller.sid) as ws:
            await ws.send("2probe")
            assert await ws.recv() == "3probe"
            assert (await get).text == "6"
            assert (await poller.get()).text == "6"
            await ws.send("5")
            await ws.send("4hello")
            assert await receive(ws) == "4hello"
            assert (await poller.get()).status_code == 400
            assert (await poller.post("4x")).status_code == 400
            await ws.send("4still here")
            assert await receive(ws) == "4still here"


async def test_what_was_sent_during_the_upgrade_arrives(engine: Process) -> None:
    async with engine_poller(engine) as poller:
        await poller.open()
        async with websocket(engine.url, EIO, sid=poller.sid) as ws:
            await ws.send("2probe")
            assert await ws.recv() == "3probe"
            await poller.post("4one\x1e4two")
            await ws.send("5")
            assert [await receive(ws), await receive(ws)] == ["4one", "4two"]


async def test_a_second_websocket_is_closed_and_harms_nobody(engine: Process) -> None:
    """WebSocket: "A client MUST NOT open more than one WebSocket connection per session. Should it happen, the server
    MUST close the WebSocket connection"."""
    async with engine_poller(engine) as poller:
        await poller.open()
        ws = await upgrade(poller, engine, EIO)
        second = await websocket(engine.url, EIO, sid=poller.sid)
        assert await closed(second) == 1008
        await ws.send("4hello")
        assert await receive(ws) == "4hello"
        await ws.close()


async def test_a_session_that_began_with_a_websocket_admits_no_second(engine: Process) -> None:
    async with websocket(engine.url, EIO) as ws:
        sid = str(await ws.recv()).split('"')[3]
        second = await websocket(engine.url, EIO, sid=sid)
        assert await closed(second) == 1008
        async with engine_poller(engine) as poller:
            poller.sid = sid
            assert (await poller.get()).status_code == 400
            assert (await poller.post("4injected")).status_code == 400
        await ws.send("4hello")
        assert await receive(ws) == "4hello"


@pytest.mark.parametrize("packet", ["4hello", "5", "2", b"\x01"])
async def test_a_probe_that_breaks_the_rules_is_closed_and_polling_goes_on(
    engine: Process, packet: str | bytes
) -> None:
    async with engine_poller(engine) as poller:
        await poller.open()
        ws = await websocket(engine.url, EIO, sid=poller.sid)
        await ws.send(packet)
        assert await closed(ws) == 1002
        await poller.post("4hello")
        assert (await poller.get()).text == "4hello"


async def test_a_probe_that_goes_away_leaves_polling_as_it_was(engine: Process) -> None:
    async with engine_poller(engine) as poller:
        await poller.open()
        async with websocket(engine.url, EIO, sid=poller.sid) as ws:
            await ws.send("2probe")
            await ws.recv()
        await poller.post("4hello")
        assert (await poller.get()).text == "4hello"
        again = await upgrade(poller, engine, EIO)
        await again.send("4upgraded")
        assert await receive(again) == "4upgraded"
        await again.close()


# -- Socket.IO: Connection to a namespace ------------------------------------------------------------------------


async def open_websocket(process: Process) -> ClientConnection:
    ws = await websocket(process.url)
    assert str(await ws.recv()).startswith("0")
    return ws


@pytest.mark.parametrize(
    ("packet", "reply", "auth"),
    [
        ("40", '40{"sid":"', '42["auth",{}]'),
        ('40{"token":"123"}', '40{"sid":"', '42["auth",{"token":"123"}]'),
        ("40/custom,", '40/custom,{"sid":"', '42/custom,["auth",{}]'),
        ("40/custom", '40/custom,{"sid":"', '42/custom,["auth",{}]'),
        ('40/custom,{"token":"abc"}', '40/custom,{"sid":"', '42/custom,["auth",{"token":"abc"}]'),
        ('40/custom?a=b,{"token":"abc"}', '40/custom,{"sid":"', '42/custom,["auth",{"token":"abc"}]'),
    ],
)
async def test_a_client_connects_to_a_namespace(server: Process, packet: str, reply: str, auth: str) -> None:
    """Connection to a namespace: "The server MUST respond with […] a CONNECT packet […] with the session ID"."""
    ws = await open_websocket(server)
    await ws.send(packet)
    assert str(await receive(ws)).startswith(reply)
    assert await receive(ws) == auth
    await ws.close()


async def test_an_unknown_namespace_is_refused_and_others_stay_open_to_the_client(server: Process) -> None:
    """ "[…] or a CONNECT_ERROR packet if the connection is not allowed"."""
    ws = await open_websocket(server)
    await ws.send("40/random")
    assert await receive(ws) == '44/random,{"message":"Invalid namespace"}'
    await ws.send("40")
    assert str(await receive(ws)).startswith("40{")
    await ws.close()


@pytest.mark.parametrize("packet", ["4abc", '42["hello"]', "41", "431[]", "40[]", '40"x"', "44{}", b"\x01"])
async def test_a_client_that_does_not_connect_first_is_closed(server: Process, packet: str | bytes) -> None:
    """ "If the server does not receive a CONNECT packet first, then it MUST close the connection immediately."."""
    ws = await open_websocket(server)
    await ws.send(packet)
    assert await closed(ws) == 1002


async def test_a_client_that_never_connects_is_closed(server: Process) -> None:
    ws = await open_websocket(server)

    async with asyncio.timeout(2.5):  # the connect time-out is a second; the long ping time-out is three
        with pytest.raises(ConnectionClosedOK):
            while True:
                assert await ws.recv() == "2"
                await ws.send("3")


async def test_a_client_may_be_in_several_namespaces(server: Process) -> None:
    ws = await connect_socket(server.url)
    assert await receive(ws) == '42["auth",{}]'
    await ws.send("40/custom,")
    assert str(await receive(ws)).startswith("40/custom,")
    assert await receive(ws) == '42/custom,["auth",{}]'
    await ws.send('42["message","one"]')
    await ws.send('42/custom,["message","two"]')
    assert await receive(ws) == '42["message-back","one"]'
    assert await receive(ws) == '42/custom,["message-back","two"]'
    await ws.close()


@pytest.mark.parametrize("packet", ["40", '40{"again":true}', "44{}"])
async def test_a_second_connect_closes(server: Process, packet: str) -> None:
    ws = await connect_socket(server.url)
    await ws.send(packet)
    assert await closed(ws) == 1002


# -- Socket.IO: Disconnection from a namespace -------------------------------------------------------------------


async def test_a_client_that_leaves_its_namespace_keeps_the_connection(server: Process) -> None:
    ws = await connect_socket(server.url)
    await receive(ws)
    await ws.send("41")
    assert await receive(ws, pings=True) == "2"
    await ws.send("3")
    await ws.send("40")  # and may come back
    assert str(await receive(ws)).startswith("40{")
    await ws.close()


async def test_leaving_one_namespace_leaves_the_others(server: Process) -> None:
    ws = await connect_socket(server.url)
    await receive(ws)
    await ws.send("40/custom,")
    await receive(ws)
    await receive(ws)
    await ws.send("41/custom")
    await ws.send('42["message","message to main namespace"]')
    assert await receive(ws) == '42["message-back","message to main namespace"]'
    await ws.close()


# -- Socket.IO: Sending and receiving data, Acknowledgement ------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (['42["message",1,"2",{"3":[true]}]'], ['42["message-back",1,"2",{"3":[true]}]']),
        (
            ['452-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"\1\2\3", b"\4\5\6"],
            [
                '452-["message-back",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
                b"\1\2\3",
                b"\4\5\6",
            ],
        ),
        # "The receiver MUST respond with an ACK packet with the same event ID."
        (['42456["message-with-ack",1,"2",{"3":[false]}]'], ['43456[1,"2",{"3":[false]}]']),
        (
            ['452-789["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"\1", b""],
            ['462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"\1", b""],
        ),
        # "The payload is mandatory and MUST be an array (possibly empty)."
        (['420["message-with-ack"]'], ["430[]"]),
        (['427["nobody handles this"]'], ["437[]"]),
        (['42/custom,1["message-with-ack",2]'], ["43/custom,1[2]"]),
        (
            ['451-/custom,["message",{"a":[{"_placeholder":true,"num":0}]}]', b"x"],
            ['451-/custom,["message-back",{"a":[{"_placeholder":true,"num":0}]}]', b"x"],
        ),
    ],
)
async def test_events_and_acknowledgements(
    server: Process, sent: list[str | bytes], expected: list[str | bytes]
) -> None:
    ws = await connect_socket(server.url)
    await receive(ws)
    await ws.send("40/custom,")
    await receive(ws)
    await receive(ws)
    for packet in sent:
        await ws.send(packet)
    assert [await receive(ws) for _ in expected] == expected
    await ws.close()


async def test_the_same_by_polling(server: Process) -> None:
    async with Poller(server.url) as poller:
        await poller.open()
        await poller.post('40{"token":"123"}')
        connected = (await poller.get()).text.split("\x1e")
        assert connected[0].startswith('40{"sid":"')
        assert connected[1:] == ['42["auth",{"token":"123"}]']
        await poller.post('451-1["message-with-ack",{"_placeholder":true,"num":0}]\x1ebAQID')
        assert (await poller.get()).text == '461-1[{"_placeholder":true,"num":0}]\x1ebAQID'


@pytest.mark.parametrize(
    "packet",
    [
        "4abc",
        "42{}",
        "42",
        "42[]",
        '42abc["message-with-ack",1,"2",{"3":[false]}]',
        '42["connect"]',
        "43[]",
        "47[]",
        "4",
        "41{}",
        '42["a"',
        b"\x01",
        '451-["message",{"_placeholder":true,"num":7}]',
    ],
)
async def test_a_malformed_packet_closes_at_once(server: Process, packet: str | bytes) -> None:
    """Sending and receiving data: "If that's not the case, then the receiver MUST close the connection"."""
    ws = await connect_socket(server.url)
    await receive(ws)
    await ws.send(packet)
    if "_placeholder" in str(packet):
        await ws.send(b"\x01")
    assert await closed(ws) == 1002


async def test_text_in_place_of_an_attachment_closes_at_once(server: Process) -> None:
    ws = await connect_socket(server.url)
    await receive(ws)
    await ws.send('451-["message",{"_placeholder":true,"num":0}]')
    await ws.send('42["message"]')
    assert await closed(ws) == 1002


async def test_an_acknowledgement_of_nothing_is_ignored(server: Process) -> None:
    ws = await connect_socket(server.url)
    await receive(ws)
    await ws.send("4312345[1]")
    await ws.send('421["message-with-ack"]')
    assert await receive(ws) == "431[]"
    await ws.close()
