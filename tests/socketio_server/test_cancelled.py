"""The ASGI shell behind a middleware that cancels: it takes its own session with it, and nobody else's task."""

import asyncio
import contextlib
from typing import Any

import httpx
import pytest

from herenow.socketio_server import Reason, Server, ServerSettings
from raw import Raw
from support import Poller, connect_socket, receive, serving, until

LIMIT_S = 0.3
CHUNK = "x" * 20_000


def limited(app: Any, *, methods: tuple[str, ...] = ("GET", "POST")) -> Any:
    """A time limit around every request."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope.get("method", "GET") not in methods:
            await app(scope, receive, send)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                await app(scope, receive, send)

    return middleware


def impatient(app: Any) -> Any:
    """A time limit around every ``send``, as for peers that do not read."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def send_in_time(message: Any) -> None:
            async with asyncio.timeout(LIMIT_S):
                await send(message)

        await app(scope, receive, send if scope["type"] == "lifespan" else send_in_time)

    return middleware


def breaking(app: Any, kind: str) -> Any:
    """Loses patience at the first bytes of some answers, before any of them are sent."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def send_or_not(message: Any) -> None:
            if message["type"] == "http.response.start" and kind in scope["query_string"].decode():
                raise TimeoutError
            await send(message)

        await app(scope, receive, send if scope["type"] == "lifespan" else send_or_not)

    return middleware


def make() -> tuple[Server, list[Reason]]:
    server = Server(ServerSettings(ping_interval_ms=20_000, ping_timeout_ms=20_000))
    ends: list[Reason] = []
    namespace = server.namespace("/")
    namespace.on("hello")(lambda socket: "hello")
    namespace.on_disconnect(lambda socket, reason: ends.append(reason))
    return server, ends


async def test_a_websocket_whose_request_is_cancelled_leaves_no_session() -> None:
    server, ends = make()
    async with serving(limited(server.asgi_app()), "asgi") as url:
        ws = await connect_socket(url)
        await until(lambda: not server.engine.connections, 5)
        assert ends == [Reason.TRANSPORT_ERROR]
        await ws.wait_closed()


async def test_a_limit_around_send_ends_the_one_who_does_not_read_and_no_task_of_others() -> None:
    """``send`` was stepped in the task of whoever emitted: there the limit found itself, and cancelled it."""
    server, ends = make()
    namespace = server.namespace("/")
    async with serving(impatient(server.asgi_app()), "asgi") as url:
        ws, other = await connect_socket(url), await connect_socket(url)
        mute, _ = namespace.sockets.values()

        async def emit() -> None:
            while mute.emit("chunk", CHUNK):
                pass
            await asyncio.sleep(LIMIT_S * 3)  # in which it once was cancelled

        ws.transport.pause_reading()
        await asyncio.create_task(emit())
        await until(lambda: ends, 5)
        assert ends == [Reason.TRANSPORT_ERROR]
        await other.send('421["hello"]')
        assert await receive(other) == '431["hello"]'
        await until(lambda: len(server.engine.connections) == 1)
        ws.transport.resume_reading()
        await asyncio.wait_for(ws.wait_closed(), 5)  # the server lets the socket go, though only we know of an end
        await other.close()


async def test_a_limit_that_is_kept_changes_nothing() -> None:
    """Not even where ``send`` has to wait, and goes on in another task than it began in."""
    server, ends = make()
    namespace = server.namespace("/")
    async with serving(impatient(server.asgi_app()), "asgi") as url:
        ws = await connect_socket(url)
        [socket] = namespace.sockets.values()
        for _ in range(20):
            taken = 0
            while taken < 200 and socket.emit("chunk", CHUNK):
                taken += 1
            for _ in range(taken):
                await receive(ws)
            await until(lambda: not socket.slow)
        assert ends == []
        await ws.close()


@pytest.mark.parametrize("transport", ["get", "post"])
async def test_a_polling_request_that_is_cancelled_takes_its_session_with_it(transport: str) -> None:
    server, ends = make()
    async with serving(limited(server.asgi_app(), methods=(transport.upper(),)), "asgi") as url, Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        if transport == "get":
            with contextlib.suppress(httpx.HTTPError):
                await poller.get()
        else:
            raw = await Raw.open(url)
            target = f"/socket.io/?EIO=4&transport=polling&sid={poller.sid}"
            await raw.send(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n4".encode())
            await raw.ended()
            raw.abort()
        await until(lambda: not server.engine.connections, 5)
        assert len(ends) == 1


@pytest.mark.parametrize("kind", ["transport=polling&sid", "t=first"])
async def test_an_answer_that_is_not_sent_takes_its_session_with_it(kind: str) -> None:
    """The packets in it are lost, and of a handshake nobody would ever know the id."""
    server, _ = make()
    async with serving(breaking(server.asgi_app(), kind), "asgi") as url, Poller(url) as poller:
        if kind == "t=first":
            with contextlib.suppress(httpx.HTTPError):
                await poller.get(t="first")
        else:
            await poller.open()
            server.engine.connections[poller.sid].session.send("lost")
            with contextlib.suppress(httpx.HTTPError):
                await poller.get()
        await until(lambda: not server.engine.connections, 5)
