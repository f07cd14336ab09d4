"""A prefix under which a proxy serves this server, as in ``https://example.com/presence/``."""

from starlette.types import ASGIApp, Receive, Scope, Send


class Prefix:
    """Lets an application know its prefix, whether the proxy takes it off or leaves it on.

    ASGI wants ``path`` whole and the prefix in ``root_path``; a request that comes past the proxy is served too.

    Args:
        app: the application.
        root_path: the prefix, without a slash at its end; empty for none.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if self._root and scope["type"] != "lifespan":
            path = scope["path"]
            kept = path == self._root or path.startswith(self._root + "/")
            scope = {**scope, "root_path": self._root, "path": path if kept else self._root + path}
        await self._app(scope, receive, send)
