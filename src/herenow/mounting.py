"""Presence in somebody's application: the Socket.IO server beside it, the HTTP API in it, one lifespan for all.

Our paths stand before all others of the application: one of those may answer every path, as a page at ``/`` does. So
that none of its own is hidden, a path that both have is an error.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from herenow.clashes import see_no_clash
from herenow.errors import HerenowError, RegistryUnavailable, SettingsInvalid, StoreError
from herenow.gateway.auth import identity
from herenow.gateway.handlers import Gateway
from herenow.http.access import Access
from herenow.http.announcing import Announced
from herenow.http.api import ALL_FACES, Api, Faces, include
from herenow.http.door import Door
from herenow.listening import Listening
from herenow.service import Service
from herenow.socketio_server.engineio.engine import STATE_KEY

__all__ = ["Faces", "Mounted", "mount"]

TRY_AGAIN_S = 1.0
"""Between two tries to start while the store cannot be used."""


class Mounted:
    """Presence with its two faces, ready to be started.

    Args:
        presence: what is served.
        app: where.
        prefix: of all paths.
        path: of Socket.IO, behind the prefix.
        faces: what of the HTTP API is shown.

    Attributes:
        gateway: the Socket.IO side.

    Raises:
        SettingsInvalid: nothing says who a client is, or the application has one of the paths itself.
    """

    def __init__(
        self,
        presence: Service,
        app: Starlette,
        *,
        prefix: str = "",
        path: str = "/socket.io/",
        faces: Faces = ALL_FACES,
    ) -> None:
        settings = presence.settings
        authenticate = presence.authenticate or identity.from_settings(settings, presence.supervisor.failed)
        if authenticate is None:
            raise SettingsInvalid(
                'nothing says who a client is: give Presence(jwt_secret="…") the secret that signs your users\' tokens '
                "(or HERENOW_JWT_SECRET, jwt_public_keys, jwt_jwks_url), or authenticate=…, a function of yours; for a "
                "first try on this machine, dev=True"
            )
        _check(app, prefix, path)
        self.path = "/" + f"{prefix}/{path}".strip("/").replace("//", "/") + "/"
        self.prefix = "/" + prefix.strip("/") if prefix.strip("/") else ""
        self.gateway = Gateway(presence, authenticate, path=self.path)
        self._app = app
        self._presence = presence
        self._token = secrets.token_urlsafe(32)
        self._announced: Announced | None = None
        self.renews_by_signal = False
        self.to_renew = False
        """Whether the stop that comes is no end: the same server goes on at once."""
        self._door: Door | None = None
        proxies = self.gateway.server.engine.proxies
        self._api = Api(presence, Access(settings, self._token, proxies.is_here), self.gateway)
        theirs = tuple(app.router.routes)
        include(self._api, app, faces, self.prefix)
        app.router.routes.insert(0, Mount(self.path.rstrip("/"), app=self.gateway.server.asgi_app()))
        known = set(map(id, theirs))
        self._ours = [route for route in app.router.routes if id(route) not in known]
        try:
            self.check()
        except SettingsInvalid:
            app.router.routes[:] = theirs
            raise

    def _wire_paths(self) -> set[str]:
        """Where the fast WebSocket may meet us: behind the prefix that a proxy keeps, and where it takes it off."""
        root = self._presence.settings.root_path or getattr(self._app, "root_path", "").rstrip("/")
        return {self.path, root + self.path}

    def check(self) -> None:
        """See that no path of the application is ours too, by now.

        Raises:
            SettingsInvalid: one was.
        """
        ours = set(map(id, self._ours))
        theirs = [route for route in self._app.router.routes if id(route) not in ours]
        see_no_clash(theirs, self._ours, prefix=self.prefix)

    @asynccontextmanager
    async def running(
        self,
        address: str = "",
        *,
        on_lost: Callable[[StoreError], None] | None = None,
        on_waiting: Callable[[HerenowError], None] | None = None,
        renews: tuple[int, int] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Serve while inside; gives the lifespan state in which the fast WebSocket finds its engine.

        Args:
            address: where this server's HTTP is, if it is all ours; else the commands get a door of their own.
            on_lost: called if another server takes the store over. By default the clients are sent away.
            on_waiting: called each time the store, or the cluster, cannot be used for now at the start, which is then
                tried again. By default that is an error.
            renews: as :meth:`Service.start` has it.

        Raises:
            AlreadyStarted, StoreError: as :meth:`Presence.start`.
        """
        announced = self._announced = Announced(self._presence, self._token)
        if self.renews_by_signal:
            announced.may_be_renewed()
        try:
            await self._start(address, on_lost, on_waiting, announced, renews)
            door = None if address else Door(self._api)
            try:
                self.gateway.start()
                self._api.followers.begin()
                await announced.serving(address, door)
                self._door = door
                yield {STATE_KEY: dict.fromkeys(self._wire_paths(), self.gateway.server.engine)}
            finally:
                try:
                    self.stop()
                    if door is not None:
                        await door.close()
                finally:
                    await self._presence.stop(to_renew=self.to_renew)
        finally:
            announced.renewing() if self.to_renew else announced.stopped()

    async def _start(
        self,
        address: str,
        on_lost: Callable[[StoreError], None] | None,
        on_waiting: Callable[[HerenowError], None] | None,
        announced: Announced,
        renews: tuple[int, int] | None,
    ) -> None:
        announced.starting()
        while True:
            try:
                shown = address or self._presence.settings.address or ""
                await self._presence.start(shown, on_lost=on_lost or (lambda _: self.stop()), renews=renews)
                return
            except (StoreError, RegistryUnavailable) as error:
                if on_waiting is None or not error.temporary:
                    raise
                on_waiting(error)
                announced.starting(str(error))
            await asyncio.sleep(TRY_AGAIN_S)

    @asynccontextmanager
    async def told_early(self) -> AsyncIterator[None]:
        """Stop as soon as the server around us stops: it waits for our streams before it ends the lifespan."""
        listening = Listening()
        if self._door is not None and self._door.port is not None:
            listening.ignore(self._door.port)
        self._api.heard_on = self.gateway.server.engine.heard_on = listening.heard_on
        watching = asyncio.create_task(listening.watch(self.stop), name="herenow listening")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def not_renewed(self, reason: str | None) -> None:
        """Say in the state file why the server was not renewed; ``None``: it is being tried."""
        if self._announced is not None:
            self._announced.not_renewed(reason)

    def can_hand_on(self) -> bool:
        """Whether there are other nodes that can take the clients of this one."""
        try:
            cluster = self._presence.cluster
        except HerenowError:  # it has not started, or serves no more
            return False
        return cluster is not None and cluster.has_others

    def stop(self) -> None:
        """Tell every client, let nobody in any more, close all connections and end all streams. Idempotent."""
        try:
            self.gateway.stop()
        finally:
            self._api.followers.end()
            if self._announced is not None:
                self._announced.stopping()


def _check(app: Any, prefix: str, path: str) -> None:
    if not isinstance(app, Starlette):
        raise SettingsInvalid(
            f"presence.mount takes a FastAPI or a Starlette application, not {type(app).__name__}: mount it on one of "
            "those, and that in yours"
        )
    for name, given in (("prefix", prefix), ("path", path)):
        if re.search(r"[{}?#\s]|//", given):
            raise SettingsInvalid(f"presence.mount: {name} is plain text, as in {name}='/presence', not {given!r}")


def mount(
    presence: Service,
    app: Starlette,
    *,
    prefix: str = "",
    path: str = "/socket.io/",
    faces: Faces = ALL_FACES,
) -> Gateway:
    """Serve ``presence`` in ``app``; see :meth:`Presence.mount`.

    Raises:
        SettingsInvalid: nothing says who a client is, or a path is the application's own.
    """
    mounted = Mounted(presence, app, prefix=prefix, path=path, faces=faces)
    theirs = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        mounted.check()
        async with theirs(app) as state, mounted.running() as ours, mounted.told_early():
            yield {**(state or {}), **ours}

    app.router.lifespan_context = lifespan
    return mounted.gateway
