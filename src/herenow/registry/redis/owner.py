"""The way to the one node of a Redis Cluster that has the keys of a shard: all of them are in one slot.

The client library's own client of a Redis Cluster sends each command wherever it belongs, over connections to all of
its nodes. Ours must know which process it speaks to, and notice when that is another: so it has connections to the one
node, as with a Redis alone, and asks for the way again whenever a connection is made.
"""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError


class Owner:
    """Finds which node of a Redis Cluster has some keys, wherever they have moved.

    Args:
        nodes: some of its nodes, by host and port.
        key: one of the keys: they all have one hash tag.
        options: for the connections to these nodes.
    """

    def __init__(self, nodes: Sequence[tuple[str, int]], key: str, options: dict[str, Any]) -> None:
        self._nodes = list(nodes)
        self._slot = key_slot(key.encode())
        self._options = options

    async def find(self) -> tuple[str, int]:
        """Ask one node after the other; the first that answers is asked first the next time.

        Raises:
            ConnectionError: none of them answers, or nobody has the keys now.
        """
        for node in tuple(self._nodes):
            try:
                found = await self._ask(*node)
            except (RedisError, OSError):
                self._nodes.remove(node)
                self._nodes.append(node)
                continue
            if found is not None:
                return found
        raise RedisConnectionError("no node of the Redis Cluster says who has the keys")

    async def _ask(self, host: str, port: int) -> tuple[str, int] | None:
        node: Any = Redis(host=host, port=port, **self._options)
        async with node:
            for first, last, (its_host, its_port, *_), *_ in await node.execute_command("CLUSTER SLOTS"):
                if int(first) <= self._slot <= int(last):
                    name = its_host.decode() if isinstance(its_host, bytes) else its_host
                    return name or host, int(its_port)  # without a name it is the one that was asked
        return None


class OwnersConnection(Connection):
    """A connection to whichever node has the keys when it is made."""

    def __init__(self, *, owner: Owner, **options: Any) -> None:
        super().__init__(**options)
        self._owner = owner

    async def connect(self) -> None:
        if not self.is_connected:
            self.host, self.port = await self._owner.find()
        await super().connect()  # type: ignore[no-untyped-call]


class OwnersTlsConnection(OwnersConnection, SSLConnection):
    """The same, with TLS."""
