"""A client whose link is slow: while it takes what was sent, it is not taken for dead; nor is a dead one for slow.

A ping that waits behind a large answer comes late through no fault of the client's. It was closed while it was reading,
came back, asked again, and so on for ever.
"""

import asyncio
import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from certificates import make_certificate
from herenow.progress import Delivery, Progress
from herenow.socketio_server import Namespace, Reason, Server, ServerSettings, Socket
from slow_link import slow_link
from support import Poller, Shell, connect_socket, receive, serving, until, websocket_url

PING_MS, PONG_MS = 600, 400
RATE = 100_000.0
ANSWER = "x" * 250_000
"""Takes 2.5 s at that rate: more than the heartbeat allows a client that says nothing."""


def make() -> tuple[Server, Namespace, list[Reason]]:
    server = Server(ServerSettings(ping_interval_ms=PING_MS, ping_timeout_ms=PONG_MS, connect_timeout_ms=20_000))
    namespace, ends = server.namespace("/"), list[Reason]()
    namespace.on("ask")(lambda socket: ANSWER)
    namespace.on_disconnect(lambda socket, reason: ends.append(reason))
    return server, namespace, ends


async def ask_on_websocket(ws: ClientConnection) -> None:
    await ws.send('421["ask"]')
    assert len(await receive(ws, timeout_s=30)) > len(ANSWER)
    await ws.send('422["ask"]')  # and once more, with the pings in between
    assert len(await receive(ws, timeout_s=30)) > len(ANSWER)
    await ws.close()


async def ask_by_polling(url: str) -> None:
    async with Poller(url) as poller:
        poller.http.timeout = httpx.Timeout(30)
        await poller.open()
        await poller.post("40")
        await poller.get()
        await poller.post('421["ask"]')
        got = ""
        while not got.startswith("431"):
            answer = await poller.get()
            assert answer.status_code == 200, answer.text
            got = answer.text
            if "2" in got.split("\x1e"):
                assert (await poller.post("3")).status_code == 200
        assert len(got) > len(ANSWER)
        for _ in range(2):  # it is still in, and is still asked whether it lives
            got = (await poller.get()).text
            assert got == "2", got[:300]
            await poller.post("3")
        await poller.post("1")


async def on_both_transports(shell: Shell) -> None:
    server, _, ends = make()
    async with serving(server.asgi_app(), shell) as url, slow_link(url, RATE) as link, slow_link(url, RATE) as other:
        await asyncio.gather(ask_on_websocket(await connect_socket(link.url)), ask_by_polling(other.url))
        await until(lambda: len(ends) == 2)
        assert sorted(ends) == [Reason.CLIENT, Reason.TRANSPORT_CLOSED]


async def under_tls(directory: Path) -> None:
    certificate, key = make_certificate(directory, address="127.0.0.1")
    server, _, ends = make()
    trusting = ssl.create_default_context(cafile=certificate)
    options: dict[str, Any] = {"ssl_certfile": certificate, "ssl_keyfile": key}
    async with serving(server.asgi_app(), "fast", **options) as url, slow_link(url, RATE) as link:
        address = websocket_url(link.url)
        async with connect(address, ssl=trusting, compression=None, ping_interval=None, max_size=None) as ws:
            await ws.recv()
            await ws.send("40")
            await receive(ws)
            await ask_on_websocket(ws)
        await until(lambda: ends)
        assert ends == [Reason.TRANSPORT_CLOSED]


async def test_who_takes_what_was_sent_is_alive_however_slowly_on_every_way(tmp_path: Path) -> None:
    """At once, since most of it is waiting."""
    shells: tuple[Shell, ...] = ("fast", "asgi", "wrapped")
    await asyncio.gather(*map(on_both_transports, shells), under_tls(tmp_path))


async def dies(shell: Shell) -> None:
    """The link carries no more in the middle of an answer: nothing is acknowledged from there on."""
    server, namespace, ends = make()
    async with serving(server.asgi_app(), shell) as url, slow_link(url, RATE, stops_after=100_000) as link:
        ws = await connect_socket(link.url)
        await ws.send('421["ask"]')
        await until(lambda: link.carried >= link.stops_after)
        began = time.monotonic()
        await until(lambda: ends)
        assert ends == [Reason.PING_TIMEOUT]
        assert time.monotonic() - began < (PING_MS + PONG_MS) / 1000 + 0.5
        ws.transport.abort()
        assert not namespace.sockets


async def test_a_link_that_dies_under_an_answer_is_noticed_within_the_bound() -> None:
    await asyncio.gather(dies("fast"), dies("asgi"))


async def test_who_has_the_ping_and_does_not_answer_is_closed_whatever_its_machine_takes() -> None:
    """A page that hangs: its machine acknowledges all that comes, and there is always something to come."""
    server, namespace, ends = make()
    async with serving(server.asgi_app()) as url:
        ws = await connect_socket(url)
        [socket] = namespace.sockets.values()
        began = time.monotonic()
        while not ends:
            socket.emit("diff", "x" * 100)
            await asyncio.sleep(0.01)
        assert ends == [Reason.PING_TIMEOUT]
        assert time.monotonic() - began < (PING_MS + PONG_MS) / 1000 + 0.5
        ws.transport.abort()


async def test_a_ping_goes_ahead_of_what_is_large() -> None:
    """A stock client gives up by itself when it hears no ping: behind the answer, one would come too late."""
    server = Server(ServerSettings(ping_interval_ms=20_000, ping_timeout_ms=10_000))
    namespace = server.namespace("/")
    namespace.on("ask")(lambda socket: ANSWER)
    namespace.on("ask little")(lambda socket: "x")
    async with serving(server.asgi_app()) as url:
        ws = await connect_socket(url)
        await ws.send('421["ask little"]')
        assert await receive(ws, pings=True) == '431["x"]'
        await ws.send('422["ask"]')
        assert await receive(ws, pings=True) == "2"
        assert str(await receive(ws, pings=True)).startswith("432")
        await ws.send('423["ask"]')  # while one is under way, another would be one too many
        assert str(await receive(ws, pings=True)).startswith("433")
        await ws.close()


async def test_the_end_waits_for_a_slow_reader_to_read_it(caplog: pytest.LogCaptureFixture) -> None:
    """Who was put out over a slow link never read why: its socket was cut before."""
    server, namespace, _ = make()

    @namespace.on("leave")
    def leave(socket: Socket) -> str:
        asyncio.get_running_loop().call_later(0.05, lambda: socket.disconnect(close=True))
        return ANSWER

    async with serving(server.asgi_app()) as url, slow_link(url, RATE) as link:
        ws = await connect_socket(link.url)
        await ws.send('421["leave"]')
        assert len(await receive(ws, timeout_s=30)) > len(ANSWER)
        with pytest.raises(ConnectionClosed) as closed:
            await receive(ws)
        assert closed.value.rcvd is None, "a close frame keeps some clients from coming back"


def test_what_arrives_after_the_ping_says_nothing_of_it() -> None:
    delivery = Delivery(Progress(1_000, 500))
    assert not delivery.moves(Progress(1_000, 800))
    assert delivery.moves(Progress(1_200, 900))
    assert delivery.moves(Progress(1_500, 900)), "only now it is there"
    assert not delivery.moves(Progress(1_900, 900))
    assert not Delivery(Progress(1_000, 0)).moves(Progress(1_100, 0))
