"""Presence for an application: what it calls, and how it shows it to its clients.

::

    presence = Presence("sqlite:///app.db")
    presence.mount(app)                                   # a FastAPI or Starlette application

    await presence.get(["alice", "bob"])
    async for user in presence.online(): ...
    presence.on_change(lambda change: print(change))

An application with tenants names one: ``presence.get(["alice"], tenant="acme")``; without, it speaks of users of no
tenant. Nothing that a tenant is told depends on another.
"""

from typing import TYPE_CHECKING

from herenow.service import Service

if TYPE_CHECKING:
    from starlette.applications import Starlette


class Presence(Service):
    """Who is online, right now.

    Args:
        database: where the application's users are: ``sqlite:///path`` or ``mongodb://host/name``.
        authenticate: tells who a client is, in library form: ``async def authenticate(auth, handshake) -> Identity``.
            By default the settings say: ``jwt_secret``, or ``dev`` on loopback.
        can_watch: whom a viewer may see, in library form: ``async def can_watch(viewer, users) -> allowed`` is asked
            with at most 1,000 users, and a yes counts for ``can_watch_stale_s`` seconds. While it is set, nobody can
            watch all. By default everybody may see everybody, or whom their token names. For a viewer of a tenant it
            is called with ``tenant=`` too; the users are of the same one.
        settings: any of :class:`~herenow.settings.Settings`, by name.

    Raises:
        SettingsInvalid: a setting is wrong, or two do not fit together.
    """

    def mount(
        self,
        app: "Starlette",
        *,
        prefix: str = "",
        path: str = "/socket.io/",
        http: bool = True,
        admin: bool = False,
        health: bool = False,
        openapi: bool = False,
    ) -> None:
        """Serve presence in a FastAPI or Starlette application, and leave all else in it as it is.

        It starts and stops with the application's lifespan, and ends its streams and sockets as soon as the server
        around it stops to listen. For the fast WebSocket, run it with
        ``uvicorn app:app --ws herenow.socketio_server:FastWebSocket``; without, it works at ASGI's price.

        Args:
            app: where. One of its own paths that is ours too is an error, now or at its start.
            prefix: of all paths below, as in ``/presence``.
            path: where Socket.IO is. A client gives ``{ path: prefix + path }``.
            http: serve ``/v1``: who is online, changes as they come, claims, for ``api_keys`` and ``admin_tokens``.
            admin: serve ``/v1/admin``, for ``admin_tokens``. The commands need it not: they have a door of their own.
            health: serve ``/healthz``, ``/readyz`` and ``/metrics``.
            openapi: let the paths stand in the application's OpenAPI.

        Raises:
            SettingsInvalid: nothing says who a client is, or a path is the application's own.
        """
        from herenow.mounting import Faces, mount  # here: who only reads needs no web framework

        faces = Faces(http=http, admin=admin, health=health, openapi=openapi)
        mount(self, app, prefix=prefix, path=path, faces=faces)
