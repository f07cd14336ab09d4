"""Servers that follow one another at one address, as behind the name that a managed Redis keeps over a failover."""

import asyncio
from typing import Any

import redis_server
from support import free_port, until

AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A master waits for no further replicas before it sends the first one what it has."""


class Succession:
    """A master, and whoever takes its place. Each is a Valkey, which can change its port while it runs.

    Attributes:
        master: who answers at the address now.
        next: who follows it; ``None``: nobody does.
    """

    def __init__(self) -> None:
        self.master = redis_server.RedisServer("valkey", *AT_ONCE)
        self.next: redis_server.RedisServer | None = None
        self._port = self.master.port
        self._all = [self.master]
        self.master.start()

    async def follow(self, *, clock_s: int = 0) -> None:
        """Start somebody who follows the master, with a clock that is ahead by so much."""
        server = redis_server.RedisServer("valkey", *AT_ONCE, clock_s=clock_s)
        self._all.append(server)
        await asyncio.to_thread(server.start)
        server.call("REPLICAOF", "127.0.0.1", str(self._port))
        await until(lambda: _replication(server).get("master_link_status") == "up", 20)
        self.next = server

    def lose(self) -> None:
        """Let what the master takes from now on be known to nobody else."""
        self._next().call("REPLICAOF", "NO", "ONE")

    async def fail_over(self) -> None:
        """Kill the master, and put the next in its place."""
        self.master.kill()
        self._succeed()

    async def hand_over(self) -> None:
        """Put the next in the place of the master, which lives on as a replica; who is connected to it stays so."""
        old = self.master
        await until(lambda: _offset(old) == _offset(self._next()), 20)
        old.move(free_port())
        self._succeed()
        old.call("REPLICAOF", "127.0.0.1", str(self._port))

    def close(self) -> None:
        """Kill all."""
        for server in self._all:
            server.close()

    def _succeed(self) -> None:
        server = self._next()
        server.call("REPLICAOF", "NO", "ONE")
        server.move(self._port)
        self.master, self.next = server, None

    def _next(self) -> redis_server.RedisServer:
        assert self.next is not None, "nobody follows"
        return self.next


def _replication(server: redis_server.RedisServer) -> dict[str, Any]:
    found = server.call("INFO", "replication")
    assert isinstance(found, dict)
    return found


def _offset(server: redis_server.RedisServer) -> int:
    return int(_replication(server)["master_repl_offset"])
