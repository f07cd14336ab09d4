"""How foreign clients leave and come back: ``make check-clients`` measures it, for the table of docs/wire.md.

It needs Java and Maven for the Java client, and leaves it out where they are not.
"""

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from clients import Client
from e2e.lives import PROGRAMS, Life
from e2e.relay import Relay
from e2e.servers import PresenceServer
from support import until

DOWN_S = 1.5
"""Between the end of a server and the start of the next."""


@contextlib.asynccontextmanager
async def everyone(url: str, way: str) -> AsyncIterator[dict[tuple[str, str], Life]]:
    """All clients over both transports, once they are in."""
    async with contextlib.AsyncExitStack() as stack:
        lives = {
            (client, transport): await stack.enter_async_context(
                Life.of(client, url, transport, user_of(client, transport, way))
            )
            for client in PROGRAMS
            if client != "Java" or shutil.which("java")
            for transport in ("websocket", "polling")
        }
        await until(lambda: all("ready" in life.happened for life in lives.values()), 60)
        yield lives


def user_of(client: str, transport: str, way: str) -> str:
    return f"{client} {transport} {way}"


async def leaving(server: PresenceServer, way: str, end: Callable[[Life], object]) -> dict[tuple[str, str], str]:
    """How long after an end a user is shown offline, and why."""
    watcher = await Client.connect(server.url, "watcher")
    await watcher.watch(all=True)
    found: dict[tuple[str, str], str] = {}
    async with everyone(server.url, way) as lives:
        for (client, transport), life in lives.items():
            user = user_of(client, transport, way)
            began_s = time.monotonic()
            end(life)
            await watcher.until(lambda user=user: watcher.shows(user) == "offline", 30)
            found[client, transport] = f"{time.monotonic() - began_s:.2f} s, {watcher.causes(user)[-1]}"
    await watcher.leave()
    return found


async def losing(server: PresenceServer) -> dict[tuple[str, str], str]:
    """How long after the network went silent a user is shown offline."""
    relay = Relay(server.port)
    await relay.start()
    watcher = await Client.connect(server.url, "watcher")
    await watcher.watch(all=True)
    found: dict[tuple[str, str], str] = {}
    async with everyone(f"http://127.0.0.1:{relay.port}", "lost") as lives:
        began_s = time.monotonic()
        relay.silence()
        while len(found) < len(lives):
            await watcher.until(
                lambda: any(watcher.shows(user_of(*key, "lost")) == "offline" for key in lives.keys() - found), 40
            )
            for key in lives.keys() - found:
                user = user_of(*key, "lost")
                if watcher.shows(user) == "offline":
                    found[key] = f"{time.monotonic() - began_s:.1f} s, {watcher.causes(user)[-1]}"
        relay.resume()
    await relay.stop()
    await watcher.leave()
    return found


async def coming_back(server: PresenceServer, way: str, end: Callable[[], object]) -> dict[tuple[str, str], str]:
    """How long after the server is there again each client is."""
    found: dict[tuple[str, str], str] = {}
    async with everyone(server.url, way) as lives:
        await asyncio.to_thread(end)
        await asyncio.sleep(DOWN_S)
        await asyncio.to_thread(server.start)
        began_s = time.monotonic()
        while len(found) < len(lives) and time.monotonic() - began_s < 40:
            await asyncio.sleep(0.02)
            for key, life in lives.items():
                if key not in found and life.happened.count("ready") == 2:
                    found[key] = f"{time.monotonic() - began_s:.1f} s"
        return {key: found.get(key, "stays away") for key in lives}


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = PresenceServer(Path(directory, "app.db"))
        await asyncio.to_thread(server.start)
        measured = {
            "`presence:leave`": await leaving(server, "leave", lambda life: life.tell("leave")),
            "`disconnect()`": await leaving(server, "disconnect", lambda life: life.tell("disconnect")),
            "normal exit": await leaving(server, "exit", lambda life: life.tell("exit")),
            "`kill -9`": await leaving(server, "kill", lambda life: life.kill()),
            "network lost": await losing(server),
            "back after SIGTERM": await coming_back(server, "stop", server.stop),
            "back after `kill -9`": await coming_back(server, "crash", server.kill),
        }
        server.stop()
    rows = [["client", *measured], ["---"] * (len(measured) + 1)]
    for client, transport in next(iter(measured.values())):
        rows.append([f"{client}, {transport}", *(found[client, transport] for found in measured.values())])
    sys.stdout.writelines(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    asyncio.run(main())
