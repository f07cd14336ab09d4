"""The load of a presence server: users with tokens, who watch each other, and check all that they are told.

``load.py`` gives the orders; ``arrivals.py`` has the one that measures latency. A user who is closed by the server, an
error, a change too few, too many or wrong fails the order.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

import jwt
import msgspec
from picows import (  # type: ignore[import-not-found, unused-ignore]  # see load.py
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)

from benchmarks import wire

TEXT = WSMsgType.TEXT

AT_ONCE = 100
"""Handshakes, or watches, under way at any moment."""

STALL_S = 20.0
"""How long a user waits for an answer, or the crowd for the next change."""

SURPLUS_S = 0.1
"""How long the crowd listens on for a change that should not come."""

ALL_PAGES_S = 120.0
"""How long it may take until all who watch all have read all pages: a gigabyte, for a thousand of them."""

_CURSOR = re.compile(rb'"cursor":"[^"]*"')
_WATCH = b'421["presence:watch",%s]'
_ACK = b"431"
_CLAIM = b'42["presence:claim",{"availability":"%s","text":"%s"}]'


class CrowdError(Exception):
    """The server did not do what was asked; the text says how."""


class Change(msgspec.Struct, rename="camel", gc=False):
    """What a user is told of another."""

    user_id: str
    is_online: bool
    availability: str
    cause: str
    version: int
    status_text: str | None = None


class Diff(msgspec.Struct, gc=False):
    """A ``presence:diff``."""

    changes: tuple[Change, ...]
    version: int


_decode = msgspec.json.Decoder(tuple[str, Diff]).decode

Changed = Callable[["User", Sequence[Change]], None]
"""Takes what one user is told."""


class User(WSListener):  # type: ignore[misc, unused-ignore]  # see load.py
    """One user with one connection.

    Attributes:
        number: their place in the crowd.
        received: changes that they were told of, in the order under way.
        leaving: whether their connection may end.
    """

    __slots__ = (
        "_answered",
        "_crowd",
        "_is_counting",
        "_token",
        "_url",
        "leaving",
        "name",
        "number",
        "received",
        "transport",
    )

    def __init__(self, crowd: "Crowd", url: str, name: str, number: int, token: bytes) -> None:
        super().__init__()
        self._crowd = crowd
        self._url = url
        self._token = token
        self._is_counting = False
        self._answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.name = name
        self.number = number
        self.received = 0
        self.leaving = False
        self.transport: WSTransport | None = None

    async def enter(self) -> None:
        """Connect; return once the server has said ``presence:ready``."""
        await ws_connect(lambda: self, self._url, websocket_handshake_timeout=None)
        await self._answered

    async def watch(self, users: Iterable[str]) -> None:
        """Watch users; return at the answer."""
        self._answered = asyncio.get_running_loop().create_future()
        self.send(_WATCH % msgspec.json.encode({"users": list(users)}))
        await self._answered

    async def watch_all(self) -> int:
        """Watch all, and read all pages; return how many users were in them. They are counted, not read: it is much."""
        count, cursor = 0, b""
        while True:
            self._answered = asyncio.get_running_loop().create_future()
            self._is_counting = True
            self.send(_WATCH % (b'{"all":true%s}' % cursor))
            answer = await self._answered
            count += answer.count(b'"userId"')
            found = _CURSOR.search(answer)
            if found is None:
                self._is_counting = False
                return count
            cursor = b"," + found[0]

    def claim(self, availability: str, text: str) -> None:
        """Change how this user is shown."""
        self.send(_CLAIM % (availability.encode(), text.encode()))

    def send(self, packet: bytes) -> None:
        """Send one packet."""
        if self.transport is None:
            raise CrowdError(f"{self.name} is not connected any more")
        self.transport.send(TEXT, packet)

    def drop(self) -> None:
        """End the connection as a closed laptop does: the transport ends, without a word of WebSocket or Socket.IO."""
        self.leaving = True
        if self.transport is not None:
            self.transport.disconnect()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keep the transport; the server speaks first."""
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take a diff, which is almost every frame, or go on with the handshake."""
        payload = frame.get_payload_as_bytes()
        if payload.startswith(b'42["presence:diff"'):
            self._crowd.told(self, payload)
        elif payload.startswith(wire.ENGINE_OPEN):
            transport.send(TEXT, wire.CONNECT + self._token)
        elif payload == wire.ENGINE_PING:
            transport.send(TEXT, wire.ENGINE_PONG)
        elif payload.startswith(b'42["presence:ready"'):
            if not self._answered.done():
                self._answered.set_result(b"")
        elif payload.startswith(_ACK + b'[{"ok":true'):
            if not self._answered.done():
                self._answered.set_result(payload if self._is_counting else b"")
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif not payload.startswith(wire.CONNECT):
            self.fail(f"received {payload[:120]!r}")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Report a connection that the server ended."""
        self.transport = None
        if not self.leaving:
            self.fail("was closed by the server")

    def fail(self, what: str) -> None:
        """Fail the order under way."""
        error = CrowdError(f"{self.name} {what}")
        self._crowd.fail(error)
        if not self._answered.done():
            self._answered.set_exception(error)
            self._answered.exception()


