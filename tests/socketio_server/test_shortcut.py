"""The shortcut past uvicorn's ``send``: there where nothing stands between, and nobody notices it."""

import asyncio

import pytest
from websockets.asyncio.client import connect

from herenow.socketio_server import FastWebSocket, Server, ServerSettings, Socket
from herenow.socketio_server.on_uvicorn.shortcut import Shortcut
from herenow.socketio_server.transports.asgi import AsgiWebSocket
from support import Shell, connect_socket, receive, serving, websocket_url


def shortcut_of(socket: Socket) -> Shortcut | None:
    link = socket.connection.link
    assert isinstance(link, AsgiWebSocket)
    return link._shortcut


@pytest.mark.parametrize(("shell", "is_there"), [("asgi", True), ("wrapped", False)])
async def test_it_is_taken_where_uvicorn_is_right_behind_send(shell: Shell, is_there: bool) -> None:
    """Fails when a uvicorn comes whose insides are others: then ``send`` works as ever, and slower."""
    server = Server(ServerSettings())
    namespace = server.namespace("/")
    async with serving(server.asgi_app(), shell) as url:
        ws = await connect_socket(url)
        [socket] = namespace.sockets.values()
        assert (shortcut_of(socket) is not None) == is_there
        socket.emit("hello", 1)
        assert await receive(ws) == '42["hello",1]'
        await ws.close()


async def test_a_client_with_compression_gets_whole_messages() -> None:
    """RFC 7692, section 6: what goes uncompressed changes nothing for what is compressed before and after it."""
    server = Server(ServerSettings())
    namespace = server.namespace("/")
    namespace.on("echo")(lambda socket, text: text)
    async with (
        serving(server.asgi_app(), "asgi", ws_per_message_deflate=True) as url,
        connect(websocket_url(url), compression="deflate", ping_interval=None) as ws,
    ):
        assert [extension.name for extension in ws.protocol.extensions] == ["permessage-deflate"]
        await ws.recv()
        await ws.send("40")
        await receive(ws)
        [socket] = namespace.sockets.values()
        for number in range(5):
            await ws.send(f'42{number}["echo","{"again and " * 20}"]')
            assert await receive(ws) == f'43{number}["{"again and " * 20}"]'
            socket.emit("many", "x" * 70_000)
            assert await receive(ws) == f'42["many","{"x" * 70_000}"]'


async def test_what_goes_either_way_keeps_its_order() -> None:
    server = Server(ServerSettings())
    namespace = server.namespace("/")
    count = 300

    @namespace.on("go")
    def go(socket: Socket, number: int) -> int:
        socket.emit("before", number)  # by the shortcut; what is returned goes by ``send``
        return number

    async with serving(server.asgi_app(), "asgi") as url:
        ws = await connect_socket(url)
        for number in range(count):
            await ws.send(f'42{number}["go",{number}]')
        for number in range(count):
            assert await receive(ws) == f'42["before",{number}]'
            assert await receive(ws) == f"43{number}[{number}]"
        await ws.close()


async def test_a_peer_that_has_gone_is_found_by_send() -> None:
    server = Server(ServerSettings())
    namespace = server.namespace("/")
    async with serving(server.asgi_app(), "asgi") as url:
        ws = await connect_socket(url)
        [socket] = namespace.sockets.values()
        ws.transport.abort()
        for _ in range(200):
            socket.emit("hello")
            await asyncio.sleep(0.001)
        assert not socket.connected
        assert namespace.sockets == {}


def test_there_is_none_past_anything_else() -> None:
    async def send(message: object) -> None: ...

    class Other:
        async def send(self, message: object) -> None: ...

    for each in (send, Other().send, FastWebSocket):
        assert Shortcut.past(each) is None  # type: ignore[arg-type]
