"""The server beside somebody's application, on one port: paths, WebSockets, origins, logs."""

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from herenow.socketio_server import Server, ServerSettings
from support import SHELLS, Poller, Shell, connect_socket, http_client, receive, serving, websocket, websocket_url


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Shell:
    kind: Shell = request.param
    return kind


def fastapi_app(started: list[str]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        started.append("started")
        yield {"mine": "kept"}
        started.append("stopped")

    app = FastAPI(lifespan=lifespan)

    @app.get("/hello")
    def hello() -> str:
        return "hello"

    @app.websocket("/ws")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{websocket.state.mine} {text}")

    return app


async def test_an_application_keeps_its_paths_its_websockets_and_its_lifespan(shell: Shell) -> None:
    server = Server(ServerSettings(ping_interval_ms=300, ping_timeout_ms=3_000))
    server.namespace("/").on("echo")(lambda socket, *args: args)
    started: list[str] = []
    async with serving(server.asgi_app(fastapi_app(started)), shell) as url:
        async with http_client() as http:
            assert (await http.get(url + "/hello")).json() == "hello"
        async with connect(url.replace("http", "ws") + "/ws") as theirs:
            ours = await connect_socket(url)
            big = "x" * 200_000
            for text in ("one", big, "two"):
                await theirs.send(text)
                assert await theirs.recv() == f"kept {text}"
            await ours.send('421["echo",1]')
            assert await receive(ours) == "431[1]"
            await ours.close()
        abandoned = await connect(url.replace("http", "ws") + "/ws")  # uvicorn's to close when it stops
        assert started == ["started"]
    assert started == ["started", "stopped"]
    assert abandoned.close_code is None or abandoned.close_code == 1012
    await abandoned.close()


async def test_without_an_application_other_paths_are_not_found(shell: Shell) -> None:
    async with serving(Server().asgi_app(), shell) as url, http_client() as http:
        assert (await http.get(url + "/")).status_code == 404
        assert (await http.get(url + "/socket.io/x?EIO=4&transport=polling")).status_code == 404
        with pytest.raises(InvalidStatus):
            await connect(url.replace("http", "ws") + "/elsewhere")


async def test_a_root_path_is_taken_off(shell: Shell) -> None:
    server = Server(ServerSettings())
    server.namespace("/")
    async with serving(server.asgi_app(), shell, root_path="/api") as url:
        ws = await connect_socket(url)
        await ws.close()
        async with Poller(url) as poller:
            await poller.open()
    server, mounted = Server(ServerSettings()), FastAPI()
    mounted.mount("/live", server.asgi_app())
    async with serving(mounted, "asgi") as url, Poller(url, "/live/socket.io/") as poller:
        await poller.open()


async def test_the_same_server_can_serve_again(shell: Shell) -> None:
    server = Server(ServerSettings())
    server.namespace("/")
    for _ in range(2):
        async with serving(server.asgi_app(), shell) as url:
            ws = await connect_socket(url)
            await ws.close()


async def test_the_end_of_the_lifespan_waits_for_the_handlers(shell: Shell) -> None:
    server = Server(ServerSettings())
    done: list[str] = []

    @server.namespace("/").on_disconnect
    async def disconnected(socket: Any, reason: Any) -> None:
        await asyncio.sleep(0.3)
        done.append(reason)

    async with serving(server.asgi_app(), shell) as url:
        ws = await connect_socket(url)
    await ws.close()
    assert len(done) == 1


async def test_the_last_slash_of_the_path_may_be_missing(shell: Shell) -> None:
    server = Server(ServerSettings(path="/live/events/"))
    server.namespace("/")
    async with serving(server.asgi_app(), shell) as url:
        for path in ("/live/events/", "/live/events"):
            ws = await connect_socket(url, path=path)
            await ws.close()
            async with Poller(url, path) as poller:
                await poller.open()


async def test_a_polling_session_upgrades_to_the_fast_websocket_on_the_same_port() -> None:
    server = Server(ServerSettings())
    namespace = server.namespace("/")
    async with serving(server.asgi_app(), "fast") as url, Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        [socket] = namespace.sockets.values()
        assert socket.transport == "polling"
        async with websocket(url, sid=poller.sid) as ws:
            await ws.send("2probe")
            await ws.recv()
            await ws.send("5")
            await ws.send('421["x"]')
            assert await receive(ws) == "431[]"
            assert socket.transport == "websocket"
            assert type(socket.connection.link).__name__ == "FastWebSocket"


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (None, None, True),
        (None, "http://{host}", True),
        (None, "HTTP://{host}", True),
        (None, "http://evil.example", False),
        (None, "http://{host}.evil.example", False),
        (None, "null", False),
        (None, "http://[", False),
        (["https://app.example"], "https://app.example", True),
        (["https://app.example"], "http://app.example", False),
        (["https://app.example"], "http://{host}", False),
        (["https://app.example"], None, True),
        ("*", "http://anyone.example", True),
    ],
)
async def test_only_allowed_origins_get_in(
    shell: Shell, origins: list[str] | str | None, origin: str | None, allowed: bool
) -> None:
    server = Server(ServerSettings(origins=origins))
    async with serving(server.asgi_app(), shell) as url:
        origin = origin and origin.format(host=url.removeprefix("http://"))
        headers = {"Origin": origin} if origin else {}
        async with Poller(url, headers=headers) as poller:
            response = await poller.get()
            preflight = await poller.http.options(poller.url)
        assert response.status_code == (200 if allowed else 403)
        assert preflight.status_code == (204 if allowed else 403)
        told = response.headers.get("access-control-allow-origin")
        assert told == (None if not (allowed and origin) else "*" if origins == "*" else origin)
        attempt = connect(websocket_url(url), additional_headers=headers)
        if allowed:
            async with attempt:
                pass
        else:
            with pytest.raises(InvalidStatus) as refused:
                await attempt
            assert refused.value.response.status_code == 403


