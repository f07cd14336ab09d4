"""The client of the Next.js example, through what happens to pages: it never shows somebody of whom nobody can know."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest

from clients import Client
from e2e.lives import page_of_the_example
from e2e.servers import PresenceServer
from support import until

SECRET = "a secret of at least thirty-two bytes"


def sign(user: str) -> str:
    return jwt.encode({"sub": user}, SECRET)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PresenceServer]:
    server = PresenceServer(tmp_path / "app.db", flags=(), jwt_secret=SECRET)
    await asyncio.to_thread(server.start)
    yield server
    server.stop()


async def test_a_page_says_so_while_the_server_is_away_and_its_token_address_fails(server: PresenceServer) -> None:
    """It showed people online for as long as it was open, and after one failed token it never tried again."""
    async with page_of_the_example(server.url, sign("bob"), "alice") as page:
        alice = await Client.connect(server.url, token=sign("alice"))
        await until(lambda: page.happened[-1:] == ["alice true"], 10)
        page.tell("no token")
        await asyncio.to_thread(server.stop)
        await until(lambda: page.happened[-1] == "stale")
        await asyncio.to_thread(server.start)
        alice = await Client.connect(server.url, token=sign("alice"))
        await until(lambda: "unauthorized" in server.log(), 10)
        assert page.happened[-1] == "stale"
        page.tell("token")
        await until(lambda: page.happened[-1] == "alice true", 10)
        await alice.leave()
        await until(lambda: page.happened[-1] == "alice false")


async def test_a_page_believes_the_server_of_today_and_not_what_a_crash_took_along(server: PresenceServer) -> None:
    """The higher version won: one whose last change was lost with its server stayed online for ever."""
    async with page_of_the_example(server.url, sign("bob"), "alice") as page:
        await Client.connect(server.url, token=sign("alice"))
        await until(lambda: page.happened[-1:] == ["alice true"], 10)
        server.kill()
        await until(lambda: page.happened[-1] == "stale")
        forget(server, "alice")
        await asyncio.to_thread(server.start)
        await until(lambda: page.happened[-1] == "alice false", 10)


def forget(server: PresenceServer, user: str) -> None:
    with sqlite3.connect(server.database) as connection:
        connection.execute("DELETE FROM users WHERE id = ?", (user,))
    connection.close()


async def test_a_page_that_sleeps_is_offline_within_two_seconds_and_comes_back(server: PresenceServer) -> None:
    """For the back button a browser keeps a page with its socket open: its user stayed online for 15 s."""
    alice = await Client.connect(server.url, token=sign("alice"))
    await alice.watch("bob")
    async with page_of_the_example(server.url, sign("bob"), "alice") as page:
        await until(lambda: page.happened == ["alice true"], 10)
        page.tell("sleep")
        await until(lambda: page.happened[-1] == "stale")
        page.freeze()
        await alice.until(lambda: alice.shows("bob") == "offline")
        assert alice.causes("bob")[-1] == "closed"
        page.thaw()
        page.tell("wake")
        await alice.until(lambda: alice.shows("bob") == "online")
        await until(lambda: page.happened[-1] == "alice true")
    await alice.leave()
