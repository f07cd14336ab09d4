"""The public API, in this process, over real ports: what handlers get, what they may do, and what harms nobody."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from herenow.socketio_server import (
    CallTimeout,
    ConnectRefused,
    Disconnected,
    EngineSettings,
    Namespace,
    Reason,
    Reply,
    Server,
    ServerSettings,
    Socket,
)
from support import SHELLS, Poller, Shell, closed, connect_socket, receive, serving, until, websocket


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Shell:
    kind: Shell = request.param
    return kind


@pytest.fixture
def server() -> Server:
    return Server(ServerSettings(ping_interval_ms=300, ping_timeout_ms=3_000, connect_timeout_ms=2_000, max_running=4))


@pytest.fixture
def namespace(server: Server) -> Namespace:
    return server.namespace("/")


@pytest.fixture
async def url(server: Server, shell: Shell) -> AsyncIterator[str]:
    async with serving(server.asgi_app(), shell) as address:
        yield address
    assert server.engine.connections == {}


class Ends:
    """The disconnect handler of a test: who went, and why."""

    def __init__(self, namespace: Namespace) -> None:
        self.came: asyncio.Queue[tuple[str, Reason]] = asyncio.Queue()
        namespace.on_disconnect(lambda socket, reason: self.came.put_nowait((socket.id, reason)))

    async def next(self) -> Reason:
        async with asyncio.timeout(5):
            return (await self.came.get())[1]


# -- connecting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_connect_handler_gets_the_auth_payload_and_the_request(
    namespace: Namespace, url: str, is_async: bool
) -> None:
    seen: list[tuple[Any, str | None, str, Any]] = []

    def look(socket: Socket, auth: Any) -> None:
        seen.append((auth, socket.handshake.header("User-Agent"), socket.handshake.query, socket.handshake.address))
        assert not socket.connected
        socket.data = "mine"

    async def look_slowly(socket: Socket, auth: Any) -> None:
        await asyncio.sleep(0.01)
        look(socket, auth)

    namespace.on_connect(look_slowly if is_async else look)
    ws = await connect_socket(url, '40{"token":"t"}')
    [(auth, agent, query, address)] = seen
    assert auth == {"token": "t"}
    assert agent is not None
    assert "Python" in agent
    assert "EIO=4" in query
    assert address[0] == "127.0.0.1"
    [socket] = namespace.sockets.values()
    assert (socket.connected, socket.data, socket.transport, socket.slow) == (True, "mine", "websocket", False)
    assert socket.id[:6] in repr(socket)
    assert socket.id not in repr(socket)
    await ws.close()


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_a_connect_handler_emits_comes_after_the_connect(
    namespace: Namespace, url: str, is_async: bool
) -> None:
    def greet(socket: Socket, auth: Any) -> None:
        assert socket.emit("hello", 1)
        assert namespace.emit([socket], "hello", 2) == 1

    async def greet_slowly(socket: Socket, auth: Any) -> None:
        greet(socket, auth)
        await asyncio.sleep(0.01)

    namespace.on_connect(greet_slowly if is_async else greet)
    ws = await connect_socket(url)
    assert [await receive(ws), await receive(ws)] == ['42["hello",1]', '42["hello",2]']
    await ws.close()


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (ConnectRefused("no"), '44{"message":"no"}'),
        (ConnectRefused("no", {"code": 7}), '44{"message":"no","data":{"code":7}}'),
        (ZeroDivisionError("a secret"), '44{"message":"Internal error"}'),
        (asyncio.CancelledError(), '44{"message":"Internal error"}'),
        (ConnectRefused("no", object()), '44{"message":"Internal error"}'),
    ],
)
async def test_a_connect_handler_can_refuse(
    namespace: Namespace, url: str, is_async: bool, error: BaseException, reply: str
) -> None:
    ends = Ends(namespace)

    def refuse(socket: Socket, auth: Any) -> None:
        socket.emit("never")
        if not auth:
            raise error

    async def refuse_slowly(socket: Socket, auth: Any) -> None:
        await asyncio.sleep(0.01)
        refuse(socket, auth)

    namespace.on_connect(refuse_slowly if is_async else refuse)
    async with websocket(url) as ws:
        await ws.recv()
        await ws.send("40")
        assert await receive(ws) == reply
        assert namespace.sockets == {}
        await ws.send('40{"again":1}')  # the connection is open for another try
        assert str(await receive(ws)).startswith("40{")
    assert await ends.next() is Reason.TRANSPORT_CLOSED
    assert ends.came.empty()


async def test_an_event_before_the_connect_is_decided_closes(server: Server, namespace: Namespace, url: str) -> None:
    async def never(socket: Socket, auth: Any) -> None:
        await asyncio.sleep(10)

    namespace.on_connect(never)
    async with websocket(url) as ws:
        await ws.recv()
        await ws.send("40")
        await ws.send('42["early"]')
        assert await closed(ws) == 1002
    await server.stop(0)


async def test_a_client_that_goes_while_it_is_let_in_is_disconnected_once(
    server: Server, namespace: Namespace, url: str
) -> None:
    """The handler may have made it known that the client is here; so it must hear that it is not."""
    ends = Ends(namespace)
    decided = asyncio.Event()

    async def slow(socket: Socket, auth: Any) -> None:
        await decided.wait()
        assert not socket.emit("too late")

    namespace.on_connect(slow)
    async with websocket(url) as ws:
        await ws.recv()
        await ws.send("40")
        await asyncio.sleep(0.05)
    await until(lambda: not server.engine.connections)
    assert ends.came.empty()
    decided.set()
    assert await ends.next() is Reason.TRANSPORT_CLOSED
    assert namespace.sockets == {}


# -- disconnecting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        ("41", Reason.CLIENT),
        ("1", Reason.CLIENT),
        (None, Reason.TRANSPORT_CLOSED),
        ("abc", Reason.BAD_PACKET),
        ("42{}", Reason.BAD_PACKET),
        ("4" + "x" * 1_000_001, Reason.TRANSPORT_ERROR),
    ],
)
async def test_a_disconnect_handler_gets_the_reason(
    namespace: Namespace, url: str, packet: str | None, reason: Reason
) -> None:
    ends = Ends(namespace)
    ws = await connect_socket(url)
    if packet is None:
        await ws.close()
    else:
        await ws.send(packet)
    assert await ends.next() is reason
    assert namespace.sockets == {}
    await ws.close()
    assert ends.came.empty()


async def test_a_client_that_dies_without_a_word_is_missed(namespace: Namespace, url: str) -> None:
    ends = Ends(namespace)
    ws = await connect_socket(url)
    ws.transport.abort()
    assert await ends.next() in (Reason.TRANSPORT_CLOSED, Reason.TRANSPORT_ERROR)


async def test_a_client_that_falls_silent_times_out(shell: Shell) -> None:
    server = Server(ServerSettings(ping_interval_ms=200, ping_timeout_ms=100))
    ends = Ends(server.namespace("/"))
    async with serving(server.asgi_app(), shell) as url:
        ws = await connect_socket(url)
        assert await ends.next() is Reason.PING_TIMEOUT
        assert await closed(ws) == 1001


async def test_the_server_can_end_a_namespace_or_the_connection(server: Server, namespace: Namespace, url: str) -> None:
    ends = Ends(namespace)
    other = server.namespace("/other")
    others = Ends(other)
    ws = await connect_socket(url)
    await ws.send("40/other,")
    await receive(ws)
    [socket] = namespace.sockets.values()
    socket.disconnect()
    socket.disconnect()
    assert await ends.next() is Reason.SERVER
    assert await receive(ws) == "41"
    assert not socket.emit("late")
    with pytest.raises(Disconnected):
        await socket.call("late")
    await ws.send('42["crossed our disconnect on its way"]')  # no fault of the client's
    await ws.send('42/other,1["alive"]')
    assert await receive(ws) == "43/other,1[]"
    [socket] = other.sockets.values()
    socket.disconnect(close=True)
    assert await others.next() is Reason.SENT_AWAY
    assert await closed(ws) == 1006, "a close frame keeps some clients from coming back"
    assert ends.came.empty()
    assert others.came.empty()


async def test_a_connect_that_is_ended_by_its_own_handler_is_let_in_nowhere(namespace: Namespace, url: str) -> None:
    ends = Ends(namespace)
    namespace.on_connect(lambda socket, auth: socket.disconnect())
    async with websocket(url) as ws:
        await ws.recv()
        await ws.send("40")
        assert await receive(ws) == "41"
        assert await ends.next() is Reason.SERVER
    assert ends.came.empty()


async def test_a_polling_client_between_two_gets_is_told_when_it_is_put_out(shell: Shell) -> None:
    server = Server(ServerSettings())  # its ping interval is how long it waits for the client
    namespace = server.namespace("/")
    async with serving(server.asgi_app(), shell) as url, Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        [socket] = namespace.sockets.values()
        socket.emit("bye")
        socket.disconnect(close=True)
        assert (await poller.post("4late")).status_code == 400
        assert (await poller.get()).text == '42["bye"]\x1e6'
        assert (await poller.get()).status_code == 400


async def test_a_polling_client_that_never_comes_for_its_last_words_is_forgotten(
    server: Server, namespace: Namespace, url: str
) -> None:
    async with Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        next(iter(namespace.sockets.values())).disconnect(close=True)
        assert len(server.engine.connections) == 1
        await until(lambda: not server.engine.connections)


# -- events and acknowledgements ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("result", "ack"),
    [(None, "[]"), (5, "[5]"), ((1, 2), "[1,2]"), ([1, 2], "[[1,2]]"), ((), "[]"), (False, "[false]")],
)
async def test_what_a_handler_returns_is_the_acknowledgement(
    namespace: Namespace, url: str, is_async: bool, result: Any, ack: str
) -> None:
    def handler(socket: Socket, *args: Any) -> Any:
        return result

    async def slow_handler(socket: Socket, *args: Any) -> Any:
        await asyncio.sleep(0.01)
        return result

    namespace.on("ask")(slow_handler if is_async else handler)
    ws = await connect_socket(url)
    await ws.send('42["ask"]')  # asks for no acknowledgement, gets none
    await ws.send('421["ask","x"]')
    assert await receive(ws) == "431" + ack
    await ws.close()


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("fault", ["raise", "cancelled", "unencodable"])
async def test_a_handler_that_fails_harms_nobody_but_its_own_acknowledgement(
    namespace: Namespace, url: str, is_async: bool, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(socket: Socket, one: Any) -> Any:
        if fault == "raise":
            raise ZeroDivisionError
        if fault == "cancelled":  # it awaited something that somebody else cancelled
            raise asyncio.CancelledError
        return object()

    async def slow_handler(socket: Socket, one: Any) -> Any:
        return handler(socket, one)

    namespace.on("fail")(slow_handler if is_async else handler)
    ws = await connect_socket(url)
    await ws.send('421["fail",1]')
    await ws.send('422["fine"]')
    assert await receive(ws) == "432[]"
    assert [record.name for record in caplog.records if record.levelno >= logging.ERROR] == ["herenow.socketio"]
    await ws.close()


async def test_a_disconnect_handler_that_fails_is_logged(
    namespace: Namespace, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    @namespace.on_disconnect
    def fail(socket: Socket, reason: Reason) -> None:
        raise ZeroDivisionError

    ws = await connect_socket(url)
    await ws.close()

    async def fail_slowly(socket: Socket, reason: Reason) -> None:
        raise ZeroDivisionError

    await until(lambda: not namespace.sockets)
    namespace.on_disconnect(fail_slowly)
    ws = await connect_socket(url)
    await ws.close()
    await until(lambda: len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 2)


async def test_an_event_that_does_not_fit_its_handler_is_no_error_of_the_applications(
    namespace: Namespace, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Or any client could fill the log with tracebacks."""
    namespace.on("two")(lambda socket, one, two=2: [one, two])
    ws = await connect_socket(url)
    for packet in ('421["two"]', '422["two",1,2,3]', '423["two",1]', '424["two",1,3]'):
        await ws.send(packet)
    assert [await receive(ws), await receive(ws)] == ["433[[1,2]]", "434[[1,3]]"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    await ws.close()


async def test_handlers_may_call_their_own_client_as_many_as_may_run(namespace: Namespace, url: str) -> None:
    """Once the acknowledgements that they waited for were not read, because they were running."""

    @namespace.on("ask me")
    async def ask(socket: Socket, n: int) -> int:
        (answer,) = await socket.call("question", n, timeout_s=5)
        assert isinstance(answer, int)
        return answer

    ws = await connect_socket(url)
    for n in range(20):
        await ws.send(f'42{n}["ask me",{n}]')
    answers: set[str] = set()
    while len(answers) < 20:
        packet = str(await receive(ws))
        if packet.startswith("42"):
            ack_id, _, rest = packet[2:].partition('["question",')
            await ws.send(f"43{ack_id}[{rest}")
        else:
            answers.add(packet)
    assert answers == {f"43{n}[{n}]" for n in range(20)}
    await ws.close()


async def test_what_was_taken_is_sent_before_a_disconnect_and_in_its_order(namespace: Namespace, url: str) -> None:
    @namespace.on_connect
    def greet(socket: Socket, auth: Any) -> None:
        socket.emit("hello")

    asked: list[Socket] = []

    @namespace.on("ask")
    def ask(socket: Socket) -> str:
        asked.append(socket)
        return "answer"

    for close in (False, True):
        asked.clear()
        async with websocket(url) as ws:
            await ws.recv()
            await ws.send("40")
            await ws.send('421["ask"]')
            assert str(await receive(ws)).startswith("40")
            await until(lambda: asked)
            [socket] = namespace.sockets.values()
            assert socket.emit("bye")
            socket.disconnect(close=close)
            assert [await receive(ws), await receive(ws), await receive(ws)] == [
                '42["hello"]',
                '431["answer"]',
                '42["bye"]',
            ]
            if close:
                assert await closed(ws) == 1006
            else:
                assert await receive(ws) == "41"


async def test_events_without_a_handler_go_to_the_one_for_the_unknown(namespace: Namespace, url: str) -> None:
    @namespace.on_unknown
    def unknown(socket: Socket, event: str, *args: Any) -> tuple[Any, ...]:
        return event, *args

    ws = await connect_socket(url)
    await ws.send('421["what",{"a":1}]')
    assert await receive(ws) == '431["what",{"a":1}]'
    await ws.send("422[5]")
    assert await receive(ws) == "432[5]"
    await ws.close()


async def test_a_reply_reaches_those_too_who_asked_for_no_acknowledgement(namespace: Namespace, url: str) -> None:
    namespace.on("ask")(lambda socket: Reply({"ok": False}, otherwise=("failed", "why")))
    ws = await connect_socket(url)
    await ws.send('421["ask"]')
    await ws.send('42["ask"]')
    assert [await receive(ws), await receive(ws)] == ['431[{"ok":false}]', '42["failed","why"]']
    await ws.close()


async def test_an_answer_that_cannot_be_encoded_harms_nobody(
    namespace: Namespace, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In a Reply without an acknowledgement, or nested in a dataclass, it once broke the connection that asked."""

    @dataclass
    class Nested:
        inner: object

    nested: object = None
    for _ in range(100_000):
        nested = Nested(nested)
    namespace.on("reply")(lambda socket: Reply(1, otherwise=("bad", object())))
    namespace.on("object")(lambda socket: object())
    namespace.on("nested")(lambda socket: Nested(nested))
    ws = await connect_socket(url)
    for packet in ('42["reply"]', '421["object"]', '422["nested"]'):
        await ws.send(packet)
    await ws.send('423["alive"]')
    assert await receive(ws) == "433[]"
    logged = [record.getMessage() for record in caplog.records if record.exc_info]
    assert logged == ["what a handler answered with cannot be encoded namespace=/"] * 2, "one for those alike"
    await ws.close()


async def test_sync_handlers_run_in_the_order_of_the_packets(namespace: Namespace, url: str) -> None:
    seen: list[int] = []
    namespace.on("n")(lambda socket, n: seen.append(n))
    ws = await connect_socket(url)
    for n in range(200):
        await ws.send(f'42["n",{n}]')
    await ws.send('421["done"]')
    await receive(ws)
    assert seen == list(range(200))
    await ws.close()


async def test_a_call_waits_for_the_clients_acknowledgement(namespace: Namespace, url: str) -> None:
    ws = await connect_socket(url)
    [socket] = namespace.sockets.values()
    call = asyncio.create_task(socket.call("ask", 1, timeout_s=5))
    ask = str(await receive(ws))
    assert ask.endswith('["ask",1]')
    ack_id = ask[2:-9]
    await ws.send(f'461-{ack_id}["yes",{{"_placeholder":true,"num":0}}]')
    await ws.send(b"\x01")
    assert await call == ("yes", b"\x01")
    await ws.send(f"43{ack_id}[]")  # a second acknowledgement is ignored
    await ws.send('421["alive"]')
    assert await receive(ws) == "431[]"
    await ws.close()


async def test_a_call_that_is_not_acknowledged_times_out(namespace: Namespace, url: str) -> None:
    ws = await connect_socket(url)
    [socket] = namespace.sockets.values()
    with pytest.raises(CallTimeout, match="'ask'"):
        await socket.call("ask", timeout_s=0.05)
    await ws.close()


async def test_a_call_ends_when_the_client_goes(namespace: Namespace, url: str) -> None:
    ws = await connect_socket(url)
    [socket] = namespace.sockets.values()
    call = asyncio.create_task(socket.call("ask"))
    await receive(ws)
    await ws.close()
    with pytest.raises(Disconnected):
        await call


async def test_one_client_cannot_acknowledge_for_another(namespace: Namespace, url: str) -> None:
    first = await connect_socket(url)
    [socket] = namespace.sockets.values()
    second = await connect_socket(url)
    call = asyncio.create_task(socket.call("ask", timeout_s=0.2))
    ack_id = str(await receive(first))[2:].partition("[")[0]
    await second.send(f'43{ack_id}["forged"]')
    with pytest.raises(CallTimeout):
        await call
    await first.close()
    await second.close()


async def test_an_event_to_many_reaches_each_by_its_own_transport(namespace: Namespace, url: str) -> None:
    first, second = await connect_socket(url), await connect_socket(url)
    async with Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        assert namespace.emit(namespace.sockets.values(), "news", {"n": 1}, b"\x01") == 3
        text = '451-["news",{"n":1},{"_placeholder":true,"num":0}]'
        for ws in (first, second):
            assert [await receive(ws), await receive(ws)] == [text, b"\x01"]
        assert (await poller.get()).text == text + "\x1ebAQ=="
    await first.close()
    await second.close()


async def test_a_client_has_only_so_many_handlers_running(shell: Shell) -> None:
    """A flood of slow requests fills the client's own socket, not the server's memory; others are served meanwhile."""
    server = Server(ServerSettings(max_running=4))
    namespace = server.namespace("/")
    async with serving(server.asgi_app(), shell) as url:
        await flood_with_slow_requests(namespace, url)


async def flood_with_slow_requests(namespace: Namespace, url: str) -> None:
    running, most, go_on = 0, 0, asyncio.Event()
    namespace.on("quick")(lambda socket: None)

    @namespace.on("slow")
    async def slow(socket: Socket) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1

    flood, other = await connect_socket(url), await connect_socket(url)

    for n in range(4_000):
        await flood.send(f'42{n}["slow"]')
    await other.send('421["quick"]')
    assert await receive(other) == "431[]"
    assert running >= 4
    assert most == 4
    go_on.set()
    got = [await receive(flood) for _ in range(4_000)]
    assert got == [f"43{n}[]" for n in range(4_000)]
    await flood.close()
    await other.close()


# -- misuse ------------------------------------------------------------------------------------------------------


def test_a_namespace_must_have_a_name_that_can_be_sent(server: Server) -> None:
    for name in ("chat", "", "/a,b", "/a?b"):
        with pytest.raises(ValueError, match="a namespace begins with"):
            server.namespace(name)
    assert server.namespace("/chat") is server.namespace("/chat")


async def test_reserved_and_repeated_events_are_refused(namespace: Namespace, url: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        namespace.on("disconnect")
    namespace.on("once")(lambda socket: None)
    with pytest.raises(ValueError, match="already"):
        namespace.on("once")
    with pytest.raises(ValueError, match="reserved"):
        namespace.emit([], "connect")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"path": "socket.io"}, "path"),
        ({"path": "/socket.io"}, "path"),
        ({"write_buffer_low": 70_000}, "write_buffer_low"),
        ({"ping_interval_ms": 0}, "ping_interval_ms"),
        ({"connect_timeout_ms": 0}, "connect_timeout_ms"),
        ({"max_packet": -1}, "max_packet"),
        ({"max_running": 0}, "max_running"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ServerSettings(**settings)


def test_one_origin_is_no_collection_of_origins() -> None:
    """A string is iterable too: its letters would be the allow-list, and nobody could connect."""
    with pytest.raises(ValueError, match="origins"):
        EngineSettings(origins="https://app.example")


# -- stopping ----------------------------------------------------------------------------------------------------


async def test_a_stop_closes_all_and_lets_nobody_in(server: Server, namespace: Namespace, url: str) -> None:
    ends = Ends(namespace)
    finished: list[str] = []

    @namespace.on("work")
    async def work(socket: Socket, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            finished.append("done")
        except asyncio.CancelledError:
            finished.append("cancelled")
            raise

    ws = await connect_socket(url)
    await ws.send('42["work",0.1]')
    await ws.send('42["work",100]')
    async with Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        waiting = asyncio.create_task(poller.get())
        await until(lambda: len(server._tasks) == 2)
        await until(lambda: any(each.session.polling for each in server.engine.connections.values()))
        await server.stop(timeout_s=0.3)
        assert (await waiting).text == "6"
        assert finished == ["done", "cancelled"]
        assert [await ends.next(), await ends.next()] == [Reason.SENT_AWAY, Reason.SENT_AWAY]
        assert await closed(ws) == 1006
        async with Poller(url) as newcomer:
            response = await newcomer.get()
        assert (response.status_code, response.json()) == (503, {"code": 3, "message": "Server is shutting down"})
    with pytest.raises(InvalidStatus, match=r"HTTP 503|HTTP 403"):
        await websocket(url)


async def test_what_is_said_at_the_stop_still_arrives(server: Server, namespace: Namespace, shell: Shell) -> None:
    @server.on_stop
    def goodbye() -> None:
        namespace.emit(namespace.sockets.values(), "goodbye")

    async with serving(server.asgi_app(), shell) as url:
        ws = await connect_socket(url)
        async with Poller(url) as poller:
            await poller.open()
            await poller.post("40")
            await poller.get()
            waiting = asyncio.create_task(poller.get())
            await until(lambda: any(each.session.polling for each in server.engine.connections.values()))
            server.engine.stop()
            server.engine.stop()
            assert await receive(ws) == '42["goodbye"]'
            assert await closed(ws) == 1006
            assert (await waiting).text == '42["goodbye"]'


async def test_a_stop_handler_that_fails_stops_nothing(server: Server, namespace: Namespace, shell: Shell) -> None:
    @server.on_stop
    def fail() -> None:
        raise ZeroDivisionError

    async with serving(server.asgi_app(), shell) as url:
        ws = await connect_socket(url)
        server.engine.stop()
        assert await closed(ws) == 1006


async def test_uvicorns_own_stop_tells_the_clients(server: Server, namespace: Namespace, shell: Shell) -> None:
    ends = Ends(namespace)
    clients: list[ClientConnection] = []
    async with serving(server.asgi_app(), shell) as url:
        clients += [await connect_socket(url) for _ in range(3)]
    for ws in clients:
        assert await closed(ws) in (1006, 1012)
    assert server.engine.connections == {}
    assert ends.came.qsize() == 3
