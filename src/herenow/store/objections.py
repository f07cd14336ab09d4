"""Rules of the database's own that would refuse what a server writes: said before any user notices."""

import asyncio
from collections.abc import Awaitable, Callable

from herenow.errors import StoreError
from herenow.logs import get_logger
from herenow.store.base import Store

_log = get_logger(__name__)


class Objections:
    """Looks whether the database would refuse rows, at the start and now and then: somebody may change its rules.

    Args:
        store: whose rules.
        every_s: seconds between two looks.
        sleep: waits some seconds.
    """

    def __init__(
        self, store: Store, *, every_s: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._store = store
        self._every_s = every_s
        self._sleep = sleep
        self.found: tuple[str, ...] = ()
        """What was found, a sentence each, with the change to make."""

    async def run(self) -> None:
        """Look after each interval, until cancelled."""
        while True:
            await self._sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Look once. A database that is away has said nothing new."""
        try:
            found = await self._store.objections()
        except StoreError:
            return
        except Exception:  # rules may be of any kind: to misread one must not keep a server from its work
            _log.exception("the database's rules could not be read")
            return
        for objection in found:
            if objection not in self.found:
                _log.error("the database would refuse rows", objection=objection)
        if self.found and not found:
            _log.info("the database would take all rows")
        self.found = found
