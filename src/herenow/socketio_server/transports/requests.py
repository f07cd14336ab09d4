"""What both shells need of an HTTP request: the answer to a refused one, and logs that keep secrets."""

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from typing import Any, Final

import msgspec
from websockets.frames import Frame

from herenow.logs import get_logger

from ..engineio.connection import Handshake
from ..errors import RequestRefused, SocketIOError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

log = get_logger("herenow.socketio")

WEBSOCKET_LOGGER: Final = "herenow.socketio.websocket"
"""What the fast WebSocket's frames and requests are logged by, at level DEBUG."""


PART: Final = 16_384
"""Bytes of an answer that are given to the ASGI server at a time."""


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


class ClientGone(SocketIOError):
    """The client went away in the middle of its request."""


async def read_body(receive: Receive, most: int) -> bytes:
    """Read the body of a request; where it is longer than ``most`` bytes, no further than that shows.

    Raises:
        ClientGone: before it was whole.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > most or not message.get("more_body", False):
            return bytes(body[: most + 1])


async def respond(
    send: Send, status: int, body: bytes, headers: Headers, taken: Callable[[int], None] = lambda size: None
) -> bool:
    """Answer an HTTP request of ASGI, whole. Returns whether the server took it: perhaps nobody is there to read it.

    A large body goes in parts, and ``taken`` is called after each with its size: the server waits between them for its
    client, so that it shows, as far as ASGI shows it, whether that still reads.
    """
    length = (b"content-length", str(len(body)).encode())
    try:
        await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        for at in range(0, max(len(body), 1), PART):
            part = body[at : at + PART]
            await send({"type": "http.response.body", "body": part, "more_body": at + PART < len(body)})
            taken(len(part))
    except Exception as error:  # whatever the server raises for a peer that is gone
        log.debug("an ASGI server's send failed", error=repr(error))
        return False
    return True


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


_TELLING_HEADERS: Final = frozenset(("authorization", "cookie", "proxy-authorization"))


class HideSecrets(logging.Filter):
    """Shortens session ids in log lines, and leaves out what clients say who they are with.

    Whoever reads one whole could speak for its client. uvicorn writes the query string of every request to its access
    log, and of every WebSocket to its error log; at level DEBUG, ``websockets`` writes the headers of each handshake,
    and the beginning and the end of each frame, which is all of a short one.
    """

    _SID: Final = re.compile(r'(\bsid(?:=|":")[^&\s"]{1,6})[^&\s"]*')

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record's texts; let every record pass."""
        if isinstance(record.args, tuple):
            if len(record.args) == 2 and str(record.args[0]).lower() in _TELLING_HEADERS:  # its name, its value
                record.args = (record.args[0], "…")
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
