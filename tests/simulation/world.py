"""A simulated world: three nodes, a Redis, a database, and people who come and go, all of it from one number.

:func:`run` lives one through and says what was wrong with it.
"""

import asyncio
import contextlib
import contextvars
import gc
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from herenow.errors import RegistryUnavailable, SettingsInvalid, StoreError
from herenow.model import Claim, Claimed, Closing
from herenow.registry.redis.blob import decode
from herenow.registry.redis.keys import Keys
from herenow.times import unix_ms
from simulation.client import Client
from simulation.faults import FAULTS
from simulation.loop import PROCESS, Process, VirtualLoop
from simulation.network import Network, Server
from simulation.nodes import TENANTS, Node, settings_of
from simulation.oracle import Oracle
from simulation.people import How, Session, User
from simulation.store import Database, MemoryStore
from simulation.surroundings import surrounded
from simulation.troubles import Troubles

LOOK_EVERY_S = 0.5
"""Between two looks at what the nodes show."""

ADMITTED_WITHIN_S = 8.0
"""A client waits so long to be let in; then it tries another node."""


Scene = Callable[["World"], Awaitable[None]]
"""What is to happen in a world."""


@dataclass
class Outcome:
    """What a world came to.

    Attributes:
        seed: its number.
        failures: what was wrong, a sentence each.
        lives: sessions of clients.
        changes: how many changes the nodes were told.
        faults: how often each kind was injected.
        hours: of its own time.
        trace: what happened, if it was asked for.
    """

    seed: int
    failures: list[str]
    lives: int
    changes: int
    faults: dict[str, int]
    hours: float
    trace: list[str] = field(default_factory=list)


