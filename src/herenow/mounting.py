"""Presence in somebody's application: the Socket.IO server beside it, the HTTP API in it, one lifespan for all."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette

from herenow.errors import SettingsInvalid, StoreError
from herenow.gateway import auth
from herenow.gateway.handlers import Gateway
from herenow.http.access import Access
from herenow.http.announcing import Announced
from herenow.http.api import Api, include
from herenow.http.door import Door
from herenow.presence import Presence
from herenow.socketio_server.engine import STATE_KEY

TRY_AGAIN_S = 1.0
"""Between two tries to start while the store cannot be used."""


class Mounted:
    """Presence with its two faces, ready to be started.

    Attributes:
        gateway: the Socket.IO side.
    """

    def __init__(self, presence: Presence, app: Starlette, *, path: str) -> None:
        settings = presence.settings
        authenticate = presence.authenticate or auth.from_settings(settings)
        if authenticate is None:
            raise SettingsInvalid(
                'nothing says who a client is: give Presence(jwt_secret="…") the secret that signs your users\' tokens '
                "(or HERENOW_JWT_SECRET, jwt_public_keys, jwt_jwks_url), or authenticate=…, a function of yours; for a "
                "first try on this machine, dev=True"
            )
        self.gateway = Gateway(presence, authenticate, path=path)
        self._presence = presence
        self._path = path
        self._token = secrets.token_urlsafe(32)
        self._announced: Announced | None = None
        app.mount(path.rstrip("/"), self.gateway.server.asgi_app())
        self._api = Api(presence, Access(settings, self._token), self.gateway)
        include(self._api, app)

    @asynccontextmanager
    async def running(
        self,
        address: str = "",
        *,
        on_lost: Callable[[StoreError], None] | None = None,
        on_waiting: Callable[[StoreError], None] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Serve while inside; gives the lifespan state in which the fast WebSocket finds its engine.

        Args:
            address: where this server's HTTP is, if it is all ours; else the commands get a door of their own.
            on_lost: called if another server takes the store over. By default the clients are sent away.
            on_waiting: called each time the store cannot be used for now at the start, which is then tried again.
                By default that is an error.

        Raises:
            StoreError: as :meth:`Presence.start`.
        """
        announced = self._announced = Announced(self._presence, self._token)
        try:
            await self._start(address, on_lost, on_waiting, announced)
            door = None if address else Door(self._api)
            try:
                self.gateway.start()
                await announced.serving(address, door)
                yield {STATE_KEY: {self._path: self.gateway.server.engine}}
            finally:
                self.stop()
                if door is not None:
                    await door.close()
                await self._presence.stop()
        finally:
            announced.stopped()

    async def _start(
        self,
        address: str,
        on_lost: Callable[[StoreError], None] | None,
        on_waiting: Callable[[StoreError], None] | None,
        announced: Announced,
    ) -> None:
        announced.starting()
        while True:
            try:
                shown = address or self._presence.settings.address or ""
                await self._presence.start(shown, on_lost=on_lost or (lambda _: self.stop()))
                return
            except StoreError as error:
                if on_waiting is None or not error.temporary:
                    raise
                on_waiting(error)
                announced.starting(str(error))
            await asyncio.sleep(TRY_AGAIN_S)

    def stop(self) -> None:
        """Tell every client, let nobody in any more, close all connections and end all streams. Idempotent."""
        self.gateway.stop()
        self._api.followers.end()
        if self._announced is not None:
            self._announced.stopping()


def mount(presence: Presence, app: Starlette, *, path: str = "/socket.io/") -> Gateway:
    """Serve ``presence`` in ``app``; see :meth:`Presence.mount`.

    Raises:
        SettingsInvalid: nothing says who a client is.
    """
    mounted = Mounted(presence, app, path=path)
    theirs = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with theirs(app) as state, mounted.running() as ours:
            yield {**(state or {}), **ours}

    app.router.lifespan_context = lifespan
    return mounted.gateway
