"""The stock clients, as their users have them: npm's socket.io-client and python-socketio's AsyncClient."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import socketio

from support import ROOT, SHELLS, Process, example

TRANSPORTS = ["polling,websocket", "websocket", "polling"]


@pytest.fixture(scope="module", params=SHELLS)
def server(request: pytest.FixtureRequest) -> Iterator[Process]:
    with example("socketio_echo", "--shell", request.param, "--ping-timeout-ms", "3000") as process:
        yield process


def node() -> str:
    """Return the path of Node; the Makefile installs it where there is none."""
    path = shutil.which("node")
    assert path is not None, "Node is not on the PATH: run `make install`, or install Node 20 or later"
    assert (ROOT / "tests/node/node_modules/socket.io-client").is_dir(), "run `make install` for the JavaScript client"
    return path


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_the_javascript_client(server: Process, transports: str) -> None:
    done = subprocess.run(
        [node(), "scenarios.mjs", server.url, transports],
        cwd=ROOT / "tests/node",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = [msgspec.json.decode(line)["passed"] for line in done.stdout.splitlines()]
    assert len(passed) == 9


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_the_python_client(server: Process, transports: str) -> None:
    client = socketio.AsyncClient(reconnection_delay=0.05)
    back: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    client.on("auth", lambda *args: back.put_nowait(args))
    client.on("message-back", lambda *args: back.put_nowait(args))
    client.on("message-back", lambda *args: back.put_nowait(("custom", *args)), namespace="/custom")
    async with asyncio.timeout(20):
        await client.connect(
            server.url, transports=transports.split(","), auth={"token": "1"}, namespaces=["/", "/custom"]
        )
        assert await back.get() == ({"token": "1"},)
        await client.emit("message", ("a", b"\x01", {"b": [b"\x02"]}))
        assert await back.get() == ("a", b"\x01", {"b": [b"\x02"]})
        await client.emit("message", "c", namespace="/custom")
        assert await back.get() == ("custom", "c")
        assert await client.call("message-with-ack", (1, b"\x03")) == (1, b"\x03")
        assert client.transport() == transports.split(",")[-1]
        await asyncio.sleep(1)  # some pings
        assert client.connected
        await client.disconnect()


async def test_the_python_client_is_refused_an_unknown_namespace(server: Process) -> None:
    client = socketio.AsyncClient(reconnection=False)
    errors: asyncio.Queue[Any] = asyncio.Queue()
    client.on("connect_error", errors.put_nowait, namespace="/nowhere")
    with pytest.raises(socketio.exceptions.ConnectionError, match="/nowhere"):
        await client.connect(server.url, namespaces=["/nowhere"], transports=["websocket"])
    assert await errors.get() == {"message": "Invalid namespace"}
    await client.disconnect()
