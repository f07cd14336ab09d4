"""Redis as processes, and the network between it and the nodes: late, cut both ways or one way, refused, silent.

A connection carries what is sent over it in order, both ways. What is cut off is kept, as the kernel keeps it, and may
still come when the cut is over, though whoever sent it has long given up.
"""

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from simulation.loop import Process, VirtualLoop
from simulation.redis_data import Data, Refused
from simulation.surroundings import START_US

Work = Callable[["Server", Callable[[Any], None]], None]
"""What a server does when a request reaches it; the answer goes where the second argument takes it."""


class Server:
    """One Redis process.

    Args:
        network: which it is in.
        name: its run id.
        wall_us: what its wall clock shows too much.

    Attributes:
        is_up: whether it runs.
        is_stalled: it answers nobody, and does what has come meanwhile afterwards.
        is_full: its memory is.
        connections: those that lead to it.
    """

    def __init__(self, network: "Network", name: str, wall_us: int = 0) -> None:
        self.name = name
        self.wall_us = wall_us
        self.is_up = True
        self.is_stalled = self.is_full = False
        self.connections: dict[Connection, None] = {}
        self._network = network
        self.data = Data(lambda: START_US + self.wall_us + round(network.loop.now_s * 1_000_000))
        self.data.added = self._added
        self._waiting: list[Callable[[], None]] = []  # for work, while it stalls
        self._readers: list[tuple[str, Callable[[], bool]]] = []

    def receive(self, work: Work, answer: Callable[[Any], None]) -> None:
        """Do what was sent, now or when it goes on."""
        if self.is_stalled:
            self._waiting.append(lambda: self.receive(work, answer))
        elif self.is_up:
            try:
                work(self, answer)
            except Refused as error:
                answer(ResponseError(str(error)))

    def go_on(self) -> None:
        """Stall no more."""
        self.is_stalled = False
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work()

    def end(self) -> None:
        """Run no more: all connections break."""
        self.is_up = False
        for connection in tuple(self.connections):
            self._network.later(partial(connection.fail, "Connection closed by server."))

    def wait_for(self, key: str, look: Callable[[], bool], wait_s: float, give_up: Callable[[], None]) -> None:
        """Look whenever a stream has a new entry, until that was of use, or the time is over."""
        reader = (key, look)
        self._readers.append(reader)

        def end() -> None:
            if reader in self._readers:
                self._readers.remove(reader)
                give_up()

        self._network.later(end, wait_s)

    def _added(self, key: str) -> None:
        self._network.on_entry(self.data.keys[key].entries[-1][1])
        waiting, self._readers = self._readers, []
        # Behind the script that is running, whoever else waits.
        self._network.later(lambda: self._look(key, waiting), 0.0)

    def _look(self, key: str, waiting: list[tuple[str, Callable[[], bool]]]) -> None:
        left = [(name, look) for name, look in waiting if name != key or not look()]
        self._readers = left + self._readers


class Link:
    """How what goes between a process and Redis fares.

    Attributes:
        requests_pass: what the process sends arrives.
        answers_pass: what is sent to the process arrives.
        delay_s: how long it takes, about.
    """

    def __init__(self) -> None:
        self.requests_pass = self.answers_pass = True
        self.delay_s = 0.0005
        self.kept: list[Callable[[], None]] = []

    @property
    def is_cut(self) -> bool:
        return not (self.requests_pass and self.answers_pass)


