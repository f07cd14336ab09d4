"""The headers that keep a browser from doing more with an answer than was meant."""

from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY_HEADERS: Final = (
    (b"content-security-policy", b"base-uri 'none'; frame-ancestors 'none'; object-src 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

DOCS: Final = "/docs"
"""The page of the API. It runs nothing that is not ours: whoever has an operator's key may type it in there."""

DOCS_POLICY: Final = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
)

TLS_ONLY: Final = (b"strict-transport-security", b"max-age=31536000")


class SecurityHeaders:
    """Adds them to every answer but those of the Socket.IO transport, which other origins may read if they are allowed.

    An answer's own header of the same name stays as it is.

    Args:
        app: the application.
        transport: the path of the Socket.IO server.
    """

    def __init__(self, app: ASGIApp, transport: str) -> None:
        self._app = app
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        if not path or path.startswith(self._transport):
            await self._app(scope, receive, send)
            return
        headers = (*SECURITY_HEADERS, TLS_ONLY) if scope["scheme"] == "https" else SECURITY_HEADERS

        if path == DOCS:
            headers = (DOCS_POLICY, *headers[1:])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given: list[Any] = list(message.get("headers", ()))
                names = {bytes(name).lower() for name, _ in given}
                message = {**message, "headers": [*given, *(each for each in headers if each[0] not in names)]}
            await send(message)

        await self._app(scope, receive, send_with_headers)
