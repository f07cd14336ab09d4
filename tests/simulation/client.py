"""The client of Redis in a simulated world: what ``connect()`` returns, with the commands that herenow gives."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from simulation import scripts
from simulation.loop import PROCESS, Process
from simulation.network import Connection, Network, Server, Work
from simulation.redis_data import WRITES, Argument, Refused

Check = Callable[[Any], Awaitable[None]]
Command = tuple[Argument, ...]


def _same(value: Any) -> Any:
    return value


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


class Commands:
    """The commands by their names in the client library, each as what goes over the wire and how the answer is read.

    A set is given as a list here, so that its order is the same in each run.
    """

    def _do(self, command: Command, read: Callable[[Any], Any] = _same) -> Any:
        raise NotImplementedError

    def ping(self) -> Any:
        return self._do(("PING",), bool)

    def get(self, key: str) -> Any:
        return self._do(("GET", key))

    def delete(self, *keys: str) -> Any:
        return self._do(("DEL", *keys))

    def hexists(self, key: str, field: Argument) -> Any:
        return self._do(("HEXISTS", key, field))

    def hget(self, key: str, field: Argument) -> Any:
        return self._do(("HGET", key, field))

    def hmget(self, key: str, fields: Sequence[Argument]) -> Any:
        return self._do(("HMGET", key, *fields))

    def hgetall(self, key: str) -> Any:
        return self._do(("HGETALL", key), _pairs)

    def hlen(self, key: str) -> Any:
        return self._do(("HLEN", key))

    def hset(self, key: str, field: Argument, value: Argument) -> Any:
        return self._do(("HSET", key, field, value))

    def hdel(self, key: str, *fields: Argument) -> Any:
        return self._do(("HDEL", key, *fields))

    def hscan(self, key: str, cursor: int, count: int) -> Any:
        return self._do(("HSCAN", key, cursor, "COUNT", count), lambda found: (int(found[0]), _pairs(found[1])))

    def smembers(self, key: str) -> Any:
        return self._do(("SMEMBERS", key))

    def scard(self, key: str) -> Any:
        return self._do(("SCARD", key))

    def sscan(self, key: str, cursor: int, count: int) -> Any:
        return self._do(("SSCAN", key, cursor, "COUNT", count), lambda found: (int(found[0]), found[1]))

    def zrange(self, key: str, start: Argument, end: Argument, *, byscore: bool, offset: int, num: int) -> Any:
        return self._do(("ZRANGE", key, start, end, "BYSCORE", "LIMIT", offset, num))

    def xrange(self, key: str, min: Argument = "-", max: Argument = "+", count: int | None = None) -> Any:
        return self._do(("XRANGE", key, min, max, *_count(count)))

    def xrevrange(self, key: str, max: Argument = "+", min: Argument = "-", count: int | None = None) -> Any:
        return self._do(("XREVRANGE", key, max, min, *_count(count)))


def _count(count: int | None) -> Command:
    return () if count is None else ("COUNT", count)


class Client(Commands):
    """A client with a pool of connections.

    Args:
        network: through which it reaches Redis.
        timeout_s: how long one answer may take.
        check: called with each new connection.

    Attributes:
        connection_pool: itself: of a pool only ``disconnect`` is used.
    """

    def __init__(self, network: Network, *, timeout_s: float, check: Check | None) -> None:
        self._network = network
        self._timeout_s = timeout_s
        self._check = check
        self._idle: list[Connection] = []
        self._all: dict[Connection, None] = {}
        process = PROCESS.get()
        self._process = process if process is not None else Process("nobody", network.loop)
        self.connection_pool = self

    def register_script(self, source: str) -> Callable[..., Awaitable[Any]]:
        """Make a script callable: its twin is what is called."""
        name = scripts.name_of(source)

        async def call(keys: Sequence[str], args: Sequence[Argument]) -> Any:
            def work(server: Server, answer: Callable[[Any], None]) -> None:
                answer(scripts.run(name, server.data, keys, args, is_full=server.is_full))

            return await self._ask(work)

        return call

    async def info(self) -> dict[str, str]:
        """Say how Redis is set up."""
        await self.ping()
        return {"maxmemory_policy": "noeviction"}

    async def xread(self, streams: dict[str, Argument], count: int, block: int) -> Any:
        ((key, after),) = streams.items()

        def work(server: Server, answer: Callable[[Any], None]) -> None:
            def look() -> bool:
                found = server.data.call("XREAD", key, after, "COUNT", count)
                if found:
                    answer([[key.encode(), found]])
                return bool(found)

            if not look():
                server.wait_for(key, look, block / 1000, lambda: answer([]))

        return await self._ask(work)

    def pipeline(self, transaction: bool) -> "Pipeline":
        """Gather commands that go together."""
        return Pipeline(self)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Let go of all connections, also of those over which something is asked, or only of the others."""
        for connection in tuple(self._all if inuse_connections else self._idle):
            connection.close()
            self._all.pop(connection, None)
        self._idle = []

    async def aclose(self) -> None:
        """Be over."""
        await self.disconnect()

    def _do(self, command: Command, read: Callable[[Any], Any] = _same) -> Any:
        return self.do_all([(command, read)], lambda answers: answers[0])

    async def do_all(
        self, commands: list[tuple[Command, Callable[[Any], Any]]], take: Callable[[list[Any]], Any]
    ) -> Any:
        """Do commands, one after the other, in one trip."""

        def work(server: Server, answer: Callable[[Any], None]) -> None:
            for (name, *_), _ in commands:
                if server.is_full and name in WRITES and name not in ("DEL", "HDEL"):
                    raise Refused("OOM command not allowed when used memory > 'maxmemory'")
            answer([server.data.call(str(name), *rest) for (name, *rest), _ in commands])

        answers = await self._ask(work)
        return take([read(answer) for answer, (_, read) in zip(answers, commands, strict=True)])

    async def _ask(self, work: Work) -> Any:
        connection = await self._connection()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await connection.ask(work)
        except TimeoutError:
            self._drop(connection)
            raise RedisTimeoutError("Timeout reading from redis:6379") from None
        except (RedisConnectionError, asyncio.CancelledError):
            self._drop(connection)
            raise
        except BaseException:  # an error that the server has answered
            self._idle.append(connection)
            raise
        self._idle.append(connection)
        return answer

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            self._all.pop(connection, None)
        server = self._network.master
        if server is None or not server.is_up or self._process.is_killed:
            await asyncio.sleep(0.0005)
            raise RedisConnectionError("Error 111 connecting to redis:6379. Connect call failed.")
        connection = Connection(self._network, self._process, server)
        self._all[connection] = None
        try:
            async with asyncio.timeout(self._timeout_s):
                await (connection.on_connect() if self._check is None else self._check(connection))
        except TimeoutError:
            self._drop(connection)
            raise RedisTimeoutError("Timeout connecting to server") from None
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._all.pop(connection, None)


class Pipeline(Commands):
    """Commands that go together."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._gathered: list[tuple[Command, Callable[[Any], Any]]] = []

    async def __aenter__(self) -> "Pipeline":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def _do(self, command: Command, read: Callable[[Any], Any] = _same) -> Any:
        self._gathered.append((command, read))
        return self

    async def execute(self) -> Any:
        """Do them."""
        return await self._client.do_all(self._gathered, _same)
