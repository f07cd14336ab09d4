"""A Redis with a replica and a Sentinel: what the first has taken last may be lost when the second takes over."""

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis

import redis_server
from e2e.relay import Relay
from support import free_port, listens, until

NAME = "herenow"


class Watched:
    """A master, its replica, and a Sentinel that watches them.

    Attributes:
        master: at first.
        replica: which hears of it by way of a relay.
        url: of the Sentinel, as herenow takes it.
    """

    def __init__(self, master: redis_server.RedisServer, replica: redis_server.RedisServer, relay: Relay) -> None:
        self.master = master
        self.replica = replica
        self.url = ""
        self._relay = relay

    def lose(self) -> None:
        """Let what the master takes from now on be lost when it dies."""
        self._relay.silence()

    async def fail_over(self) -> None:
        """Kill the master."""
        self.master.kill()
        await self._relay.stop()
        await until(lambda: self.role() == "master", 20)

    def role(self) -> str:
        """What the replica is now."""
        found = self.replica.call("ROLE")
        assert isinstance(found, list)
        return str(found[0].decode())


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    """Run the three."""
    master = redis_server.RedisServer()
    master.start()
    relay = Relay(master.port)
    await relay.start()
    replica = redis_server.RedisServer("redis", "--replicaof", "127.0.0.1", str(relay.port))
    await asyncio.to_thread(replica.start)
    found = Watched(master, replica, relay)
    await until(lambda: "'master_link_status': 'up'" in _info(replica.port, "replication"), 20)
    port, directory = free_port(), Path(tempfile.mkdtemp(prefix="herenow-sentinel-"))
    (directory / "sentinel.conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\nsentinel monitor {NAME} 127.0.0.1 {master.port} 1\n"
        f"sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 3000\n"
    )
    command = [redis_server.find_program("redis"), str(directory / "sentinel.conf"), "--sentinel"]
    sentinel = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await until(lambda: listens(port), 10)
        found.url = f"redis+sentinel://127.0.0.1:{port}/{NAME}"
        await until(lambda: "'slaves': 1" in _info(port, "sentinel"), 20)
        yield found
    finally:
        sentinel.kill()
        await sentinel.wait()
        master.close()
        replica.close()


def _info(port: int, section: str) -> str:
    with redis.Redis(port=port) as client:
        return str(client.info(section))
