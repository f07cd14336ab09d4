"""A server that is renewed in its place, and a crowd that must not be seen to go by it."""

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from websockets.exceptions import WebSocketException

from cli_support import Server
from clients import Client, Refused
from support import until


class Renewable(Server):
    """A server with a state file of its own, and with what a test asks of its database."""

    from_nothing = True

    def __init__(self, directory: Path, *, mongodb: str | None = None, where: tuple[str, ...] = Server.where) -> None:
        self.mongodb = mongodb
        self.where = where
        self.environment = {"XDG_STATE_HOME": str(directory / "state"), "HERENOW_CREATE_USERS": "true"}
        database = [] if mongodb is None else ["--database", mongodb]
        super().__init__(directory, "--dev", *database, **self.environment)

    def has_begun(self, life: int) -> bool:
        """Whether the code has begun so often, in this process."""
        return self.logged().count('"event": "started"') >= life

    def hang_up(self) -> None:
        """Send a SIGHUP."""
        self.program.send_signal(signal.SIGHUP)

    def counts(self) -> tuple[int, int]:
        """How many users the database has who are online, and who are not."""
        if self.mongodb is not None:
            with MongoClient[dict[str, Any]](self.mongodb) as client:
                users = client.get_default_database()["users"]
                return users.count_documents({"isOnline": True}), users.count_documents({"isOnline": False})
        with contextlib.closing(sqlite3.connect(self.directory / "herenow.db")) as database:
            count = "SELECT count(CASE WHEN isOnline THEN 1 END), count(CASE WHEN NOT isOnline THEN 1 END) FROM users"
            online, offline = database.execute(count).fetchone()
            return online, offline


@contextlib.contextmanager
def renewable(
    directory: Path, *, mongodb: str | None = None, where: tuple[str, ...] = Server.where
) -> Iterator[Renewable]:
    """Run one while inside; no traceback may be in its log."""
    server = Renewable(directory, mongodb=mongodb, where=where)
    try:
        server.wait_until_ready(40)
        yield server
    finally:
        server.close()
    assert "Traceback" not in server.logged(), server.logged()


async def stay(server: Renewable, user: str) -> None:
    """Be there, and come back as the stock client does."""
    while True:
        with contextlib.suppress(OSError, Refused, WebSocketException, TimeoutError):
            client = await Client.connect(server.address, user)
            await client.closed.wait()
        await asyncio.sleep(0.3)


async def watch(server: Renewable, users: set[str], seen: list[str]) -> None:
    """Watch everybody, over all reconnects: note each change, and each who is missing in a whole picture."""
    while True:
        with contextlib.suppress(OSError, Refused, WebSocketException, TimeoutError):
            client = await Client.connect(server.address, "watcher")
            there: set[str] = set()
            answer = await client.call("presence:watch", {"all": True})
            while True:
                there |= {user["userId"] for user in answer["users"] if user["isOnline"]}
                if "cursor" not in answer:
                    break
                answer = await client.call("presence:watch", {"all": True, "cursor": answer["cursor"]})
            seen += [f"{user} is missing" for user in users - there]
            while not client.closed.is_set() or client.diffs:
                for diff in client.diffs:
                    seen += [f"{change['userId']} {change['cause']}" for change in diff["changes"]]
                client.diffs.clear()
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def crowd(server: Renewable, users: int) -> AsyncIterator[list[str]]:
    """Users who stay, and one who watches them; gives what that one sees from now on."""
    names = {f"user-{number}" for number in range(users)}
    tasks = [asyncio.create_task(stay(server, name)) for name in names]
    await until(lambda: server.counts()[0] == users, 60)
    seen: list[str] = []
    tasks.append(asyncio.create_task(watch(server, names, seen)))
    await until(lambda: server.counts() == (users + 1, 0), 30)
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