class Crowd:
    """All users of one server, or of the nodes of a cluster.

    Attributes:
        urls: of the nodes.
        users: those who are in.
        changed: takes what they are told.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.urls = [f"ws://127.0.0.1:{port}{wire.PATH}" for port in ports]
        self.users: list[User] = []
        self.changed: Changed = _ignore
        self._subjects: dict[int, User] = {}
        self._error: CrowdError | None = None
        self._moved = asyncio.Event()
        self._last: tuple[bytes, tuple[Change, ...]] = (b"", ())

    # -- what they are told --------------------------------------------------------------------------------------------

    def told(self, user: User, payload: bytes) -> None:
        """Decode a diff, or know it again: a server that encodes once sends everybody the same bytes."""
        if payload != self._last[0]:
            try:
                self._last = payload, _decode(payload.removeprefix(wire.EVENT))[1].changes
            except msgspec.DecodeError as error:
                user.fail(f"received {payload[:120]!r}: {error}")
                return
        user.received += len(self._last[1])
        self.changed(user, self._last[1])

    def fail(self, error: CrowdError) -> None:
        """Keep the first error."""
        self._error = self._error or error
        self._moved.set()

    def check(self) -> None:
        """Raise what went wrong so far."""
        if self._error is not None:
            raise self._error

    def wake(self) -> None:
        """Let ``wait_for`` look again."""
        self._moved.set()

    async def wait_for(self, done: Callable[[], bool], what: Callable[[], str]) -> None:
        """Wait until ``done``, which is looked at when somebody calls ``wake``, but not for longer than ``STALL_S``."""
        while not done():
            self.check()
            self._moved.clear()
            try:
                async with asyncio.timeout(STALL_S):
                    await self._moved.wait()
            except TimeoutError:
                raise CrowdError(f"nothing more came for {STALL_S:g} s: {what()}") from None
        self.check()

    # -- who is in -----------------------------------------------------------------------------------------------------

    def make(self, name: str, number: int, node: int = 0) -> User:
        """Make a user of a node, with a token; they are not in yet."""
        token = jwt.encode({"sub": name}, wire.SECRET, algorithm="HS256")
        return User(self, self.urls[node], name, number, msgspec.json.encode({"token": token}))

    async def enter(
        self, count: int, *, contacts: int, among: int, audiences: Sequence[int], rate: float, spread: bool
    ) -> float:
        """Let ``count`` more users in, and let each watch whom it is to; return the seconds that it took."""
        for size in audiences:
            if size not in self._subjects:
                self._subjects[size] = self.make(f"s{size}", -1)
                await self._subjects[size].enter()
        first = len(self.users)
        nodes = len(self.urls) if spread else 1
        users = [self.make(f"u{number}", number, number % nodes) for number in range(first, first + count)]
        started_s = time.perf_counter()
        if rate:
            await asyncio.gather(*(_later(place / rate, user.enter()) for place, user in enumerate(users)))
        else:
            await side_by_side(user.enter() for user in users)
        wall_s = time.perf_counter() - started_s
        self.users += users
        await side_by_side(
            user.watch(watched)
            for user in users
            if (watched := [f"s{size}" for size in audiences if user.number < size] or ring(user, contacts, among))
        )
        await asyncio.sleep(SURPLUS_S)
        self.check()
        return wall_s

    async def enter_to_see_all(self, count: int, among: int) -> float:
        """Let ``count`` more users in at once, each of whom watches all and reads all pages; return the seconds."""
        first = len(self.users)
        users = [self.make(f"u{number}", number) for number in range(first, first + count)]
        started_s = time.perf_counter()
        await side_by_side(user.enter() for user in users)
        async with asyncio.timeout(ALL_PAGES_S):
            counts = await asyncio.gather(*(user.watch_all() for user in users))
        self.users += users
        self.check()
        if set(counts) != {among}:
            raise CrowdError(f"of {among} users some were told of {min(counts)} to {max(counts)}")
        return time.perf_counter() - started_s

    async def join(self, name: str) -> float:
        """Let one user in whom the server takes at their word; return the seconds that it took."""
        user = User(self, self.urls[0], name, -1, msgspec.json.encode({"userId": name}))
        started_s = time.perf_counter()
        await side_by_side([user.enter()])
        self.users.append(user)
        return time.perf_counter() - started_s

    async def meters(self, *, on: bool) -> float:
        """Turn the metering and the limits of the peer on or off."""
        self.users[0].send(b'42["bench:meters",%s]' % (b"true" if on else b"false"))
        await asyncio.sleep(SURPLUS_S)
        return SURPLUS_S

    async def leave(self) -> float:
        """Close all connections, without a word."""
        self.check()
        started_s = time.perf_counter()
        ending = []
        for user in (*self.users, *self._subjects.values()):
            if user.transport is not None:
                user.leaving = True
                user.transport.send_close(WSCloseCode.OK)
                ending.append(user.transport)
        await side_by_side(transport.wait_disconnected() for transport in ending)
        self.users.clear()
        self._subjects.clear()
        return time.perf_counter() - started_s

    # -- orders --------------------------------------------------------------------------------------------------------

    async def changes(self, rounds: int, audience: int) -> float:
        """Let a subject change ``rounds`` times, each once the last has reached its audience and nobody else."""
        subject = self._subjects[audience]
        for user in self.users:
            user.received = 0
        missing, expected = 0, ""

        def changed(user: User, changes: Sequence[Change]) -> None:
            nonlocal missing
            (change,) = changes
            if change.user_id != subject.name or change.status_text != expected:
                user.fail(f"was told of {change} instead of {subject.name}: {expected}")
            missing -= 1
            if not missing:
                self.wake()

        def all_know() -> bool:
            return missing <= 0

        def who_does_not() -> str:
            return f"{missing} have not heard of {subject.name}"

        self.changed = changed
        started_s = time.perf_counter()
        for turn in range(rounds):
            missing, expected = min(audience, len(self.users)), f"{started_s} {turn}"
            subject.claim("busy" if turn % 2 else "away", expected)
            await self.wait_for(all_know, who_does_not)
        wall_s = time.perf_counter() - started_s
        await asyncio.sleep(SURPLUS_S)
        self.changed = _ignore
        self.check()
        for user in self.users:
            if user.received != (rounds if user.number < audience else 0):
                raise CrowdError(f"{user.name} was told of {user.received} changes in {rounds} rounds to {audience}")
        return wall_s

    async def claims(self, rate: float, seconds: float, contacts: int) -> dict[str, float]:
        """Let users change in turn, ``rate`` a second, whether or not the server keeps up; return the latencies."""
        count, loop = int(rate * seconds), asyncio.get_running_loop()
        missing = count * min(contacts, len(self.users) - 1)
        meant_s: dict[str, float] = {}
        late_s: list[float] = []

        def changed(user: User, changes: Sequence[Change]) -> None:
            nonlocal missing
            now_s = loop.time()
            for change in changes:
                missing -= 1
                late_s.append(now_s - meant_s[change.user_id])
            if missing <= 0:
                self.wake()

        self.changed = changed
        started_s = loop.time()
        for turn in range(count):
            due_s = started_s + turn / rate
            if due_s > loop.time():
                await asyncio.sleep(due_s - loop.time())
            user = self.users[turn % len(self.users)]
            meant_s[user.name] = due_s
            user.claim("busy" if turn // len(self.users) % 2 else "away", str(due_s))
        await self.wait_for(lambda: missing <= 0, lambda: f"{missing} changes are missing")
        await asyncio.sleep(SURPLUS_S)
        self.changed = _ignore
        self.check()
        if missing:
            raise CrowdError(f"{-missing} changes came that nobody made")
        return {"changes": count, **quantiles("told", late_s)}


def ring(user: User, contacts: int, among: int) -> list[str]:
    """Whom a user watches of the first ``among``: those who come next, so that each is watched by as many."""
    return [f"u{(user.number + 1 + place) % among}" for place in range(min(contacts, among - 1))] if contacts else []


def quantiles(name: str, values_s: list[float]) -> dict[str, float]:
    """Return the distribution of some latencies as figures in milliseconds."""
    ordered = sorted(values_s)
    if not ordered:
        raise CrowdError(f"nothing was measured of {name}")
    figures = {f"{name}_min_ms": ordered[0] * 1000, f"{name}_max_ms": ordered[-1] * 1000}
    for share in (0.5, 0.9, 0.99, 0.999):
        place = min(len(ordered) - 1, int(share * len(ordered)))
        figures[f"{name}_p{f'{share * 100:g}'.replace('.', '')}_ms"] = ordered[place] * 1000
    return figures


async def side_by_side(jobs: Iterable[Awaitable[Any]]) -> None:
    """Do all jobs, ``AT_ONCE`` at a time, and none for longer than ``STALL_S``."""

    async def worker(waiting: Iterator[Awaitable[Any]]) -> None:
        for job in waiting:
            try:
                async with asyncio.timeout(STALL_S):
                    await job
            except TimeoutError:
                raise CrowdError(f"no answer within {STALL_S:g} s") from None

    waiting = iter(jobs)
    await asyncio.gather(*(worker(waiting) for _ in range(AT_ONCE)))


async def _later(seconds: float, job: Awaitable[Any]) -> None:
    """Do a job at its time, whether or not those before it are done."""
    await asyncio.sleep(seconds)
    await job


def _ignore(user: User, changes: Sequence[Change]) -> None:
    """What comes between two orders, such as that somebody watched came in."""
