"""A storm of clients that come, reload, leave and die at random, and the truth about them, kept beside the server.

The generator knows of each user when a connection was confirmed and when it ended, and how. From that follow two sets
that every watcher and the store are held against, at any moment:

* who *must* be shown online: a connection was confirmed a while ago and is still open (P8);
* who *must not* be: the last connection ended longer ago than the bound for its way of ending (P2, P3, P5).

In between, both answers are true.
"""

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field

from websockets.exceptions import WebSocketException

from clients import Client, Refused

SLACK_S = 1.0
"""For a busy test machine: between what happened on the wire and what this process has seen of it."""

FAILURES = (OSError, WebSocketException, TimeoutError, Refused, AssertionError, EOFError)


@dataclass
class User:
    """The truth about one user. Times are of this process's monotonic clock.

    Attributes:
        open: confirmed connections, each with the time of its confirmation.
        pending: connections that were begun and neither confirmed nor ended.
        gone_at: when the last connection ended, and whether on purpose.
    """

    name: str
    open: dict[Client, float] = field(default_factory=dict)
    pending: int = 0
    gone_at: float = 0.0
    left: bool = False
    since: float | None = None


class Storm:
    """Clients at random.

    Args:
        url: of the server.
        users: how many.
        seed: the same one plays the same storm, as far as the machine allows.
        offline_within_s: the server's promise.

    Attributes:
        stands_from: since then the server's process stands still, and tells nobody who has just come.
    """

    def __init__(self, url: str, *, users: int, seed: int, offline_within_s: float) -> None:
        self.url = url
        self.users = [User(f"user-{n:04}") for n in range(users)]
        self._by_name = {user.name: user for user in self.users}
        self.random = random.Random(seed)
        self.offline_within_s = offline_within_s
        self.server_lost_at = 0.0
        self.stands_from = float("inf")
        self.connects = self.reloads = self.leaves = self.deaths = 0
        self._running = True
        self._ended = asyncio.Event()

    # -- the players -------------------------------------------------------------------------------------------------

    async def run(self, seconds: float) -> None:
        """Play for so long, then let every client stay as it is."""
        loop = asyncio.get_running_loop()
        players = [loop.create_task(self._play(user)) for user in self.users]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        self._running = False
        await asyncio.gather(*players)

    def end(self) -> None:
        """Let it end before its time."""
        self._ended.set()

    async def _play(self, user: User) -> None:
        await asyncio.sleep(self.random.uniform(0, 2))
        while self._running:
            self._sweep(user)
            if not user.open:
                await self._connect(user)
                await asyncio.sleep(self.random.uniform(0.2, 3))
                continue
            client = self.random.choice(list(user.open))
            move = self.random.random()
            if move < 0.45:  # a reload: gone, and back within the grace
                self.reloads += 1
                await self._end(user, client, left=False)
                await asyncio.sleep(self.random.uniform(0, 0.3))
                await self._connect(user)
            elif move < 0.6 and len(user.open) < 3:  # another tab
                await self._connect(user)
            elif move < 0.75:
                self.leaves += 1
                await self._end(user, client, left=True)
            elif move < 0.85:
                self.deaths += 1
                client.kill()
                self._note_end(user, client, left=False)
            await asyncio.sleep(self.random.uniform(0.2, 3))

    async def _connect(self, user: User) -> None:
        user.pending += 1
        try:
            async with asyncio.timeout(15):
                client = await Client.connect(self.url, user.name)
        except FAILURES:
            # Whether the server has it is unknown; if it has, it sees the transport close now.
            user.gone_at, user.left = time.monotonic(), False
            await asyncio.sleep(self.random.uniform(0.5, 5) if self._running else 0.5)  # as the stock client pauses
        else:
            self.connects += 1
            now = time.monotonic()
            user.open[client] = now
            user.since = user.since or now
        finally:
            user.pending -= 1

    async def _end(self, user: User, client: Client, *, left: bool) -> None:
        # Noted before it happens: from here on, nobody may rely on it.
        self._note_end(user, client, left=left)
        with contextlib.suppress(*FAILURES):
            await (client.leave() if left else client.close())
        user.gone_at = time.monotonic()

    def _note_end(self, user: User, client: Client, *, left: bool) -> None:
        user.open.pop(client, None)
        user.gone_at, user.left = time.monotonic(), left
        if not user.open:
            user.since = None

    def _sweep(self, user: User) -> None:
        """Connections that the server has ended."""
        for client in [client for client in user.open if client.closed.is_set()]:
            self._note_end(user, client, left=False)

    async def settle(self) -> None:
        """Let everybody whom a crash has disconnected come back."""
        for user in self.users:
            self._sweep(user)

    async def stop(self) -> None:
        """Close all that are left."""
        for user in self.users:
            for client in list(user.open):
                with contextlib.suppress(*FAILURES):
                    await self._end(user, client, left=False)

    # -- the truth ---------------------------------------------------------------------------------------------------

    def server_lost(self) -> None:
        """The server was killed: until it is back and the restart grace is over, nobody is sure of anything."""
        self.server_lost_at = time.monotonic()
        for user in self.users:
            for client in list(user.open):
                self._note_end(user, client, left=False)

    def must_be_online(self) -> set[str]:
        """Users whom nobody may show offline now."""
        now = time.monotonic()
        return {
            user.name
            for user in self.users
            if user.since is not None
            and min(now, self.stands_from) - user.since > SLACK_S
            and any(not client.closed.is_set() for client in user.open)
            and not any(client.closed.is_set() for client in user.open)
        }

    def must_not_be_online(self) -> set[str]:
        """Users whom nobody may show online now."""
        now = time.monotonic()
        return {
            user.name
            for user in self.users
            if not user.open and not user.pending and now - user.gone_at > self.offline_within_s + SLACK_S
        }

    def known_of(self, name: str) -> str:
        """What is known of one user, for a person who asks whose fault something is."""
        user, now = self._by_name[name], time.monotonic()
        opened = [f"{now - since:.1f} s{' (closed)' * client.closed.is_set()}" for client, since in user.open.items()]
        since = None if user.since is None else round(now - user.since, 1)
        went = f"went {now - user.gone_at:.1f} s ago{' on purpose' * user.left}"
        return f"open for {', '.join(opened) or '-'}, pending {user.pending}, online for {since} s, {went}"


class Observer:
    """A watcher of everybody, who comes back after a crash as a client should."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self.client: Client | None = None

    async def connect(self) -> None:
        """Connect and take the whole snapshot."""
        self.client = await Client.connect(self.url, self.name)
        answer = await self.client.watch(all=True)
        while "cursor" in answer:
            answer = await self.client.watch(all=True, cursor=answer["cursor"])

    def online(self) -> set[str]:
        """Whom this watcher shows online."""
        assert self.client is not None
        assert not self.client.closed.is_set(), "the observer lost its connection"
        return {name for name, user in self.client.view.items() if user["isOnline"] and name.startswith("user-")}


def faults(storm: Storm, online: set[str], who: str) -> list[str]:
    """What is false in one view of the world, as sentences."""
    missing = storm.must_be_online() - online
    ghosts = storm.must_not_be_online() & online
    return [f"{who}: {name} is connected and shown offline" for name in sorted(missing)] + [
        f"{who}: {name} is gone past the bound and shown online" for name in sorted(ghosts)
    ]
