"""A cluster of herenow servers in processes of their own, on a Redis and a database of their own."""

import contextlib
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymongo import MongoClient

import redis_server
from cluster.succession import Succession
from e2e.servers import PresenceServer
from support import http_get

LEASE_S = 2.0
BEAT_S = 0.5
RESTART_GRACE_S = 10.0
"""Shorter than by default, so that the tests do not wait for so long."""


class Node(PresenceServer):
    """One node.

    Args:
        directory: for its log.
        number: which one.
        database: the address of the database of all.
        redis: the Redis of all.
        settings: further settings, by name.
    """

    def __init__(self, directory: Path, number: int, database: str, redis: str, **settings: Any) -> None:
        self._address = database
        super().__init__(
            directory / f"node-{number}.db",
            **{
                "cluster": redis,
                "node_name": f"n{number}",
                "node_lease_s": LEASE_S,
                "node_beat_s": BEAT_S,
                "restart_grace_s": RESTART_GRACE_S,
                **settings,
            },
        )

    @property
    def address(self) -> str:
        return self._address

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "XDG_STATE_HOME": str(self.database.parent / self.database.stem)}

    def rows(self) -> dict[str, tuple[bool, str]]:
        if self._address.startswith("mongodb"):
            with MongoClient[dict[str, Any]](self._address) as client:
                users = client.get_default_database()["users"].find({}, {"isOnline": 1, "lastActive": 1})
                return {str(user["_id"]): (user["isOnline"], str(user["lastActive"])) for user in users}
        path = self._address.removeprefix("sqlite:///")
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as connection:
            found = connection.execute("SELECT id, isOnline, lastActive FROM users").fetchall()
        connection.close()
        return {str(user): (online == 1, str(active)) for user, online, active in found}

    def pause(self) -> None:
        """Stop it in its tracks."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stats(self) -> dict[str, Any]:
        """Read how many it says are online."""
        found: dict[str, Any] = http_get(f"{self.url}/v1/stats", timeout=5).json()
        return found

    def online(self) -> set[str]:
        """Read whom it says are online."""
        return {user["userId"] for user in http_get(f"{self.url}/v1/online?limit=1000", timeout=5).json()["users"]}


class Cluster:
    """Some nodes.

    Attributes:
        redis: the Redis of all.
        succession: where it is one of several that follow one another.
        nodes: not started yet.
        prefix: of all keys.
    """

    def __init__(
        self,
        directory: Path,
        redis: redis_server.RedisServer,
        number: int,
        database: str | None,
        url: str | None,
        **settings: Any,
    ) -> None:
        self.redis = redis
        self.succession: Succession | None = None
        self._url = url or redis.url
        self._directory = directory
        self._database = database or f"sqlite:///{directory}/app.db"
        self.prefix = redis_server.fresh_prefix()
        self._settings: dict[str, Any] = {"cluster_prefix": self.prefix, **settings}
        self.nodes = [self.make(each) for each in range(1, number + 1)]

    def make(self, number: int, **settings: Any) -> Node:
        """Make a further node."""
        return Node(self._directory, number, self._database, self._url, **{**self._settings, **settings})

    def keys(self, pattern: str) -> list[str]:
        """Find its keys in Redis."""
        found = self.redis.call("KEYS", pattern)
        assert isinstance(found, list)
        return [key.decode() for key in found]

    def start(self) -> None:
        """Start all nodes."""
        for node in self.nodes:
            node.start()


@contextlib.contextmanager
def running(
    directory: Path,
    number: int,
    *,
    redis: redis_server.RedisServer | None = None,
    database: str | None = None,
    url: str | None = None,
    **settings: Any,
) -> Iterator[Cluster]:
    """Run a cluster; at the end its nodes are killed."""
    own = redis is None
    server = redis or redis_server.RedisServer()
    if own:
        server.start()
    cluster = Cluster(directory, server, number, database, url, **settings)
    try:
        cluster.start()
        yield cluster
    finally:
        for node in cluster.nodes:
            if node.is_running():
                node.resume()
                node.kill()
        if own:
            server.close()
