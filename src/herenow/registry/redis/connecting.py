"""The way to Redis: by its address, by that of the Sentinels which know where it is, or of nodes of a Redis Cluster.

Each way leads to one process, which holds all that it is asked for, and to the same one as before.

No try is left to the client library: it would repeat a commit that was done, and whose answer was lost.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from herenow.registry.redis.owner import Owner, OwnersConnection, OwnersTlsConnection

SENTINEL = ("redis+sentinel", "rediss+sentinel")
"""How the address of Sentinels begins: ``redis+sentinel://one:26379,two:26379/name``."""

CLUSTER = ("redis+cluster", "rediss+cluster")
"""How the address of a Redis Cluster begins: ``redis+cluster://one:6379,two:6379``, of any of its nodes."""


class AnotherProcess(RedisConnectionError):
    """A connection leads to another Redis process than the nodes have agreed on: one that may know less."""


class Identity:
    """Which Redis process the nodes have agreed on, as far as this one knows.

    Attributes:
        process: its run id; empty until the first connection has told it.
        met: another one that a connection has led to since.
        is_of_cluster: whether it is a node of a Redis Cluster.
    """

    def __init__(self) -> None:
        self.process = ""
        self.met = ""
        self.is_of_cluster = False

    async def check(self, connection: AbstractConnection) -> None:
        """Greet, and see who answers.

        Raises:
            AnotherProcess: somebody else than before.
        """
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        answer = await connection.read_response()
        text = answer.decode() if isinstance(answer, bytes) else str(answer)
        told = dict(line.partition(":")[::2] for line in text.splitlines())
        process = told.get("run_id", "?").strip()
        self.is_of_cluster = told.get("redis_mode", "").strip() == "cluster"
        if not self.process:
            self.process = process
        elif process != self.process:
            self.met = process
            raise AnotherProcess("another Redis process answers than before")

    def agree(self) -> None:
        """Speak to the one that was met from now on."""
        self.process, self.met = self.met or self.process, ""


def connect(
    url: str, key: str, *, timeout_s: float, check: Callable[[AbstractConnection], Awaitable[None]] | None
) -> Redis:
    """Make a client of Redis that tries nothing twice by itself.

    Args:
        url: ``redis://user:password@host:6379/0``, ``rediss://…`` (TLS), ``unix:///path``, that of Sentinels, or of a
            Redis Cluster.
        key: one of those that are asked for: in a Redis Cluster they all are where this one is.
        timeout_s: how long one answer may take.
        check: called with each new connection, in the place of the usual greeting.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "client_name": "herenow",
        "redis_connect_func": check,
    }
    address = urlsplit(url)
    if address.scheme not in (*SENTINEL, *CLUSTER):
        return Redis.from_url(url, **options)
    name, _, database = address.path.strip("/").partition("/")
    credentials, _, hosts = address.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    known = {"username": unquote(user) or None, "password": unquote(password) or None}
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    if address.scheme in CLUSTER:
        has_tls = address.scheme.startswith("rediss")
        asking = {**known, **timeouts, "retry": Retry(NoBackoff(), 0), "ssl": has_tls}
        kind: Any = OwnersTlsConnection if has_tls else OwnersConnection
        owner = Owner([_host(each, 6379) for each in hosts.split(",")], key, asking)
        pool_options: dict[str, Any] = {**known, **options, "owner": owner}
        return Redis.from_pool(ConnectionPool(connection_class=kind, **pool_options))
    sentinels = [_host(each, 26379) for each in hosts.split(",")]
    if address.scheme.startswith("rediss"):
        options["ssl"] = timeouts["ssl"] = True
    manager: Any = Sentinel(  # type: ignore[no-untyped-call]
        sentinels, sentinel_kwargs=timeouts, **known
    )
    client: Redis = manager.master_for(name, db=int(database or 0), **options)
    return client


def _host(text: str, port_by_default: int) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if ":" in text and not text.endswith("]") else (text, "", port_by_default)
    return host.strip("[]"), int(port)