async def test_a_page_can_read_the_error_and_the_preflight(shell: Shell) -> None:
    server = Server(ServerSettings(origins=["https://app.example"]))
    async with (
        serving(server.asgi_app(), shell) as url,
        Poller(url, headers={"Origin": "https://app.example"}) as poller,
    ):
        refused = await poller.get(sid="unknown")
        assert (refused.status_code, refused.json()) == (400, {"code": 1, "message": "Session ID unknown"})
        preflight = await poller.http.options(poller.url)
        for response in (refused, preflight):
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            assert response.headers["access-control-allow-credentials"] == "true"
            assert response.headers["vary"] == "Origin"
        assert "POST" in preflight.headers["access-control-allow-methods"]


TOKEN = "a-token-that-a-native-client-brings"


async def test_no_log_line_holds_a_whole_session_id_or_token(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn logs the query string of every request, and in it the secret of the session."""
    caplog.set_level(logging.DEBUG)
    server = Server(ServerSettings())
    namespace = server.namespace("/")

    @namespace.on("fail")
    def fail(socket: Any) -> None:
        raise ZeroDivisionError(repr(socket))

    async with serving(server.asgi_app(), shell, access_log=True) as url, Poller(url) as poller:
        await poller.open()
        await poller.post("40")
        await poller.get()
        socket_ids = list(namespace.sockets)
        probe = websocket_url(url, sid=poller.sid)
        async with connect(probe, additional_headers={"Authorization": f"Bearer {TOKEN}", "Cookie": TOKEN}) as ws:
            await ws.send("2probe")
            await ws.recv()
            await ws.send("5")
            await ws.send('42["fail"]')
            await ws.send("42{}")
            await asyncio.sleep(0.1)
        sid = poller.sid
    clients = ("httpx", "httpcore", "websockets.client")  # the test's own, which may know their secrets
    lines = [
        f"{record.getMessage()} {record.exc_text or ''}"
        for record in caplog.records
        if not record.name.startswith(clients)
    ]
    assert any(sid[:6] + "…" in line for line in lines), "the access log is not even on"
    for secret in (sid, TOKEN, *socket_ids):
        assert [line for line in lines if secret in line] == []


async def test_an_answer_that_nobody_is_there_to_read_is_no_error() -> None:
    """ASGI: ``send`` raises ``OSError`` when the client has gone; uvicorn's can raise others."""
    app = Server(ServerSettings()).asgi_app()
    scope = {"type": "http", "method": "GET", "path": "/socket.io/", "headers": [], "client": ("127.0.0.1", 1)}

    async def receive() -> Any:
        raise AssertionError("nothing is to be read of a handshake")

    for error in (OSError("gone"), RuntimeError("the handler is closed")):

        async def send(message: Any, error: Exception = error) -> None:
            raise error

        for query in (b"EIO=4&transport=polling", b"EIO=3&transport=polling"):
            await app({**scope, "query_string": query}, receive, send)
