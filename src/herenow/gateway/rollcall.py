"""The roll call: compares the connections that the registries have with the sockets that are here.

Each connection that comes and goes tells the registry so, and that is enough as long as nothing fails on the way. This
is for when something does: a connection without a socket would keep its user online for ever, and a socket without a
connection shows offline who is here. The first is ended in the registry, with the grace; the second is closed, so that
its client comes back and is told of anew.

What is seen once may be under way; what is seen twice in a row, with the whole interval between, is not. A registry
that cannot say what it has breaks the row.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from herenow.errors import RegistryUnavailable
from herenow.gateway.departures import Departure, Departures
from herenow.logs import get_logger
from herenow.metering import Meters
from herenow.model import Closing
from herenow.registry.tenants import Tenants
from herenow.socketio_server import Socket

log = get_logger("herenow.gateway")

AT_ONCE = 2_000
"""Connections compared in one turn of the event loop, some 0.2 ms."""


class RollCall:
    """Finds strays, and ends them.

    Args:
        tenants: whose registries to compare.
        node: the server that these sockets are of.
        sockets: those that are here, by connection id.
        close: closes one whose client may come back.
        departures: tells the registries of what has ended.
        meters: where strays are counted.
        every_s: between two looks.
    """

    def __init__(
        self,
        tenants: Tenants,
        node: str,
        sockets: Mapping[str, Socket],
        close: Callable[[Socket], object],
        departures: Departures,
        meters: Meters,
        *,
        every_s: float,
    ) -> None:
        self._tenants = tenants
        self._node = node
        self._sockets = sockets
        self._close = close
        self._departures = departures
        self._strays = meters.strays
        self._every_s = every_s
        self._unserved: frozenset[str] = frozenset()  # as the look before saw them
        self._unregistered: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except RegistryUnavailable:
                self._unserved = self._unregistered = frozenset()

    async def look(self) -> None:
        """Compare once; end what the look before saw too."""
        registered: set[str] = set()
        unserved: dict[str, Departure] = {}
        for tenant in self._tenants.names():
            registry = self._tenants.find(tenant)
            if registry is not None:
                user_of = {connection: user_id for user_id, connection in await registry.connections_on(self._node)}
                registered.update(user_of)
                for each in await _those_not_in(self._sockets, tuple(user_of)):
                    unserved[each] = Departure(tenant, user_of[each], each, Closing.ERROR)
        unregistered = await _those_not_in(registered, tuple(self._sockets))
        seen_unserved, self._unserved = self._unserved, frozenset(unserved)
        seen_unregistered, self._unregistered = self._unregistered, frozenset(unregistered)
        for connection_id in seen_unserved.intersection(unserved):
            self._departures.tell(unserved[connection_id])
            self._note("unserved", connection_id)
        for connection_id in seen_unregistered.intersection(unregistered):
            socket = self._sockets.get(connection_id)
            if socket is not None:
                self._close(socket)
                self._note("unregistered", connection_id)

    def _note(self, kind: str, connection_id: str) -> None:
        self._strays.labels(kind).inc()
        log.error("a stray connection is ended", kind=kind, connection=connection_id[:6])


async def _those_not_in(known: Collection[str], ids: Sequence[str]) -> list[str]:
    """Return those of the ids that are not among the known, with the event loop others' after each part."""
    missing: list[str] = []
    for start in range(0, len(ids), AT_ONCE):
        missing += [each for each in ids[start : start + AT_ONCE] if each not in known]
        await asyncio.sleep(0)
    return missing
