"""A client that does not read: it costs a bounded amount of memory, and no other client anything."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from herenow.socketio_server import (
    Connection,
    Engine,
    EngineApp,
    EngineSettings,
    FastWebSocket,
    Message,
    Namespace,
    Reason,
    Server,
    ServerSettings,
    Socket,
)
from herenow.socketio_server.engineio.session import MESSAGE_COST
from raw import Raw, client_frame
from support import SHELLS, Poller, Shell, connect_socket, receive, serving, until, websocket

HIGH = 65_536
KERNEL = 12_000_000
"""What the kernel may buffer for one loopback connection, both ways, generously."""

CHUNK = "x" * 20_000


@pytest.fixture(params=[*SHELLS, "wrapped"])
def shell(request: pytest.FixtureRequest) -> Shell:
    kind: Shell = request.param
    return kind


@pytest.fixture
def server() -> Server:
    return Server(ServerSettings(ping_interval_ms=20_000, ping_timeout_ms=20_000, write_buffer_high=HIGH))


@pytest.fixture
def namespace(server: Server) -> Namespace:
    return server.namespace("/")


@pytest.fixture
async def url(server: Server, shell: Shell) -> AsyncIterator[str]:
    async with serving(server.asgi_app(), shell) as address:
        yield address
    assert server.engine.connections == {}


class Marks:
    """The slow and drain handlers of a test."""

    def __init__(self, namespace: Namespace) -> None:
        self.came: asyncio.Queue[str] = asyncio.Queue()
        namespace.on_slow(lambda socket: self.came.put_nowait("slow"))
        namespace.on_drain(lambda socket: self.came.put_nowait("drained"))

    async def next(self) -> str:
        async with asyncio.timeout(10):
            return await self.came.get()


def fill(socket: Socket) -> int:
    """Emit until the socket refuses; return how many it took."""
    taken = 0
    while socket.emit("chunk", CHUNK):
        taken += 1
        assert taken * len(CHUNK) < KERNEL + HIGH, "unsent data grows without bound"
    return taken


async def test_a_client_that_does_not_read_is_slow_until_it_drains(namespace: Namespace, url: str) -> None:
    marks = Marks(namespace)
    ws, other = await connect_socket(url), await connect_socket(url)
    socket, quick = namespace.sockets.values()
    ws.transport.pause_reading()
    taken = fill(socket)
    assert socket.slow
    assert await marks.next() == "slow"
    assert not socket.emit("refused")
    assert namespace.emit([socket, quick], "to both") == 1
    assert await receive(other) == '42["to both"]'
    ws.transport.resume_reading()
    for _ in range(taken):
        assert await receive(ws) == f'42["chunk","{CHUNK}"]'
    assert await marks.next() == "drained"
    assert not socket.slow
    assert socket.emit("again")
    assert await receive(ws) == '42["again"]'
    assert marks.came.empty()
    await ws.close()
    await other.close()


async def test_a_slow_client_that_goes_is_let_go(server: Server, namespace: Namespace, url: str) -> None:
    marks = Marks(namespace)
    ws = await connect_socket(url)
    [socket] = namespace.sockets.values()
    ws.transport.pause_reading()
    fill(socket)
    ws.transport.abort()
    assert await marks.next() == "slow"
    await until(lambda: not server.engine.connections)
    assert marks.came.empty()
    assert not socket.emit("late")


async def test_a_slow_client_that_is_put_out_is_cut_in_the_end(server: Server, namespace: Namespace, url: str) -> None:
    """It does not even read the close frame."""
    ws = await connect_socket(url)
    [socket] = namespace.sockets.values()
    ws.transport.pause_reading()
    fill(socket)
    socket.disconnect(close=True)
    assert server.engine.connections == {}
    await asyncio.sleep(2.5)
    ws.transport.abort()


async def test_a_polling_client_that_does_not_poll_is_slow(namespace: Namespace, url: str) -> None:
    marks = Marks(namespace)
    async with Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        [socket] = namespace.sockets.values()
        assert fill(socket) == HIGH // len(CHUNK) + 1
        assert await marks.next() == "slow"
        assert (await poller.get()).text.count("chunk") == HIGH // len(CHUNK) + 1
        assert await marks.next() == "drained"
        assert socket.emit("again")
        assert (await poller.get()).text == '42["again"]'


async def test_a_slow_polling_client_drains_when_it_upgrades(namespace: Namespace, url: str) -> None:
    marks = Marks(namespace)
    async with Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        [socket] = namespace.sockets.values()
        taken = fill(socket)
        ws = await upgrade(url, poller)
        assert [await receive(ws) for _ in range(taken)] == [f'42["chunk","{CHUNK}"]'] * taken
        assert [await marks.next(), await marks.next()] == ["slow", "drained"]
        await ws.send('421["alive"]')
        assert await receive(ws) == "431[]"
        await ws.close()


async def upgrade(url: str, poller: Poller) -> ClientConnection:
    ws = await websocket(url, sid=poller.sid)
    await ws.send("2probe")
    assert await ws.recv() == "3probe"
    await ws.send("5")
    return ws


async def test_a_probe_that_does_not_read_is_not_read_and_is_slow_once_it_took_over(
    namespace: Namespace, url: str, shell: Shell
) -> None:
    """Once, what a probing WebSocket left unread was bounded by nothing."""
    if shell != "fast":
        return  # there, pongs are the ASGI server's, and so is what it lets them grow to
    async with Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        [socket] = namespace.sockets.values()
        ws = await websocket(url, sid=poller.sid)
        ws.transport.pause_reading()
        await ws.send("2probe")
        flooding = asyncio.create_task(ping_flood(ws))
        await asyncio.sleep(0.5)
        [protocol] = [
            each for each in gc.get_objects() if type(each) is FastWebSocket and not each._transport.is_closing()
        ]  # others of earlier tests may wait for the collector
        assert protocol._transport.get_write_buffer_size() < 4 * HIGH
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        assert not socket.slow
        ws.transport.abort()


async def ping_flood(ws: ClientConnection) -> None:
    while True:
        ws.transport.write(b"\x89\xfd\0\0\0\0" + bytes(125))
        if ws.transport.get_write_buffer_size() > KERNEL:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)


async def test_a_post_that_waits_is_let_go_when_the_session_moves_on(
    server: Server, namespace: Namespace, url: str
) -> None:
    go_on = asyncio.Event()
    asked = 0

    @namespace.on("wait")
    async def wait(socket: Socket) -> None:
        nonlocal asked
        asked += 1
        await go_on.wait()

    async with Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        held = asyncio.create_task(poller.post("\x1e".join(['42["wait"]'] * 300)))
        await asyncio.sleep(0.1)
        assert not held.done()
        assert asked == server.settings.max_running
        ws = await upgrade(url, poller)
        assert (await held).status_code == 400
        go_on.set()
        await ws.send('421["alive"]')
        assert await receive(ws) == "431[]"
        await ws.close()


async def test_a_post_that_breaks_off_after_the_session_moved_on_is_nobodys_business(
    namespace: Namespace, url: str
) -> None:
    """It once closed the session, though a WebSocket carried it by then."""
    async with Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        raw = await Raw.open(url)
        target = f"/socket.io/?EIO=4&transport=polling&sid={poller.sid}"
        await raw.send(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n4".encode())
        await asyncio.sleep(0.05)
        ws = await upgrade(url, poller)
        await ws.send('421["alive"]')
        assert await receive(ws) == "431[]"
        raw.abort()
        await asyncio.sleep(0.05)
        await ws.send('422["alive"]')
        assert await receive(ws) == "432[]"
        await ws.close()


async def test_answers_to_a_client_that_does_not_read_are_bounded_too(namespace: Namespace, url: str) -> None:
    """It sends small questions with large answers and reads none: at the mark, the server stops reading it."""
    answered = 0

    @namespace.on("ask")
    def ask(socket: Socket) -> str:
        nonlocal answered
        answered += 1
        return CHUNK

    ws, other = await connect_socket(url), await connect_socket(url)
    ws.transport.pause_reading()
    sender = asyncio.create_task(flood(ws, 20_000))
    before = -1
    async with asyncio.timeout(20):  # on a busy machine the kernel's buffers take a while to fill
        while answered == 0 or answered != before:
            before = answered
            await other.send('421["alive"]')
            assert await receive(other) == "431[]"
            await asyncio.sleep(0.5)
    assert answered * len(CHUNK) < 4 * KERNEL, "the server went on reading a client that is slow"
    sender.cancel()
    ws.transport.abort()
    await other.close()
    await asyncio.gather(sender, return_exceptions=True)


async def flood(ws: ClientConnection, times: int) -> None:
    for n in range(times):
        await ws.send(f'42{n}["ask"]')


class Keep:
    """The least application of an engine: it keeps its connection."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def opened(self, connection: Connection) -> None:
        self.connection = connection

    def received(self, connection: Connection, data: str | bytes) -> None: ...

    def closed(self, connection: Connection, reason: Reason) -> None: ...

    def slow(self, connection: Connection) -> None: ...

    def drained(self, connection: Connection) -> None: ...

    def stopping(self) -> None: ...

    def due(self, connection: Connection) -> None: ...


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_empty_messages_make_a_client_slow_too(shell: Shell, transport: str) -> None:
    """They once counted for nothing where the server queues them itself, and could fill its memory."""
    keep = Keep()
    app = EngineApp(Engine(keep, EngineSettings(write_buffer_high=HIGH)))
    async with serving(app, shell) as url, Poller(url, "/engine.io/") as poller, contextlib.AsyncExitStack() as stack:
        if transport == "polling":
            await poller.open()
        else:
            ws = await websocket(url, "/engine.io/")
            stack.callback(ws.transport.abort)
            ws.transport.pause_reading()
        await until(lambda: keep.connection)
        assert keep.connection is not None
        if transport == "websocket":
            assert keep.connection.send(Message(bytes(KERNEL)))  # more than the sockets take: what follows waits
        taken = 0
        while keep.connection.send(Message(b"")):
            taken += 1
            assert taken <= HIGH // MESSAGE_COST + 2
        assert keep.connection.slow
        assert taken > 0 or shell == "fast"


async def test_a_held_client_that_breaks_off_leaves_no_task(shell: Shell) -> None:
    """One that the ASGI shell held once waited for ever to be read again, and kept its server from ending."""
    server = Server(ServerSettings(write_buffer_high=HIGH))
    namespace = server.namespace("/")
    namespace.on("echo")(lambda socket, *args: args)
    app, calls = server.asgi_app(), 0

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        calls += scope["type"] == "websocket"
        try:
            await app(scope, receive, send)
        finally:
            calls -= scope["type"] == "websocket"

    async with serving(counted, shell) as url:
        for _ in range(3):
            raw = await Raw.upgrade(url)
            await raw.send(client_frame(b"40"))
            for number in range(1, 400):
                raw.writer.write(client_frame(b'42%d["echo","%s"]' % (number, b"x" * 50_000)))
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            [connection] = await held(server)
            raw.abort()
            await until(lambda: not server.engine.connections)
            assert not connection.is_open
        await until(lambda: calls == 0)


async def held(server: Server) -> list[Connection]:
    """Wait until the server reads nothing more from its clients."""
    await until(lambda: [each for each in server.engine.connections.values() if each.held])
    return list(server.engine.connections.values())
