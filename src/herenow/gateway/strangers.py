"""Who is connected, and should not be: after each audit they are told why, and sent away.

- Where ``unknown_users`` is ``refuse``: whom the database has not had in two looks one after the other. One look may
  fall between the two halves of a replacement. Where the collection itself is gone, or cannot be asked, nobody is
  judged.
- In any case: who came under an id that is not the one way to write it, as may happen while a collection is empty and
  nobody can know what its ids are. They come back at once, under the right one.

They may come back: the door decides. A person who was deleted is refused there, for good; and after a mistake, such as
a backup that was put back while the server ran, all the others are in again within seconds.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from herenow.gateway.audience import Audience
from herenow.gateway.events import MAX_USERS_A_CALL, WireError
from herenow.logs import get_logger
from herenow.model import Cause
from herenow.registry.base import Registry
from herenow.service import Service
from herenow.socketio_server import Socket
from herenow.tenancy import key_of

log = get_logger("herenow.gateway")

NAMED_AT_MOST = 20
"""Users in a line of the log."""


def unknown_user() -> WireError:
    """Say that the application does not have a user."""
    return WireError("unknown_user", "the application does not have this user")


class Strangers:
    """Looks for them.

    Args:
        presence: started.
        audiences: gives those of all tenants.
        find: the socket of a connection that is still here.
        notify: tells a client why its connection ends.
    """

    def __init__(
        self,
        presence: Service,
        audiences: Callable[[], Mapping[str | None, Audience]],
        find: Callable[[str], Socket | None],
        notify: Callable[[Socket, WireError], None],
    ) -> None:
        self._presence = presence
        self._audiences = audiences
        self._find = find
        self._notify = notify
        self._missed: set[str] = set()  # by the look before, by key

    async def look(self) -> None:
        """Go through all who are connected, and send the strangers away.

        Raises:
            StoreError: the database cannot say whom it has; what the look before saw is remembered.
        """
        missed: set[str] = set()
        for tenant, audience in tuple(self._audiences().items()):
            connected = list(audience.connections_of)
            for start in range(0, len(connected), MAX_USERS_A_CALL):
                users = connected[start : start + MAX_USERS_A_CALL]
                await self._send_away(tenant, [each for each in users if not self._is_well_written(each)])
                missed |= await self._look_for(tenant, users)
                await asyncio.sleep(0)  # between two pages the loop serves the others
        self._missed = missed

    def _is_well_written(self, user_id: str) -> bool:
        return self._presence.canonical(user_id) == user_id

    async def _look_for(self, tenant: str | None, users: Sequence[str]) -> set[str]:
        """Send away who was missing before too; return who is missing for the first time."""
        if not self._presence.refuses_unknown:
            return set()
        missing = await self._presence.unknown(users, tenant=tenant)
        gone = [user_id for user_id in missing if key_of(tenant, user_id) in self._missed]
        await self._send_away(tenant, gone, unknown_user())
        return {key_of(tenant, user_id) for user_id in missing.difference(gone)}

    async def _send_away(self, tenant: str | None, users: Sequence[str], why: WireError | None = None) -> None:
        if not users:
            return
        code = "renamed" if why is None else why.code
        of_tenant = {} if tenant is None else {"tenant": tenant}
        log.warning("users sent away", code=code, count=len(users), users=users[:NAMED_AT_MOST], **of_tenant)
        with self._presence.tenants.holding(tenant) as registry:
            if why is not None:
                for user_id in users:
                    await self._tell(registry, user_id, why)
            # The registry itself: the ids are meant as they are written.
            await registry.evict(users, disconnect=True, cause=Cause.CLEANUP)
            for user_id in users:  # nor does anything live on that they claimed
                await registry.claim(user_id, None)

    async def _tell(self, registry: Registry, user_id: str, why: WireError) -> None:
        for connection in await registry.connections_of(user_id):
            if socket := self._find(connection.connection_id):
                self._notify(socket, why)
