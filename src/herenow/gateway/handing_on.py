"""A node that stops hands its users on to the others, some at a time: else all of them would come back at one moment.

Each user has the grace from the end of their own connections on. They are closed behind what the registry is told, so
that this end is the one that counts.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from herenow.gateway.client import Client, close
from herenow.socketio_server import Socket

T = TypeVar("T")

EVERY_S = 0.05
"""Between two parts of the users."""

AT_ONCE = 50
"""Users in one part, or more where there would not be the time."""

TAKEN_S = 0.5
"""How long what the registry was told last is waited for."""

HandOn = Callable[[str | None, Sequence[str]], "asyncio.Future[None]"]
"""Tells the registry of a tenant, before it returns, that some users are handed on."""


async def hand_on(
    sockets: Iterable[Socket], hand_over: HandOn, tell: Callable[[list[Socket]], Any], within_s: float
) -> None:
    """Close all connections, those of some users at a time.

    Args:
        sockets: of the connections that are here.
        hand_over: tells the registry; what comes of it is not waited for.
        tell: tells their clients that they are to come back.
        within_s: how long it may take.
    """
    by_user: defaultdict[tuple[str | None, str], list[Socket]] = defaultdict(list)
    for socket in sockets:
        client: Client | None = socket.data
        if client is not None:  # else it is just being let in
            by_user[client.audience.tenant, client.user_id].append(socket)
    told: set[asyncio.Future[None]] = set()
    for part in parts(list(by_user), within_s):
        of_tenant: defaultdict[str | None, list[str]] = defaultdict(list)
        for tenant, user_id in part:
            of_tenant[tenant].append(user_id)
        for tenant, user_ids in of_tenant.items():
            taken = hand_over(tenant, user_ids)
            taken.add_done_callback(_note)
            told.add(taken)
        going = [socket for user in part for socket in by_user[user] if socket.data is not None]
        tell(going)
        for socket in going:
            close(socket, may_return=True)
        await asyncio.sleep(EVERY_S)
    if told:  # what is not taken by then is said once more, of the whole node
        await asyncio.wait(told, timeout=TAKEN_S)


def _note(taken: "asyncio.Future[None]") -> None:
    """Know of what was not taken, so that nobody wonders at it."""
    if not taken.cancelled():
        taken.exception()


def parts(users: Sequence[T], within_s: float) -> Iterator[Sequence[T]]:
    """Divide users, so that a part each ``EVERY_S`` has been through all of them within so long."""
    size = max(AT_ONCE, math.ceil(len(users) * EVERY_S / within_s)) if within_s > EVERY_S else len(users)
    for start in range(0, len(users), size or 1):
        yield users[start : start + size]
