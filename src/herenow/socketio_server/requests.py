"""What both shells need of an HTTP request: its query, the answer to a refused one, and logs that keep secrets."""

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from websockets.frames import Frame

from herenow.logs import get_logger

from .engine import Handshake
from .errors import RequestRefused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

log = get_logger("herenow.socketio")

WEBSOCKET_LOGGER: Final = "herenow.socketio.websocket"
"""What the fast WebSocket's frames and requests are logged by, at level DEBUG."""

MAX_QUERY_FIELDS: Final = 100
"""Fields of a query string, at most; the protocol's own are four."""


PLAIN_HANDSHAKE: Final = "EIO=4&transport=websocket"
"""The query of nearly every WebSocket that opens a session: not worth a general parser each time."""


def parse_query(query: str) -> dict[str, str]:
    """Parse a query string; of a repeated name, the last value counts.

    Raises:
        RequestRefused: it has more than ``MAX_QUERY_FIELDS`` fields.
    """
    if query == PLAIN_HANDSHAKE:
        return {"EIO": "4", "transport": "websocket"}
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
    except ValueError as error:
        raise RequestRefused from error


def refusal_body(refusal: RequestRefused) -> bytes:
    """Build the body that Engine.IO clients know: ``{"code": …, "message": …}``."""
    return msgspec.json.encode({"code": refusal.code, "message": refusal.message})


def refusal_response(refusal: RequestRefused) -> bytes:
    """Build the whole answer to a WebSocket handshake that is refused; a flood of them is a flood of these."""
    body = refusal_body(refusal)
    return (
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n"
        f"Date: {_date(int(time()))}\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n"
    ).encode() + body


def switching_response(accepted: str) -> bytes:
    """Build the whole answer to a WebSocket handshake that is accepted, with neither extension nor subprotocol.

    Args:
        accepted: what ``Sec-WebSocket-Accept`` is to say.
    """
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nDate: {_date(int(time()))}\r\n"
        f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accepted}\r\n\r\n"
    ).encode()


@lru_cache(maxsize=1)
def _date(now_s: int) -> str:
    return formatdate(now_s, usegmt=True)


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Answer an HTTP request of ASGI, whole. It is no error if nobody is there any more to read it."""
    length = (b"content-length", str(len(body)).encode())
    try:
        await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": body})
    except Exception as error:  # whatever the server raises for a peer that is gone
        log.debug("an ASGI server's send failed", error=repr(error))


def handshake_of(scope: Scope) -> Handshake:
    """Read what is kept of the request that opens a session."""
    return Handshake(
        scope["query_string"].decode("latin-1"),
        tuple((bytes(name), bytes(value)) for name, value in scope["headers"]),
        peer_of(scope),
    )


def peer_of(scope: Scope) -> tuple[str, int] | None:
    """The other end of the socket, if the ASGI server knows it."""
    client = scope.get("client")
    return (client[0], client[1]) if client else None


class HideSecrets(logging.Filter):
    """Shortens session ids in log lines, and leaves out what clients say who they are with.

    Whoever reads one whole could speak for its client. uvicorn writes the query string of every request to its access
    log, and of every WebSocket to its error log; at level DEBUG, ``websockets`` writes the beginning and the end of
    each frame, which is all of a short one.
    """

    _SID: Final = re.compile(r'(\bsid(?:=|":")[^&\s"]{1,6})[^&\s"]*')

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record's texts; let every record pass."""
        if isinstance(record.args, tuple):
            record.args = tuple(self._hide(argument) for argument in record.args)
        return True

    def _hide(self, argument: object) -> object:
        if isinstance(argument, Frame) and _tells_who(bytes(argument.data)):
            return f"{argument.opcode.name} [{len(argument.data)} bytes]"
        text = str(argument)
        hidden = self._SID.sub(r"\1…", text)
        return argument if hidden == text else hidden


def _tells_who(data: bytes) -> bool:
    """Whether a frame is a CONNECT, whose payload only the application knows, or speaks of a token."""
    return data.startswith(b"40") or b"token" in data


def hide_secrets() -> None:
    """Keep session ids and tokens out of uvicorn's logs and of ours. Idempotent."""
    for name in ("uvicorn.access", "uvicorn.error", WEBSOCKET_LOGGER):
        logger = logging.getLogger(name)
        if not any(isinstance(each, HideSecrets) for each in logger.filters):
            logger.addFilter(HideSecrets())
