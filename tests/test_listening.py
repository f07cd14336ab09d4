"""Noticing that the server around us stops, by its listening sockets."""

import asyncio
import socket
from pathlib import Path

from herenow.listening import Listening


def watch(listening: Listening) -> "tuple[asyncio.Event, asyncio.Task[None]]":
    stopped = asyncio.Event()
    return stopped, asyncio.create_task(listening.watch(stopped.set))


async def until_stopped(stopped: asyncio.Event, watching: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(1):
        await stopped.wait()
        await watching


async def test_a_server_that_stops_right_after_it_has_begun_to_listen_is_noticed() -> None:
    """uvicorn listens after the start of the lifespan, and for a tenth of a second at least."""
    listening = Listening()
    stopped, watching = watch(listening)
    await asyncio.sleep(0.01)  # the first look finds nothing
    with socket.create_server(("127.0.0.1", 0)) as server:
        listening.heard_on(server.getsockname())
        await asyncio.sleep(0.1)
        assert not stopped.is_set()
    await until_stopped(stopped, watching)


async def test_so_is_one_whose_first_request_is_read_after_it_has_closed() -> None:
    listening = Listening()
    stopped, watching = watch(listening)
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = server.getsockname()
        await asyncio.sleep(0.1)
    listening.heard_on(name)
    await until_stopped(stopped, watching)


async def test_one_of_two_that_is_closed_is_no_stop() -> None:
    listening = Listening()
    with socket.create_server(("127.0.0.1", 0)) as kept:
        stopped, watching = watch(listening)
        with socket.create_server(("127.0.0.1", 0)) as other:
            for server in (kept, other):
                listening.heard_on(server.getsockname())
            await asyncio.sleep(0.3)
        await asyncio.sleep(0.5)
        assert not stopped.is_set()
    await until_stopped(stopped, watching)


async def test_a_socket_through_which_nothing_came_neither_stops_us_nor_keeps_us() -> None:
    """A mock server in a test, closed again, once stopped the application for good; a metrics port kept it for ever."""
    listening = Listening()
    stopped, watching = watch(listening)
    with socket.create_server(("127.0.0.1", 0)):
        await asyncio.sleep(0.3)
    listening.heard_on(("testserver", 80))  # what no socket is behind
    listening.heard_on(None)
    await asyncio.sleep(0.3)
    assert not stopped.is_set()
    with socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0)) as door:
        listening.ignore(door.getsockname()[1])
        listening.heard_on(door.getsockname())
        with socket.create_server(("127.0.0.1", 0)) as server:
            listening.heard_on(server.getsockname())
            await asyncio.sleep(0.3)
            assert not stopped.is_set()
        await until_stopped(stopped, watching)


async def test_a_unix_socket_is_known_by_its_path(tmp_path: Path) -> None:
    listening = Listening()
    stopped, watching = watch(listening)
    path = str(tmp_path / "here")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        listening.heard_on((path, None))
        await asyncio.sleep(0.3)
        assert not stopped.is_set()
    await until_stopped(stopped, watching)
