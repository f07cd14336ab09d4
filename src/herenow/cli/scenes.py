"""What the two nodes of a throw-away cluster go through in ``herenow test --cluster``, and what is seen of it.

A *scene* does one thing to a node, or to Redis, and measures what a watcher on the other node and the store say of its
users. Those whom it leaves connected stay to the end, so that the scenes after it are about them as well.

As in ``probes.py``, the shortest times are measured alone, and again where they are over their bound. Of the long ones
each has some seconds of slack in its promise.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sized
from typing import Final, NamedTuple

from herenow.cli.onlooker import Onlooker, store_says
from herenow.cli.scratch import ScratchServer
from herenow.cli.scratch_cluster import Facts, comes_true
from herenow.cli.socketio_client import Caller
from herenow.cli.verdicts import Result, since, timed, unseen, until_kept
from herenow.settings import LONGEST_RECONNECT_S, Settings

CONNECTS: Final = 40
USERS: Final = 10
"""So many users of each kind has a scene."""

SETTLE_S: Final = 0.5
"""After the last moment at which something could be seen, so long is still watched."""

NEVER_S: Final = 10.0
"""What has not come so long after its bound counts as never."""

AWAY_S: Final = 1.0
"""How long a node goes on to stand still, once it was given up."""

COME_BACK_S: Final = 2.0
"""Within which the stock client is back that was told to come back."""

LATE_S: Final = 2.0
"""What the store may be behind, once another node has begun to keep it."""

AGREED_S: Final = 2.0
"""Within which a Redis that has lost everything is told all of it again."""

Doing = Callable[[str], contextlib.AbstractContextManager[None]]
"""Told what is going on, for as long as it does."""


class Guest(NamedTuple):
    """Whose connection one is, and to which node."""

    user_id: str
    server: ScratchServer


class Scenes:
    """The scenes, on nodes that are started.

    Args:
        facts: what Redis says.
        settings: those of the nodes.
        doing: told what is going on.
    """

    def __init__(self, facts: Facts, settings: Settings, doing: Doing) -> None:
        self._facts = facts
        self._settings = settings
        self._doing = doing
        self._guests: dict[Caller, Guest] = {}
        self._users: set[str] = set()

    async def close(self) -> None:
        """Let nobody stay."""
        await self._cut(*self._guests)

    async def _open(self, server: ScratchServer, user_id: str) -> Caller:
        client = await Caller.open(server.address, user_id)
        self._guests[client] = Guest(user_id, server)
        self._users.add(user_id)
        return client

    async def _cut(self, *clients: Caller) -> None:
        for client in clients:
            self._guests.pop(client, None)
            await client.cut()

    async def _come(self, server: ScratchServer, kind: str, watcher: Onlooker) -> dict[str, Caller]:
        """Let users of a kind come, and wait until the watcher has seen them all."""
        users = {f"{kind}-{number}": await self._open(server, f"{kind}-{number}") for number in range(USERS)}
        for user_id in users:
            await watcher.sees(user_id, online=True, timeout_s=5)
        return users

    async def _settled(self) -> None:
        """Wait until whoever is to be shown offline by now has been."""
        await asyncio.sleep(self._settings.offline_within_s + SETTLE_S)

    # -- nothing fails -----------------------------------------------------------------------------------------------

    async def calm(self, here: ScratchServer, there: ScratchServer) -> list[Result]:
        """Let users come to one node and go again, where the watcher is on the other."""
        results: list[Result] = []
        with self._doing("users of one node are seen on the other"):
            async with _watching(there) as watcher:
                for probe in (self._connect, self._leave, self._close):
                    results += await until_kept(lambda attempt, probe=probe: probe(here, watcher, attempt))  # type: ignore[misc]
                results.append(await self._tabs(here, there, watcher))
            await self.close()
        return results

    async def _connect(self, here: ScratchServer, watcher: Onlooker, attempt: int) -> list[Result]:
        seen_after: list[float | None] = []
        stored: list[float | None] = []
        for number in range(CONNECTS):
            user_id, began_s = f"connect-{attempt}-{number}", time.monotonic()
            client = await self._open(here, user_id)
            seen, written = await asyncio.gather(
                watcher.sees(user_id, online=True, timeout_s=2),
                store_says(here, user_id, online=True, timeout_s=2),
            )
            seen_after.append(since(began_s, seen))
            stored.append(since(began_s, written))
            await self._cut(client)
        return [
            timed("C1", "connect: seen on the other node (p99)", 100, seen_after, share=0.99),
            timed("C1", "connect: the store says so", 250, stored),
        ]

    async def _leave(self, here: ScratchServer, watcher: Onlooker, attempt: int) -> list[Result]:
        times: list[float | None] = []
        for user_id, client in (await self._come(here, f"leave-{attempt}", watcher)).items():
            del self._guests[client]
            await client.leave()
            left_s = time.monotonic()
            times.append(since(left_s, await watcher.sees(user_id, online=False, timeout_s=2)))
        return [timed("C1", "client leaves on purpose: offline", 100, times)]

    async def _close(self, here: ScratchServer, watcher: Onlooker, attempt: int) -> list[Result]:
        bound_s = self._settings.offline_within_s

        async def close(user_id: str, client: Caller) -> float | None:
            await asyncio.sleep(random.random() / 2)
            await self._cut(client)
            return await _offline_after(time.monotonic(), user_id, watcher, here, bound_s + NEVER_S)

        users = await self._come(here, f"close-{attempt}", watcher)
        times = await asyncio.gather(*(close(*each) for each in users.items()))
        return [timed("C1", "last connection closes: offline", bound_s * 1000, times)]

    async def _tabs(self, here: ScratchServer, there: ScratchServer, watcher: Onlooker) -> Result:
        users = await self._come(here, "tabs", watcher)
        before = watcher.seen(users)
        for at, (user_id, first) in enumerate(users.items()):
            second = await self._open(there, user_id)
            await self._cut(first if at % 2 else second)
        await self._settled()
        return unseen("C1", "a tab on each node, one closes", watcher.seen(users) - before, _many(users))

    # -- a node is killed --------------------------------------------------------------------------------------------

    async def kill(
        self, victim: ScratchServer, other: ScratchServer, meanwhile: Callable[[], Awaitable[None]]
    ) -> list[Result]:
        """Kill the node that keeps the store. Half of its users come back to the other one.

        Args:
            victim: it.
            other: the one that is left.
            meanwhile: done while its ghosts are awaited.
        """
        bound_s = self._settings.node_lease_s + self._settings.restart_grace_s
        async with _watching(other) as watcher:
            with self._doing("a node is killed"):
                back, gone = await self._come(victim, "back", watcher), await self._come(victim, "gone", watcher)
                for user_id in (*back, *gone):
                    await store_says(other, user_id, online=True, timeout_s=5)
                before = watcher.seen(back)
                victim.kill()
                killed_s = time.monotonic()
                await self._cut(*back.values(), *gone.values())
            with self._doing("ghosts are awaited"):
                ghosts = (_offline_after(killed_s, user_id, watcher, other, bound_s + NEVER_S) for user_id in gone)
                coming = (self._come_back(other, user_id, LONGEST_RECONNECT_S) for user_id in back)
                late, times, *_ = await asyncio.gather(
                    self._store_goes_on(other), asyncio.gather(*ghosts), asyncio.gather(*coming), meanwhile()
                )
                await asyncio.sleep(SETTLE_S)
            seen = watcher.seen(back) - before
            return [
                unseen("C2", "node killed: who comes back elsewhere", seen, _many(back)),
                timed("C2", "node killed: no ghost left", bound_s * 1000, times),
                late,
            ]

    async def _come_back(self, server: ScratchServer, user_id: str, within_s: float) -> None:
        await asyncio.sleep(random.random() * within_s)
        await self._open(server, user_id)

    async def _store_goes_on(self, server: ScratchServer) -> Result:
        """Let somebody come while nobody keeps the store, and measure when it says so."""
        bound_s = self._settings.node_lease_s + LATE_S
        await self._open(server, "meanwhile")
        came_s = time.monotonic()
        written = await store_says(server, "meanwhile", online=True, timeout_s=bound_s + NEVER_S)
        return timed("C6", "node killed: the store goes on", bound_s * 1000, [since(came_s, written)])

    # -- a node stands still -----------------------------------------------------------------------------------------

    async def pause(self, victim: ScratchServer, other: ScratchServer) -> list[Result]:
        """Let a node stand still for half of its lease, and then until it was given up."""
        pause_s = self._settings.node_lease_s / 2
        async with _watching(other) as watcher:
            with self._doing(f"a node pauses for {pause_s:g} s"):
                users = await self._come(victim, "stays", watcher)
                before = watcher.seen(users)
                with _standing_still(victim):
                    await asyncio.sleep(pause_s)
                await asyncio.sleep(2 * SETTLE_S)
            short = unseen(
                "C4", f"node paused for {pause_s:g} s: its users", watcher.seen(users) - before, _many(users)
            )
            with self._doing("a node pauses until it is given up"):
                moving, writing = (
                    await self._come(victim, "moves", watcher),
                    await self._come(victim, "writes", watcher),
                )
                users |= moving
                before = watcher.seen(users)
                late = await self._pause_long(victim, other, moving, writing)
                await self._settled()
            what = "node paused until given up: its users"
            return [short, unseen("C4", what, watcher.seen(users) - before, _many(users)), late]

    async def _pause_long(
        self, victim: ScratchServer, other: ScratchServer, moving: dict[str, Caller], writing: dict[str, Caller]
    ) -> Result:
        """Let a node stand still until it was given up.

        Meanwhile some of its users move to the other node, and some tell it what it is to write when it goes on: by
        then its name was taken from it, and nothing that it writes under that may be let through.

        Args:
            victim: it.
            other: the other node.
            moving: users that move.
            writing: users that tell it something.
        """
        what, never_s = "then its late writes: let through", self._settings.node_lease_s + NEVER_S
        node = await self._facts.id_of(victim)

        async def is_forgotten() -> bool:
            return node is not None and not await self._facts.has_trace_of(node)

        claim, within_s = {"availability": "busy"}, 3 * never_s
        with _standing_still(victim):
            said = [
                asyncio.create_task(client.emit("presence:claim", claim, within_s=within_s))
                for client in writing.values()
            ]
            for user_id, client in moving.items():
                await self._cut(client)
                await self._open(other, user_id)
            is_given_up = await comes_true(is_forgotten, never_s) is not None
            await asyncio.sleep(AWAY_S)
        await asyncio.gather(*said)
        if node is None or not is_given_up:
            return Result("C4", what, "none", f"not given up in {never_s:g} s", None, False)
        through = await self._facts.has_written(node)
        return Result("C4", what, "none", f"{'some' if through else 'none'} of {len(writing)}", None, not through)

    # -- a node is stopped -------------------------------------------------------------------------------------------

    async def stop(self, victim: ScratchServer, other: ScratchServer) -> list[Result]:
        """Stop a node and start it again, as a deployment does; its users come back to the other one."""
        theirs = [(client, guest.user_id) for client, guest in self._guests.items() if guest.server is victim]
        users = {user_id for _, user_id in theirs}
        async with _watching(other) as watcher:
            with self._doing("a node is stopped"):
                before = watcher.seen(users)
                code, *_ = await asyncio.gather(victim.stop(), *(self._go_over(*each, other) for each in theirs))
                await asyncio.gather(victim.start(), self._settled())
            result = unseen("C3", "node stopped: its users", watcher.seen(users) - before, _many(users))
        if code == 0:
            return [result]
        how = "it does not end" if code is None else f"exit code {code}"
        return [Result(result.promise, result.what, result.bound, f"{result.measured}; {how}", None, False)]

    async def _go_over(self, client: Caller, user_id: str, other: ScratchServer) -> None:
        await client.sent_away()
        await self._cut(client)
        await self._come_back(other, user_id, COME_BACK_S)

    # -- Redis is emptied --------------------------------------------------------------------------------------------

    async def flush(self, server: ScratchServer) -> list[Result]:
        """Delete all that Redis knows of the cluster, and measure until it knows it again."""
        users = {guest.user_id for guest in self._guests.values()}
        async with _watching(server) as watcher:
            with self._doing("Redis is emptied"):
                connections = len(self._guests) + 1

                async def is_agreed() -> bool:
                    return await self._facts.connections() == connections

                await comes_true(is_agreed, NEVER_S)
                before = watcher.seen(users)
                await self._facts.delete()
                deleted_s = time.monotonic()
                agreed = await comes_true(is_agreed, AGREED_S + NEVER_S)
                await self._settled()
            return [
                unseen("C5", "Redis emptied: who is connected", watcher.seen(users) - before, _many(users)),
                timed("C5", "Redis emptied: all is said again", AGREED_S * 1000, [since(deleted_s, agreed)]),
            ]

    # -- the end -----------------------------------------------------------------------------------------------------

    async def compare(self, server: ScratchServer) -> list[Result]:
        """Compare who is connected, whom the cluster shows online and whom the store does."""
        here = {guest.user_id for guest in self._guests.values()}
        everybody = sorted(self._users)
        differing: set[str] = set()

        async def is_equal() -> bool:
            nonlocal differing
            answer = await watcher.emit("presence:get", {"users": everybody})
            shown = {user["userId"] for user in answer["users"] if user["isOnline"]}
            stored = {user_id for user_id, row in (await server.store.read(everybody)).items() if row.is_online}
            differing = (shown ^ here) | (stored ^ here)
            return not differing

        watcher = await Caller.open(server.address, "watcher")
        try:
            await comes_true(is_equal, LATE_S)
        finally:
            await watcher.cut()
        what, measured = "at the end: store, Redis and clients", f"{len(differing)} of {len(everybody)} differ"
        return [Result("C6", what, "equal", measured, None, not differing)]


@contextlib.asynccontextmanager
async def _watching(server: ScratchServer) -> AsyncIterator[Onlooker]:
    watcher = Onlooker(server)
    await watcher.open()
    try:
        yield watcher
    finally:
        await watcher.close()


@contextlib.contextmanager
def _standing_still(server: ScratchServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.go_on()


async def _offline_after(
    began_s: float, user_id: str, watcher: Onlooker, server: ScratchServer, timeout_s: float
) -> float | None:
    """Measure until the watcher and the store say offline."""
    seen = await watcher.sees(user_id, online=False, timeout_s=timeout_s)
    written = await store_says(server, user_id, online=False, timeout_s=timeout_s)
    return None if seen is None or written is None else since(began_s, max(seen, written))


def _many(users: Sized) -> str:
    return f"{len(users)} users"
