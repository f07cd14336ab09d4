"""The promises of herenow, each put to the proof against a real server with real clients.

A *probe* does what the promise speaks of, and measures when a watcher and the store tell the truth. Each has users of
its own, so those of one server can run at the same time; P1 and P3 run first, alone and one user after another, for
they measure the shortest times, and what the probes themselves cost must not be in them.

A time that is over its bound is measured again, up to ``TRIES`` times: what else runs on the machine can make one try
late, but a server that is late is so in all of them.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

import msgspec

from herenow.cli.onlooker import Onlooker, store_says
from herenow.cli.scratch import ScratchServer
from herenow.cli.socketio_client import Caller
from herenow.cli.verdicts import TRIES, Done, Result, since, timed, told, unseen, until_kept
from herenow.settings import Settings
from herenow.times import unix_s

CONNECTS = 100
CLOSERS = 20
RELOADS = 40
SETTLE_S = 0.5
"""After the last moment at which something could be seen, so long is still watched."""


WHAT = {
    "P1": "connect: watchers are told (p99)",
    "P2": "last connection closes: offline",
    "P3": "client leaves on purpose: offline",
    "P4": "network dies silently: offline",
    "P5": "crash and restart: no ghost left",
    "P6": "page reloaded within the grace",
    "P7": "one of several tabs closed",
    "P8": "with a connection: shown offline",
}


class Probes:
    """The probes that share one server.

    Args:
        server: started.
        settings: the server's.
    """

    def __init__(self, server: ScratchServer, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._watcher = Onlooker(server)
        self._clients: set[Caller] = set()

    async def __aenter__(self) -> Self:
        """Let the watcher watch."""
        await self._watcher.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let nobody stay."""
        for client in list(self._clients):
            await client.cut()
        await self._watcher.close()

    async def run_alone(self, done: Done) -> None:
        """Run what measures the shortest times; nothing else should run meanwhile."""
        await told("P1", WHAT["P1"], until_kept(self._connect), done)
        await told("P3", WHAT["P3"], until_kept(self._leave), done)

    async def run_together(self, done: Done) -> None:
        """Run all others."""
        await asyncio.gather(
            told("P2", WHAT["P2"], until_kept(self._close), done),
            told("P4", WHAT["P4"], until_kept(self._silence), done),
            told("P6", WHAT["P6"], self._reload(), done),
            told("P7", WHAT["P7"], self._tabs(), done),
            told("P8", WHAT["P8"], self._never_offline(), done),
        )

    async def _open(self, user_id: str) -> Caller:
        client = await Caller.open(self._server.address, user_id)
        self._clients.add(client)
        return client

    async def _cut(self, client: Caller) -> None:
        self._clients.discard(client)
        await client.cut()

    # -- P1 ----------------------------------------------------------------------------------------------------------

    async def _connect(self, attempt: int) -> list[Result]:
        """Connect users one after another; from the first byte sent to the watcher's news, and to the store's row."""
        seen_after: list[float | None] = []
        stored: list[float | None] = []
        for number in range(CONNECTS):
            user_id, began_s = f"connect-{attempt}-{number}", time.monotonic()
            client = await self._open(user_id)
            seen, written = await asyncio.gather(
                self._watcher.sees(user_id, online=True, timeout_s=2),
                store_says(self._server, user_id, online=True, timeout_s=2),
            )
            seen_after.append(since(began_s, seen))
            stored.append(since(began_s, written))
            await self._cut(client)
        return [
            timed("P1", WHAT["P1"], 100, seen_after, share=0.99),
            timed("P1", "connect: the store says so", 250, stored),
        ]

    # -- P2, P3, P4 --------------------------------------------------------------------------------------------------

    async def _close(self, attempt: int) -> list[Result]:
        async def close(client: Caller) -> None:
            await asyncio.sleep(random.random())
            await self._cut(client)

        bound_ms = self._settings.offline_within_s * 1000
        times = await asyncio.gather(*self._offline_after(f"close-{attempt}", close, bound_ms))
        return [timed("P2", WHAT["P2"], bound_ms, times)]

    async def _leave(self, attempt: int) -> list[Result]:
        async def leave(client: Caller) -> None:
            self._clients.discard(client)
            await client.leave()

        times = [await one for one in self._offline_after(f"leave-{attempt}", leave, 100, store=False)]
        return [timed("P3", WHAT["P3"], 100, times)]

    async def _silence(self, attempt: int) -> list[Result]:
        async def fall_silent(client: Caller) -> None:
            await asyncio.sleep(random.random() * self._settings.ping_interval_s)
            client.mute()

        bound_ms = self._settings.silent_loss_s * 1000
        times = await asyncio.gather(*self._offline_after(f"silent-{attempt}", fall_silent, bound_ms))
        return [timed("P4", WHAT["P4"], bound_ms, times)]

    def _offline_after(
        self, name: str, end: Callable[[Caller], Awaitable[None]], bound_ms: float, *, store: bool = True
    ) -> list[Coroutine[Any, Any, float | None]]:
        """For each user: connect, end the connection, and measure until the watcher, and the store, say offline."""
        timeout_s = bound_ms / 1000 * 2 + 2

        async def one(number: int) -> float | None:
            user_id = f"{name}-{number}"
            client = await self._open(user_id)
            await self._watcher.sees(user_id, online=True, timeout_s=5)
            await end(client)
            ended_s = time.monotonic()
            seen = await self._watcher.sees(user_id, online=False, timeout_s=timeout_s)
            if seen is None or not store:
                return since(ended_s, seen)
            written = await store_says(self._server, user_id, online=False, timeout_s=timeout_s)
            return None if written is None else since(ended_s, max(seen, written))

        return list(map(one, range(CLOSERS)))

    # -- P6, P7, P8 --------------------------------------------------------------------------------------------------

    async def _reload(self) -> list[Result]:
        """Close and come back within the grace, again and again."""
        each = RELOADS // 10
        users = await asyncio.gather(*(self._reload_in_time(f"reload-{number}", each) for number in range(10)))
        await asyncio.sleep(self._settings.offline_within_s + SETTLE_S)
        in_time = [user_id for user_id in users if user_id is not None]
        result = unseen("P6", WHAT["P6"], self._watcher.unwanted(in_time), f"{len(in_time) * each} reloads")
        if len(in_time) == len(users):
            return [result]
        return [msgspec.structs.replace(result, measured=f"{result.measured}, others took longer", ok=False)]

    async def _reload_in_time(self, name: str, times: int) -> str | None:
        """Reload as often; return as whom, or ``None`` if each try had a reload that took longer than the grace.

        The promise is about those that take less; a busy machine can keep a client from it.
        """
        longest_s = min(self._settings.grace_s * 0.7, 1.5)
        for attempt in range(1, TRIES + 1):
            user_id, slowest_s = f"{name}-{attempt}", 0.0
            client = await self._open(user_id)
            await self._watcher.sees(user_id, online=True, timeout_s=5)
            for _ in range(times):
                left_s = time.monotonic()
                await self._cut(client)
                await asyncio.sleep(random.random() * longest_s)
                client = await self._open(user_id)
                slowest_s = max(slowest_s, time.monotonic() - left_s)
                await asyncio.sleep(random.random() * 0.2)
            if slowest_s < self._settings.grace_s:
                return user_id
        return None

    async def _tabs(self) -> list[Result]:
        """Open three tabs and close two of them, in every order."""

        async def close(order: tuple[int, ...]) -> None:
            user_id = "tabs-" + "".join(map(str, order))
            tabs = [await self._open(user_id) for _ in range(3)]
            await self._watcher.sees(user_id, online=True, timeout_s=5)
            for tab in order[:2]:
                await self._cut(tabs[tab])
                await asyncio.sleep(random.random() * 0.3)

        orders = list(itertools.permutations(range(3)))
        await asyncio.gather(*map(close, orders))
        await asyncio.sleep(self._settings.offline_within_s + SETTLE_S)
        seen = self._watcher.unwanted("tabs-" + "".join(map(str, order)) for order in orders)
        return [unseen("P7", WHAT["P7"], seen, f"{len(orders)} orders")]

    async def _never_offline(self) -> list[Result]:
        """Let tabs of a user come and go while one stays; look at what the watcher and the store say meanwhile."""
        watcher = self._watcher.client
        if watcher is None:
            raise AssertionError("the watcher is open while probes run")
        resident = await self._open("resident")
        # From here on: the store has a moment to say so (P1).
        await store_says(self._server, "resident", online=True, timeout_s=2)
        wrong = looks = 0
        ends_s = time.monotonic() + self._settings.silent_loss_s + SETTLE_S
        while time.monotonic() < ends_s:
            tab = await self._open("resident")
            await asyncio.sleep(random.random() * 0.1)
            await self._cut(tab)
            row = (await self._server.store.read(["resident"])).get("resident")
            answer = await watcher.emit("presence:get", {"users": ["resident"]})
            wrong += (row is None or not row.is_online) + (not answer["users"][0]["isOnline"])
            looks += 2
        wrong += self._watcher.unwanted(["resident"])
        await self._cut(resident)
        return [Result("P8", WHAT["P8"], "never", f"{wrong:,} in {looks:,} looks", None, not wrong)]