class World:
    """One world.

    Args:
        seed: all that is random comes from it.
        loop: runs it.
        seconds: how long things go wrong.
        kinds: what does; by default anything.

    Attributes:
        nodes: those that were started, and not killed or stopped since.
        users: who may be there, by tenant and name.
        redis_is_in_trouble: one trouble of Redis at a time.
        are_named: whether nodes are given names, which nobody else may have.
    """

    def __init__(self, seed: int, loop: VirtualLoop, seconds: float, kinds: Sequence[str]) -> None:
        self.loop = loop
        self.dice = random.Random(f"world {seed}")
        self._seconds = seconds
        self._kinds = kinds
        self._context = contextvars.copy_context()
        self.network = Network(loop, random.Random(f"network {seed}"))
        self.database = Database()
        self.nodes: list[Node] = []
        self.users: dict[tuple[str | None, str], User] = {}
        self.troubles = Troubles(loop)
        self.redis_is_in_trouble = False
        self.lives = 0
        self.is_calm = False
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._starting: dict[str, Node] = {}
        self._pending: dict[asyncio.Task[object], str] = {}
        self.are_named = self.dice.random() < 0.3
        self._restart_grace_s = self.dice.choice((9.5, 15.0))
        for number in range(self.dice.randrange(4, 9)):
            tenant = self.dice.choice((None, None, "acme"))
            name = f"user-{number}"
            self.users[tenant, name] = User(tenant, name, may_hide=number == 0)
        self.settings = settings_of(None, self._restart_grace_s)
        self.oracle = Oracle(self.users, self.troubles, self.settings, self.note)
        self.network.on_entry = self.oracle.committed
        loop.set_exception_handler(self._unforeseen)

    def _unforeseen(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        process = PROCESS.get()
        if process is None or not process.is_killed:
            self.oracle.fail(f"{context['message']}: {context.get('exception')!r}")

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def some_node(self, dice: random.Random) -> Node:
        """Any of those that live."""
        return dice.choice(self.nodes)

    async def start(self, name: str) -> None:
        """Start a node, as its supervisor does: again until it stays."""
        while True:
            process = Process(name, self.loop)
            process.wall_us = round(self.dice.choice((0.0, self.dice.uniform(-300, 300))) * 1_000_000)
            process.steady_s = self.dice.uniform(0, 1e6)
            store = MemoryStore(self.database, process, random.Random(self.dice.random()))
            settings = settings_of(name if self.are_named else None, self._restart_grace_s)

            async def begin() -> Node:
                node = Node(process, store, settings, self.oracle.heard, self.oracle.fail)  # noqa: B023
                self._starting[name] = node
                await node.start()
                return node

            try:
                node = await process.start(begin())
            except (RegistryUnavailable, StoreError, SettingsInvalid) as error:
                if isinstance(error, SettingsInvalid) and "another node's, which lives" not in str(error):
                    self.oracle.fail(f"{name} does not start: {error}")
                await process.kill()
                await asyncio.sleep(self.dice.uniform(0.5, 2.0))
            else:
                self.nodes.append(node)
                self.note(f"{name} has started")
                return

    async def kill(self, node: Node) -> None:
        """``kill -9``."""
        if node not in self.nodes:
            return
        self.note(f"{node.name} is killed")
        self.nodes.remove(node)
        for session in tuple(node.sessions.values()):
            session.ended(How.LOST)
        self.network.break_all(node.process)
        await node.process.kill()

    async def stop(self, node: Node) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        if node not in self.nodes:
            return
        self.note(f"{node.name} is stopped")
        self.nodes.remove(node)
        try:
            async with asyncio.timeout(10.0):
                await asyncio.shield(node.process.start(node.stop()))
        except TimeoutError:
            if not node.process.is_paused and not self.network.link(node.process).is_cut:
                self.oracle.fail(f"{node.name} does not end within 10 s")
        for session in tuple(node.sessions.values()):
            session.ended(How.LOST)
        self.network.break_all(node.process)
        await node.process.kill()

    # -- Redis ---------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def redis_trouble(self, kind: str | None, *, is_away: bool = True) -> AsyncIterator[Server]:
        """Something is wrong with Redis; with one thing at a time."""
        while self.redis_is_in_trouble or self.network.master is None:  # noqa: ASYNC110 - it costs nothing here
            await asyncio.sleep(0.1)
        self.redis_is_in_trouble = True
        master = self.network.master
        nodes = tuple(self.nodes) if is_away else ()
        try:
            with self.troubles.of(kind or "of it", *nodes, counts=kind is not None):
                yield master
        finally:
            self.redis_is_in_trouble = False

    # -- people --------------------------------------------------------------------------------------------------------

    async def live(self, user: User, dice: random.Random) -> None:
        """One device of a user: it comes, does something, goes, and comes back."""
        await asyncio.sleep(dice.uniform(0, 5))
        while True:
            if self.is_calm and dice.random() < 0.5:
                return
            session = await self.connect(user, dice)
            if session is None:
                await asyncio.sleep(dice.uniform(0.5, 5.0))
                continue
            await self._use(session, dice)
            if self.is_calm and session.is_open:
                return
            if session.is_open:
                self.end_session(session, How.LEFT if dice.random() < 0.4 else How.CLOSED)
            is_coming_back = session.how not in (How.LEFT,) or dice.random() < 0.2
            await asyncio.sleep(dice.uniform(0.1, 5.0) if is_coming_back else dice.expovariate(1 / 8))

    async def connect(self, user: User, dice: random.Random) -> Session | None:
        """Come to any node; ``None``: it does not let them in."""
        nodes = [node for node in self.nodes if node.is_serving]
        if not nodes:
            return None
        return await self.come(user, dice.choice(nodes))

    async def come(self, user: User, node: Node) -> Session | None:
        """Come to a node; ``None``: it does not let them in."""
        self.lives += 1
        session = Session(user, node, f"c{self.lives}", self.loop)
        user.sessions.append(session)
        task = self._in(node, node.admit(session), f"connect of {user}")
        await asyncio.wait([task], timeout=ADMITTED_WITHIN_S)
        if task.done() and not task.cancelled() and task.exception() is None and task.result():
            self.note(f"{user} is in on {node.name} ({session.connection_id})")
            return session
        if not task.done():
            self.end_session(session, How.CLOSED)
        session.ended(How.CLOSED)
        return None

    async def _use(self, session: Session, dice: random.Random) -> None:
        """Do what one does while one is there, for a while, or until the connection is over."""
        ends_s = self.loop.now_s + dice.expovariate(1 / 12)
        while session.is_open and (self.is_calm or self.loop.now_s < ends_s):
            if self.is_calm:
                return
            await asyncio.sleep(min(dice.expovariate(1 / 4), 4.0))
            if session.is_open and not session.node.process.is_killed:
                self._act(session, dice)

    def _act(self, session: Session, dice: random.Random) -> None:
        user, node = session.user, session.node
        registry, deed = node.registry(user), dice.randrange(4)
        if deed == 0:
            claim = self._some_claim(user, dice)
            self._in(node, _await(lambda: registry.claim(user.name, claim)), f"claim of {user}")
        elif deed == 1:
            self._in(node, _await(lambda: registry.idle(user.name, session.connection_id)), f"idle of {user}")
        else:
            self._in(node, _await(lambda: registry.active(user.name, session.connection_id)), f"active of {user}")

    def _some_claim(self, user: User, dice: random.Random) -> Claim | None:
        kinds = [None, Claimed.AWAY, Claimed.BUSY, *([Claimed.INVISIBLE] if user.may_hide else [])]
        until_ms = None if dice.random() < 0.5 else unix_ms() + round(dice.uniform(1, 20) * 1000)
        text = dice.choice([None, "à midi"])
        return dice.choice([None, Claim(dice.choice(kinds), text, until_ms)])

    def end_session(self, session: Session, how: How) -> None:
        """A client goes: its node hears of it once it comes to it."""
        session.ended(how)
        self.note(f"{session.user} goes ({session.connection_id}): {how}")
        closing = Closing.LEFT if how is How.LEFT else Closing.CLOSED
        session.node.process.do(lambda: session.node.forget(session, closing))

    async def evict(self, node: Node, user: User) -> None:
        """Have an operator send a user away."""
        user.swept_s = self.loop.now_s + 1000
        registry = node.registry(user)
        task = self._in(node, _await(lambda: registry.evict([user.name], disconnect=True)), f"eviction of {user}")
        await asyncio.wait([task])
        user.swept_s = self.loop.now_s

    def _in(self, node: Node, coroutine: Coroutine[Any, Any, object], what: str) -> "asyncio.Task[object]":
        task = node.process.start(coroutine)
        self._pending[task] = what

        def done(task: "asyncio.Task[object]") -> None:
            del self._pending[task]
            if not task.cancelled() and (error := task.exception()) is not None:
                if not isinstance(error, RegistryUnavailable) and not node.process.is_killed:
                    self.oracle.fail(f"{what} on {node.name} fails: {error!r}")

        task.add_done_callback(done, context=self._context)
        return task

    # -- its course ----------------------------------------------------------------------------------------------------

    async def run(self, scene: "Scene | None" = None) -> None:
        """Live.

        Args:
            scene: what happens; by default people come and go, and one thing after the other goes wrong.
        """
        for number in (1, 2, 3):
            await self.start(f"n{number}")
        watching = asyncio.create_task(self._watch())
        await (self._live() if scene is None else scene(self))
        await asyncio.sleep(self.settings.node_lease_s + self.settings.restart_grace_s + 6.0)
        watching.cancel()
        self._judge()
        for node in tuple(self.nodes):
            await self.kill(node)

    async def _live(self) -> None:
        people = [
            asyncio.create_task(self.live(user, random.Random(self.dice.random())))
            for user in self.users.values()
            for _ in range(self.dice.choice((1, 1, 2)))
        ]
        await self._go_wrong()
        self.is_calm = True
        await asyncio.wait(people)

    async def _go_wrong(self) -> None:
        """Play one fault after the other, and sometimes two at a time."""
        pause_s = self.dice.choice((3.0, 6.0, 25.0))
        ends_s = self.loop.now_s + self._seconds
        weights = [FAULTS[kind][1] for kind in self._kinds]
        played: list[asyncio.Task[None]] = []
        await asyncio.sleep(self.dice.uniform(1, 8))
        while self.loop.now_s < ends_s:
            while not self.nodes:  # noqa: ASYNC110 - it costs nothing here
                await asyncio.sleep(0.5)
            kind = self.dice.choices(self._kinds, weights)[0]
            self.note(f"-- {kind}")
            played.append(asyncio.ensure_future(FAULTS[kind][0](self, random.Random(self.dice.random()))))
            if self.dice.random() < 0.7:
                await asyncio.wait(played[-1:])
            await asyncio.sleep(self.dice.expovariate(1 / pause_s))
        for each in played:
            await each

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.oracle.look(self.nodes)

    def _judge(self) -> None:
        for what in self._pending.values():
            self.oracle.fail(f"at the end nobody has answered: {what}")
        assert self.network.master is not None
        keys, data = Keys(self.settings.cluster_prefix), self.network.master.data
        held = {
            tenant: {
                name.decode(): set(decode(name.decode(), blob).user.connections)
                for name, blob in data.keys.get(keys.users(tenant or ""), {}).items()
            }
            for tenant in TENANTS
        }
        self.oracle.judge(self.nodes, self.database.online(), held)

    def note(self, what: str) -> None:
        """Note what happens, for whoever reads the trace."""
        _LOG.info("%s", what)


_LOG = logging.getLogger("herenow.simulation")


async def _await(ask: Callable[[], Awaitable[object]]) -> object:
    return await ask()


class _Trace(logging.Handler):
    """Takes down all lines of the log, with the time of the world and the process."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        process = PROCESS.get()
        self.lines.append(f"{self._loop.now_s:9.3f} {process.name if process else '--':3} {record.getMessage()}")


@contextlib.contextmanager
def _traced(loop: VirtualLoop, *, is_wanted: bool) -> Iterator[list[str]]:
    """Keep what is logged, or log nothing."""
    logger, trace = logging.getLogger("herenow"), _Trace(loop)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO if is_wanted else logging.CRITICAL + 1)
    logger.propagate = False
    logger.addHandler(trace)
    try:
        yield trace.lines
    finally:
        logger.removeHandler(trace)
        logger.setLevel(level)
        logger.propagate = propagate


def run(
    seed: int,
    *,
    seconds: float = 30.0,
    kinds: Sequence[str] = tuple(FAULTS),
    is_traced: bool = False,
    scene: Scene | None = None,
) -> Outcome:
    """Live one world through.

    Args:
        seed: which.
        seconds: how long things go wrong in it.
        kinds: what does.
        is_traced: keep what happened.
        scene: what happens instead.
    """
    loop = VirtualLoop(seed)
    asyncio.set_event_loop(loop)
    world: World | None = None

    def connect(url: str, key: str, *, timeout_s: float, check: object) -> Client:
        assert world is not None
        return Client(world.network, timeout_s=timeout_s, check=check)  # type: ignore[arg-type]

    gc.disable()  # nothing of a world lives longer than it
    try:
        with _traced(loop, is_wanted=is_traced) as trace, surrounded(loop, seed, connect):
            world = World(seed, loop, seconds, kinds)
            try:
                loop.run_until_complete(world.run(scene))
            finally:
                failures = list(world.oracle.failures)
                loop.clear()
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        gc.enable()
    return Outcome(
        seed, failures, world.lives, world.oracle.changes, dict(world.troubles.counts), loop.now_s / 3600, trace
    )
