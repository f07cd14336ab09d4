"""Presence in somebody's application: the Socket.IO server beside it, the HTTP API in it, one lifespan for all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette

from herenow.errors import SettingsInvalid
from herenow.gateway import auth
from herenow.gateway.handlers import Gateway
from herenow.presence import Presence
from herenow.socketio_server.engine import STATE_KEY


def mount(presence: Presence, app: Starlette, *, path: str = "/socket.io/") -> Gateway:
    """Serve ``presence`` in ``app``; see :meth:`Presence.mount`.

    Raises:
        SettingsInvalid: nothing says who a client is.
    """
    authenticate = presence.authenticate or auth.from_settings(presence.settings)
    if authenticate is None:
        raise SettingsInvalid(
            "nothing says who a client is: set jwt_secret (HERENOW_JWT_SECRET), or for a first try on loopback --dev"
        )
    gateway = Gateway(presence, authenticate, path=path)
    app.mount(path.rstrip("/"), gateway.server.asgi_app())
    theirs = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with theirs(app) as state:
            await presence.start()
            gateway.start()
            try:
                yield {**(state or {}), STATE_KEY: {path: gateway.server.engine}}
            finally:
                gateway.stop()
                await presence.stop()

    app.router.lifespan_context = lifespan
    return gateway
