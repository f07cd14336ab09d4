"""What the tests share: servers on real ports, and clients that speak the protocol by hand."""

import asyncio
import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from herenow.socketio_server import FastWebSocket

Shell = Literal["fast", "asgi", "wrapped"]
SHELLS: list[Shell] = ["fast", "asgi"]
"""``wrapped`` is ``asgi`` behind a middleware, where it has no shortcut past uvicorn's ``send``."""

ROOT = Path(__file__).parent.parent
PYTHONPATH = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"
"""What a process of a test needs to find herenow, and the tests' own parts."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody on this machine does: cheaper than to ask, where one looks again and again."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait until a condition holds that sets no event; one that is dear to look at is looked at less often."""
    async with asyncio.timeout(timeout_s):
        while True:
            began_s = time.monotonic()
            if condition():
                return
            await asyncio.sleep(max(0.005, 2 * (time.monotonic() - began_s)))


@contextlib.asynccontextmanager
async def never_busy_for(longest_s: float) -> AsyncIterator[None]:
    """Fail if the event loop, and so every other client, had to wait for longer than this meanwhile."""
    waits: list[float] = []

    async def tick() -> None:
        while True:
            due = time.monotonic() + 0.001
            await asyncio.sleep(0.001)
            waits.append(time.monotonic() - due)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    yield
    await asyncio.sleep(0.01)
    ticking.cancel()
    assert max(waits) < longest_s, f"the loop was busy for {max(waits):.3f} s"


class Process:
    """A server in a process of its own, and what it wrote.

    Attributes:
        ping_timeout_ms: how it was started, where a test must know.
    """

    def __init__(self, *command: str, port: int) -> None:
        self.port = port
        self.ping_timeout_ms = 0
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1"}
        self.popen = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self, timeout_s: float = 20.0) -> None:
        """Wait until it accepts connections."""
        deadline = asyncio.new_event_loop()
        end = deadline.time() + timeout_s
        try:
            while deadline.time() < end:
                if self.popen.poll() is not None:
                    raise AssertionError(f"the server ended at once: {self.popen.communicate()[0]}")
                if listens(self.port):
                    return
                deadline.run_until_complete(asyncio.sleep(0.02))
        finally:
            deadline.close()
        raise AssertionError("the server does not listen")

    def stop(self) -> str:
        """Stop it; return what it wrote."""
        self.popen.terminate()
        try:
            return self.popen.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.communicate()[0]


@contextlib.contextmanager
def example(name: str, *options: str) -> Iterator[Process]:
    """Run an example; it must write nothing, so that a traceback anywhere fails the test."""
    port = free_port()
    process = Process(f"examples/{name}.py", "--port", str(port), *options, port=port)
    try:
        process.wait_until_ready()
        yield process
    finally:
        written = process.stop()
    assert written == "", f"{name} wrote: {written}"


def wrapped(app: Any) -> Any:
    """Put a middleware before an ASGI application that passes on all that is sent."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def pass_on(message: Any) -> None:
            await send(message)

        await app(scope, receive, pass_on)

    return middleware


@contextlib.asynccontextmanager
async def serving(app: Any, shell: Shell = "fast", **options: Any) -> AsyncIterator[str]:
    """Serve an ASGI application in this event loop on a real port; give its address."""
    config = uvicorn.Config(
        wrapped(app) if shell == "wrapped" else app,
        host="127.0.0.1",
        port=0,
        ws=FastWebSocket if shell == "fast" else "auto",
        **{
            "ws_ping_interval": None,
            "log_config": None,
            "timeout_graceful_shutdown": 2,
            "lifespan": "on",
            **options,
        },
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # pytest owns the signals
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            task.result()
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"{'https' if config.is_ssl else 'http'}://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


_TRUSTED = ssl.create_default_context()
"""Read once: all the certificates of the world for each client, as httpx does, take a twentieth of a second."""


def http_client(**options: Any) -> httpx.AsyncClient:
    """Return a client for HTTP; the options are httpx's."""
    return httpx.AsyncClient(verify=_TRUSTED, **options)


def http_get(url: str, **options: Any) -> httpx.Response:
    """Ask once; the options are httpx's."""
    return httpx.get(url, verify=_TRUSTED, **options)


class Poller:
    """A client of the polling transport, by hand."""

    def __init__(self, url: str, path: str = "/socket.io/", headers: dict[str, str] | None = None) -> None:
        self.url = url + path
        self.path = path
        self.sid = ""
        self.http = http_client(timeout=10, headers=headers)

    async def __aenter__(self) -> "Poller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    def query(self, **changes: str | None) -> dict[str, str]:
        """Return the query parameters, changed; ``None`` leaves one out."""
        query = {"EIO": "4", "transport": "polling", "sid": self.sid or None, **changes}
        return {name: value for name, value in query.items() if value is not None}

    async def open(self) -> dict[str, Any]:
        """Open a session; return the handshake."""
        response = await self.http.get(self.url, params=self.query())
        assert response.status_code == 200, response.text
        assert response.text[0] == "0"
        handshake = msgspec.json.decode(response.text[1:], type=dict[str, Any])
        self.sid = handshake["sid"]
        return handshake

    async def get(self, **changes: str | None) -> httpx.Response:
        """Poll."""
        return await self.http.get(self.url, params=self.query(**changes))

    async def post(self, body: str | bytes, **changes: str | None) -> httpx.Response:
        """Send a payload."""
        content = body.encode() if isinstance(body, str) else body
        return await self.http.post(self.url, params=self.query(**changes), content=content)


def websocket_url(url: str, path: str = "/socket.io/", **query: str) -> str:
    """Return the address for a WebSocket."""
    parameters = {"EIO": "4", "transport": "websocket", **query}
    return re.sub("^http", "ws", url) + path + "?" + "&".join(f"{name}={value}" for name, value in parameters.items())


def websocket(url: str, path: str = "/socket.io/", **query: str) -> connect:
    """Open a WebSocket: ``async with websocket(url) as ws``. It answers no Engine.IO ping."""
    return connect(websocket_url(url, path, **query), compression=None, ping_interval=None, max_size=None)


async def receive(ws: ClientConnection, *, pings: bool = False, timeout_s: float = 5.0) -> str | bytes:
    """Return the next frame that is no Engine.IO ping; pings are answered, or with ``pings`` returned."""
    async with asyncio.timeout(timeout_s):
        while True:
            data = await ws.recv()
            if data != "2" or pings:
                return data
            await ws.send("3")


async def closed(ws: ClientConnection, *, timeout_s: float = 1.5) -> int | None:
    """Wait until the server closes; return the code. Shorter than the long ping time-out of the tests."""
    async with asyncio.timeout(timeout_s):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await ws.recv()
    return ws.close_code


async def connect_socket(url: str, packet: str = "40", path: str = "/socket.io/") -> ClientConnection:
    """Open a WebSocket session and connect to a namespace; the handshakes are read off."""
    ws = await websocket(url, path)
    assert str(await ws.recv()).startswith("0")
    await ws.send(packet)
    assert str(await receive(ws)).startswith("40")
    return ws
