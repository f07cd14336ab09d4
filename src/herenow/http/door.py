"""The door for the commands, where presence is part of somebody's application: a listener of our own, on loopback.

Such an application does not know where it is reached, under what prefix, behind which proxies and middleware; nor must
it show ``/v1/admin`` to anybody. So the commands come in here. The state file says where, and holds the token without
which nobody is let in.
"""

import asyncio
import contextlib
import socket
from typing import Final

import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState as Connections

from herenow.http.api import ALL_FACES, Api, answer_in_our_form, include
from herenow.http.patience import patient

PATIENCE_S: Final = 15.0
"""How long a request may take to be there."""

ENDS_WITHIN_S: Final = 1.0
"""How long what was asked has to be answered when the door closes."""


class Door:
    """The listener.

    Args:
        api: what is answered.

    Attributes:
        port: where it is, once it is open.
    """

    port: int | None = None

    def __init__(self, api: Api) -> None:
        self._api = api
        self._app: FastAPI | None = None
        self._config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            http=patient(PATIENCE_S, lambda _: None),
            ws="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
        )
        self._connections = Connections()
        self._server: asyncio.Server | None = None

    async def open(self) -> str:
        """Begin to answer; return the address.

        Raises:
            OSError: this process may not listen.
        """
        loop = asyncio.get_running_loop()

        def connected() -> asyncio.Protocol:
            protocol = self._config.http_protocol_class(  # type: ignore[call-arg]  # uvicorn knows only its base
                config=self._config, server_state=self._connections, app_state={}, _loop=loop
            )
            protocol.access_log = False  # type: ignore[attr-defined]  # the application's own log is not for us
            return protocol

        listener = socket.create_server(("127.0.0.1", 0), backlog=32)
        try:
            if not self._config.loaded:
                self._config.load()
            self._server = await loop.create_server(connected, sock=listener)
        except BaseException:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        return f"http://127.0.0.1:{self.port}"

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:  # few applications are ever asked; and those that are wait for it, but not their loop
            self._app = await asyncio.to_thread(self._build)
        await self._app(scope, receive, send)

    def _build(self) -> FastAPI:
        app = FastAPI(openapi_url=None)
        include(self._api, app, ALL_FACES, "")
        answer_in_our_form(app)
        return app

    async def close(self) -> None:
        """Let nobody in any more, and end what is open. Idempotent; streams are ended by their own."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for connection in tuple(self._connections.connections):
            connection.shutdown()
        tasks = tuple(self._connections.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=ENDS_WITHIN_S)
        for connection in tuple(self._connections.connections):
            with contextlib.suppress(AttributeError):
                connection.transport.abort()