class Network:
    """All servers, and the ways to them.

    Args:
        loop: whose time it is.
        dice: of how long anything takes.

    Attributes:
        servers: all that there ever were.
        master: who answers at the address of Redis; ``None``: nobody.
        on_entry: told of each entry that a log of any server has, by its fields.
    """

    def __init__(self, loop: VirtualLoop, dice: random.Random) -> None:
        self.loop = loop
        self.dice = dice
        self.links: dict[Process, Link] = {}
        self._context = contextvars.copy_context()
        self.servers: list[Server] = []
        self.on_entry: Callable[[dict[bytes, bytes]], None] = lambda fields: None
        self.master: Server | None = self.new_server()

    def new_server(self, wall_us: int = 0) -> Server:
        """Start a Redis process that knows nothing, and that nobody finds yet."""
        server = Server(self, f"run-{len(self.servers) + 1}", wall_us)
        self.servers.append(server)
        return server

    def link(self, process: Process) -> Link:
        """The way of a process to Redis."""
        return self.links.setdefault(process, Link())

    def later(self, callback: Callable[[], None], delay_s: float = 0.0005) -> None:
        """Call something that belongs to no process, after a while."""
        self.loop.call_later(delay_s, callback, context=self._context)

    def cut(self, process: Process, *, requests: bool, answers: bool) -> None:
        """Let nothing pass, of what goes there or of what comes back."""
        link = self.link(process)
        link.requests_pass, link.answers_pass = not requests, not answers

    def mend(self, process: Process) -> None:
        """Let all pass again; half of what was kept still comes."""
        link = self.link(process)
        link.requests_pass = link.answers_pass = True
        kept, link.kept = link.kept, []
        for each in kept:
            if self.dice.random() < 0.5:
                self.later(each, self.dice.uniform(0, 0.05))

    def break_all(self, process: Process) -> None:
        """Break all connections of a process, as a firewall that was restarted does."""
        for server in self.servers:
            for connection in tuple(server.connections):
                if connection.process is process:
                    connection.close("Connection reset by peer")

    def break_some(self, process: Process) -> None:
        """Break one connection of a process, any of them."""
        mine = [each for server in self.servers for each in server.connections if each.process is process]
        if mine:
            self.dice.choice(mine).close("Connection reset by peer")

    def delay(self, link: Link) -> float:
        """How long the next thing takes."""
        return link.delay_s * self.dice.uniform(0.5, 2.0)


class Connection:
    """A connection of a process to a server, as the client library has it; ``on_connect`` and the two that follow are
    what is used of it where a server says who it is."""

    def __init__(self, network: Network, process: Process, server: Server) -> None:
        self.process = process
        self._network = network
        self._link = network.link(process)
        self._server = server
        self._asked: dict[asyncio.Future[Any], None] = {}
        self._sent_s = self._answered_s = 0.0
        self.is_open = True
        server.connections[self] = None

    async def on_connect(self) -> None:
        await self.ask(lambda server, answer: answer(b"OK"))

    async def send_command(self, *command: str) -> None:
        """Ask who it is: nothing else is asked so."""

    async def read_response(self) -> bytes:
        answer: bytes = await self.ask(lambda server, answer: answer(b"run_id:" + server.name.encode()))
        return answer

    def ask(self, work: Work) -> Awaitable[Any]:
        """Have the server do something; what it answers is awaited."""
        future: asyncio.Future[Any] = self._network.loop.create_future()
        if not self.is_open or not self._server.is_up:
            future.set_exception(RedisConnectionError("Connection closed by server."))
            return future
        self._asked[future] = None
        self._sent_s = max(self._sent_s, self._network.loop.now_s + self._network.delay(self._link))

        def arrive() -> None:
            self._server.receive(work, lambda value: self._answer(future, value))

        if self._link.requests_pass:
            self._network.later(arrive, self._sent_s - self._network.loop.now_s)
        else:
            self._link.kept.append(arrive)
        return future

    def _answer(self, future: "asyncio.Future[Any]", value: Any) -> None:
        self._answered_s = max(self._answered_s, self._network.loop.now_s + self._network.delay(self._link))

        def arrive() -> None:
            if future in self._asked:
                del self._asked[future]
                _resolve(future, value)

        if self._link.answers_pass:
            self._network.later(arrive, self._answered_s - self._network.loop.now_s)
        else:
            self._link.kept.append(arrive)

    def fail(self, reason: str) -> None:
        """Break, seen from the process; unless nothing gets through to it."""
        if self.is_open and self._link.answers_pass:
            self.close(reason)

    def close(self, reason: str = "Connection closed.") -> None:
        """Be over."""
        self.is_open = False
        self._server.connections.pop(self, None)
        asked, self._asked = self._asked, {}
        for future in asked:
            _resolve(future, RedisConnectionError(reason))


def _resolve(future: "asyncio.Future[Any]", value: Any) -> None:
    if future.done():
        return
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
