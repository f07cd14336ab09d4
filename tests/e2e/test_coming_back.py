"""Who leaves has left, and who is to come back does: the stock clients, over every transport."""

import asyncio
import contextlib
from pathlib import Path

from clients import Client
from e2e.lives import Life
from e2e.servers import PresenceServer
from support import until

CLIENTS = ["JavaScript", "python-socketio AsyncClient", "python-socketio Client"]
TRANSPORTS = ["websocket", "polling", "polling,websocket"]
LIFE = ["ready", "shutting_down", "disconnected", "ready"]


async def test_every_stock_client_leaves_at_once_and_comes_back_after_the_server_by_itself(tmp_path: Path) -> None:
    """Over polling, python-socketio took the end of the session for the server's last word, and stayed away."""
    server = PresenceServer(tmp_path / "app.db")
    await asyncio.to_thread(server.start)
    try:
        async with contextlib.AsyncExitStack() as stack:
            lives = {
                f"{client} {transports}": await stack.enter_async_context(
                    Life.of(client, server.url, transports, f"{client} {transports}")
                )
                for client in CLIENTS
                for transports in TRANSPORTS
            }
            await until(lambda: all(life.happened == LIFE[:1] for life in lives.values()), 30)
            await asyncio.to_thread(server.stop)
            with contextlib.suppress(TimeoutError):
                await until(lambda: all(life.happened == LIFE[:3] for life in lives.values()), 20)
            assert {user: life.happened for user, life in lives.items()} == dict.fromkeys(lives, LIFE[:3])
            await asyncio.to_thread(server.start)
            with contextlib.suppress(TimeoutError):
                await until(lambda: all(life.happened == LIFE for life in lives.values()), 20)
            assert {user: life.happened for user, life in lives.items()} == dict.fromkeys(lives, LIFE)

            watcher = await Client.connect(server.url, "watcher")
            await watcher.watch(all=True)
            for life in lives.values():
                life.tell("leave")
            await watcher.until(lambda: all(watcher.shows(user) == "offline" for user in lives))
            assert {user: watcher.causes(user) for user in lives} == {key: ["left"] for key in lives}
            await watcher.leave()
    finally:
        server.stop()


async def test_what_each_client_calls_disconnect_is_a_leave_if_it_says_so_and_else_a_close(tmp_path: Path) -> None:
    """A close frame alone is what some libraries send when the network is lost."""
    server = PresenceServer(tmp_path / "app.db")
    await asyncio.to_thread(server.start)
    try:
        watcher = await Client.connect(server.url, "watcher")
        await watcher.watch(all=True)
        async with (
            Life.of("JavaScript", server.url, "websocket", "js") as js,
            Life.of("python-socketio AsyncClient", server.url, "websocket", "python") as python,
        ):
            await watcher.until(lambda: {watcher.shows("js"), watcher.shows("python")} == {"online"}, 30)
            for life in (js, python):
                life.tell("disconnect")
            await watcher.until(lambda: {watcher.shows("js"), watcher.shows("python")} == {"offline"})
        assert watcher.causes("js")[-1] == "left"
        assert watcher.causes("python")[-1] in ("left", "closed")
        await watcher.leave()
    finally:
        server.stop()
