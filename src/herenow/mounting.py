"""Presence in somebody's application: the Socket.IO server beside it, the HTTP API in it, one lifespan for all."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette

from herenow.errors import SettingsInvalid, StoreError
from herenow.gateway import auth
from herenow.gateway.handlers import Gateway
from herenow.http.access import Access
from herenow.http.api import Api, include
from herenow.http.token_file import TokenFile, find_token_file
from herenow.logs import get_logger
from herenow.presence import Presence
from herenow.socketio_server.engine import STATE_KEY

log = get_logger("herenow.mounting")


class Mounted:
    """Presence with its two faces, ready to be started.

    Attributes:
        gateway: the Socket.IO side.
    """

    def __init__(self, presence: Presence, app: Starlette, *, path: str) -> None:
        settings = presence.settings
        authenticate = presence.authenticate or auth.from_settings(settings, presence.supervisor.failed)
        if authenticate is None:
            raise SettingsInvalid(
                "nothing says who a client is: set jwt_secret (HERENOW_JWT_SECRET), or for a first try on loopback "
                "--dev"
            )
        self.gateway = Gateway(presence, authenticate, path=path)
        self._presence = presence
        self._path = path
        self._token = secrets.token_urlsafe(32)
        app.mount(path.rstrip("/"), self.gateway.server.asgi_app())
        self._api = Api(presence, Access(settings, self._token), self.gateway)
        include(self._api, app)

    @asynccontextmanager
    async def running(
        self, address: str = "", *, on_lost: Callable[[StoreError], None] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Serve while inside; gives the lifespan state in which the fast WebSocket finds its engine.

        Args:
            address: where this server's HTTP is, for the commands to find it.
            on_lost: called if another server takes the store over. By default the clients are sent away.

        Raises:
            StoreError: as :meth:`Presence.start`.
        """
        await self._presence.start(address, on_lost=on_lost or (lambda _: self.stop()))
        self.gateway.start()
        self._let_commands_in()
        try:
            yield {STATE_KEY: {self._path: self.gateway.server.engine}}
        finally:
            try:
                self.stop()
                self._shut_commands_out()
            finally:
                await self._presence.stop()

    def stop(self) -> None:
        """Tell every client, let nobody in any more, close all connections and end all streams. Idempotent."""
        try:
            self.gateway.stop()
        finally:
            self._api.followers.end()

    def _let_commands_in(self) -> None:
        """Leave the admin token where the same user's commands find it. After the start: the store is ours now."""
        try:
            self._token_file().write(self._token)
        except OSError as error:
            log.warning("the commands cannot come in: no token file", error=str(error))

    def _shut_commands_out(self) -> None:
        try:
            self._token_file().remove(self._token)
        except OSError as error:
            log.warning("the token file stays behind", error=str(error))

    def _token_file(self) -> TokenFile:
        return find_token_file(self._presence.settings.database, self._presence.node.address)


def mount(presence: Presence, app: Starlette, *, path: str = "/socket.io/") -> Gateway:
    """Serve ``presence`` in ``app``; see :meth:`Presence.mount`.

    Raises:
        SettingsInvalid: nothing says who a client is.
    """
    mounted = Mounted(presence, app, path=path)
    theirs = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with theirs(app) as state, mounted.running(presence.settings.address or "") as ours:
            yield {**(state or {}), **ours}

    app.router.lifespan_context = lifespan
    return mounted.gateway
