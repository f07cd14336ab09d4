"""The load of the latency suite: users who come and go at a fixed rate, told to a crowd that watches them.

It is an open loop: each connect and each close has its moment, and what a watcher is told is late from that moment on,
not from when the load or the server came to it. A server that stalls cannot hide it.

In the window that counts, half of the changes are users who connect (TCP, handshakes and token included), half are
users whose transport was closed. The same goes on before it and behind it, so that every moment is under the same load.
Each watcher must be told once that each of its contacts came, and once that it went, never within ``EARLIEST_S``.
"""

import asyncio
from collections.abc import Sequence

from benchmarks.crowd import Change, Crowd, CrowdError, User, quantiles, side_by_side

STAY_S = 3.0
"""How long a user stays."""

TAIL_S = 2.5
"""How long users go on to arrive behind the window: until its last offline has been told."""

EARLIEST_S = 1.5
"""Nobody may be shown offline sooner after the close: they could be reloading a page."""


class Arrivals:
    """One run.

    Args:
        crowd: who watches.
        rate: changes a second.
        seconds: the window.
        contacts: users whom each of the crowd watches.
        node: to which they come.
    """

    def __init__(self, crowd: Crowd, rate: float, seconds: float, contacts: int, node: int) -> None:
        self._crowd = crowd
        self._each_s = 2 / rate
        self._window = STAY_S, STAY_S + seconds
        self._count = int((STAY_S + seconds + TAIL_S) / self._each_s)
        self._node = node
        self._contacts = min(contacts, self._count)
        self._missing = 2 * self._contacts * len(crowd.users)
        self._meant_s: dict[str, tuple[float, float]] = {}
        self._closed_s: dict[str, float] = {}
        self._came_s: list[float] = []
        self._went_s: list[float] = []
        self._earliest_s = float("inf")
        self._loop = asyncio.get_running_loop()

    async def prepare(self) -> None:
        """Let the crowd watch those who are to come."""
        users = [self._crowd.make(f"f{place}", -1, self._node) for place in range(self._count)]
        stride = self._count // self._contacts
        await side_by_side(
            watcher.watch(
                users[(watcher.number + place * stride) % self._count].name for place in range(self._contacts)
            )
            for watcher in self._crowd.users
        )
        self._users = users

    async def run(self) -> dict[str, float]:
        """Do it; return the latencies."""
        users = self._users
        self._started_s = self._loop.time() + 0.1
        for place, user in enumerate(users):
            self._meant_s[user.name] = place * self._each_s, place * self._each_s + STAY_S
        self._crowd.changed = self._changed
        visits = [self._visit(user) for user in users]
        await asyncio.gather(*visits)
        await self._crowd.wait_for(lambda: self._missing <= 0, lambda: f"{self._missing} changes are missing")
        await asyncio.sleep(0.1)
        if self._missing:
            raise CrowdError(f"{-self._missing} changes came that nobody made")
        return {
            "changes": 2 * self._count,
            "told": 2 * self._contacts * len(self._crowd.users),
            **quantiles("connect", self._came_s),
            **quantiles("offline", self._went_s),
            "offline_earliest_ms": self._earliest_s * 1000,
        }

    async def _visit(self, user: User) -> None:
        comes_s, goes_s = self._meant_s[user.name]
        await asyncio.sleep(self._started_s + comes_s - self._loop.time())
        await user.enter()
        await asyncio.sleep(max(0.0, self._started_s + goes_s - self._loop.time()))
        self._closed_s[user.name] = self._loop.time()
        user.drop()

    def _changed(self, watcher: User, changes: Sequence[Change]) -> None:
        now_s = self._loop.time()
        for change in changes:
            self._missing -= 1
            comes_s, goes_s = self._meant_s[change.user_id]
            if change.is_online:
                self._note(self._came_s, comes_s, now_s)
            elif (closed_s := self._closed_s.get(change.user_id)) is None:
                watcher.fail(f"was told that {change.user_id} went, who is here")
            else:
                self._earliest_s = min(self._earliest_s, now_s - closed_s)
                self._note(self._went_s, goes_s, now_s)
        if self._missing <= 0:
            self._crowd.wake()

    def _note(self, latencies_s: list[float], meant_s: float, now_s: float) -> None:
        if self._window[0] <= meant_s < self._window[1]:
            latencies_s.append(now_s - self._started_s - meant_s)