async def crash(server: ScratchServer, settings: Settings) -> list[Result]:
    """P5: kill the server and start it again; half of its users come back, the others must not stay as ghosts."""
    back = [f"back-{number}" for number in range(10)]
    gone = [f"gone-{number}" for number in range(10)]
    clients = [await Caller.open(server.address, user_id) for user_id in back + gone]
    for user_id in back + gone:
        await store_says(server, user_id, online=True, timeout_s=5)
    server.kill()
    for client in clients:
        await client.cut()
    await server.start()
    watcher = Onlooker(server)
    await watcher.open()
    try:
        return [await _reconciled(server, watcher, back, gone, settings)]
    finally:
        await watcher.close()


async def _reconciled(
    server: ScratchServer, watcher: Onlooker, back: list[str], gone: list[str], settings: Settings
) -> Result:
    if server.node is None:
        raise AssertionError("a started server has a row")
    # By the server's own word of when it started, carried over to our clock.
    started_s = time.monotonic() - (unix_s() - server.node.started_ms / 1000)
    bound_ms = settings.restart_grace_s * 1000

    async def come_back(user_id: str) -> Caller:
        await asyncio.sleep(random.random() * 5)  # the stock client's longest pause between two tries
        return await Caller.open(server.address, user_id)

    async def go(user_id: str) -> float | None:
        seen = await watcher.sees(user_id, online=False, timeout_s=bound_ms / 1000 + 5)
        written = await store_says(server, user_id, online=False, timeout_s=5)
        return None if seen is None or written is None else since(started_s, max(seen, written))

    times, clients = await asyncio.gather(asyncio.gather(*map(go, gone)), asyncio.gather(*map(come_back, back)))
    await asyncio.sleep(SETTLE_S)
    flickers = sum(len(watcher.changes[user_id]) for user_id in back)
    for client in clients:
        await client.cut()
    result = timed("P5", WHAT["P5"], bound_ms, times)
    if not flickers:
        return result
    return msgspec.structs.replace(result, ok=False, measured=f"{result.measured}, {flickers} flickers")
