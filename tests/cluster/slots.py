"""A Redis Cluster: three primaries that share the slots, each with a replica."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import redis
from redis.crc import key_slot

import redis_server
from support import free_port, listens, until

SLOTS = 16384
TIMEOUT_MS = 1000
"""How long a node may not answer before the others take it for dead."""


class Slots:
    """Six processes.

    Attributes:
        primaries: of the slots in their order, at first.
        replicas: of each of them, in the same order.
    """

    def __init__(self) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(TIMEOUT_MS))
        servers = [redis_server.RedisServer("redis", *options, port=_free_port()) for _ in range(6)]
        self.primaries, self.replicas = servers[:3], servers[3:]

    @property
    def url(self) -> str:
        """The address, as herenow takes it."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.primaries)
        return f"redis+cluster://{hosts}"

    def owner(self, key: str) -> redis_server.RedisServer:
        """The process that has a key now."""
        (server,) = [each for each in (*self.primaries, *self.replicas) if _has(each, key_slot(key.encode()))]
        return server

    async def start(self) -> None:
        """Start all, and let them find each other."""
        every = (*self.primaries, *self.replicas)
        for server in every:
            await asyncio.to_thread(server.start)
        for number, primary in enumerate(self.primaries):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3
            primary.call("CLUSTER", "ADDSLOTS", *map(str, range(first, last)))
            primary.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
        for server in every[1:]:
            server.call("CLUSTER", "MEET", "127.0.0.1", str(every[0].port))
        await until(lambda: all(_known(server) == len(every) for server in every), 20)
        for primary, replica in zip(self.primaries, self.replicas, strict=True):
            replica.call("CLUSTER", "REPLICATE", _text(primary.call("CLUSTER", "MYID")))
        await until(lambda: all("cluster_state:ok" in _text(server.call("CLUSTER", "INFO")) for server in every), 20)
        await until(lambda: all("'master_link_status': 'up'" in _info(server) for server in self.replicas), 20)

    def move(self, key: str) -> redis_server.RedisServer:
        """Move the slot of a key to another primary, with all that is in it; returns where it is then."""
        slot, source = str(key_slot(key.encode())), self.owner(key)
        target = next(each for each in self.primaries if each is not source and listens(each.port))
        source_id, target_id = (_text(each.call("CLUSTER", "MYID")) for each in (source, target))
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, "100"):
            assert isinstance(keys, list)
            names = [_text(each) for each in keys]
            source.call("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", *names)
        for each in (target, source):
            each.call("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        return target

    def close(self) -> None:
        """End all."""
        for server in (*self.primaries, *self.replicas):
            server.close()


@contextlib.asynccontextmanager
async def slots() -> AsyncIterator[Slots]:
    """Run one."""
    found = Slots()
    try:
        await found.start()
        yield found
    finally:
        found.close()


def _free_port() -> int:
    """A port whose second one, for the other nodes, is one too, and free."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError, OverflowError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + 10_000))
            return port


def _has(server: redis_server.RedisServer, slot: int) -> bool:
    try:
        found = server.call("CLUSTER", "SLOTS")
    except redis.exceptions.ConnectionError:
        return False
    assert isinstance(found, list)
    return any(int(first) <= slot <= int(last) and int(node[1]) == server.port for first, last, node, *_ in found)


def _known(server: redis_server.RedisServer) -> int:
    return len(_text(server.call("CLUSTER", "NODES")).splitlines())


def _info(server: redis_server.RedisServer) -> str:
    with redis.Redis(port=server.port) as client:
        return str(client.info("replication"))


def _text(answer: object) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)
