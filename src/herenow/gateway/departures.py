"""Connections that end, both ways: the registry hears of those that went, and those that it has dropped are closed.

A disconnect that the registry did not take would keep its user online for ever. So it is told again and again, until it
has taken it. Of what still goes wrong the roll call knows (``rollcall.py``).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from herenow.errors import RegistryUnavailable
from herenow.gateway.client import close
from herenow.model import Cause, Closing, Evicted
from herenow.registry.tenants import Tenants
from herenow.socketio_server import Socket
from herenow.supervision import OnFault

AGAIN_S = 0.5
"""Between two attempts to tell the registry."""

CLOSED_AT_ONCE = 200
"""Connections closed in one turn of the event loop, some 10 ms; it serves the others in between."""


class Departure(NamedTuple):
    """A connection that has ended."""

    tenant: str | None
    user_id: str
    connection_id: str
    closing: Closing


class Departures:
    """Tells the registries which connections have ended.

    Args:
        tenants: the registries.
        on_fault: told of each time that one did not take it.
    """

    def __init__(self, tenants: Tenants, on_fault: OnFault) -> None:
        self._tenants = tenants
        self._on_fault = on_fault
        self._told: list[tuple[Departure, asyncio.Future[None]]] = []  # since the last look at what became of it

    def tell(self, departure: Departure) -> None:
        """Tell of a connection that has ended, until it is taken. Never raises."""
        tenant, user_id, connection_id, closing = departure
        registry = self._tenants.find(tenant)
        if registry is None:  # nobody is left in it
            return
        try:
            taken = registry.disconnect(user_id, connection_id, closing)
        except Exception as error:
            taken = asyncio.get_running_loop().create_future()
            taken.set_exception(error)
        self._told.append((departure, taken))

    async def run(self) -> None:
        """Look again and again what became of it, and tell again what was not taken. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(AGAIN_S)
            self.look()

    def look(self) -> None:
        """Tell again what was not taken."""
        told, self._told = self._told, []
        for departure, taken in told:
            if not taken.done():
                self._told.append((departure, taken))
            elif not taken.cancelled() and isinstance(error := taken.exception(), Exception):
                if not isinstance(error, RegistryUnavailable):
                    self._on_fault("disconnect", error)
                self.tell(departure)


class Evictions:
    """Closes the connections that the registries have dropped.

    Args:
        find: the socket of a connection that is still here.
        on_fault: told of each that could not be closed.
    """

    def __init__(self, find: Callable[[str], Socket | None], on_fault: OnFault) -> None:
        self._find = find
        self._on_fault = on_fault
        self._waiting: deque[Evicted] = deque()
        self._is_scheduled = False

    def close(self, evicted: Iterable[Evicted]) -> None:
        """Close those of some connections that are here, in the turns that follow this one."""
        self._waiting.extend(evicted)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._close_some)

    def _close_some(self) -> None:
        self._is_scheduled = False
        for _ in range(min(CLOSED_AT_ONCE, len(self._waiting))):
            evicted = self._waiting.popleft()
            try:
                socket = self._find(evicted.connection_id)
                if socket is not None:
                    close(socket, may_return=evicted.cause is not Cause.LEFT)
            except Exception as error:  # the others are to be closed all the same; this one the roll call finds
                self._on_fault("eviction", error)
        self._schedule()
