"""What a connection of uvicorn's brings along as it becomes a WebSocket: its head, its socket, and its end."""

import asyncio
import sys

from ..engineio.siblings import Siblings

HOP_HEADERS = frozenset((b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version",
                          b"sec-websocket-extensions"))  # fmt: skip
"""Headers of the handshake that say nothing about the client: not kept."""

_KNOWN_NAMES = {
    name: name
    for name in (
        b"accept-encoding", b"accept-language", b"cache-control", b"cookie", b"host", b"origin", b"pragma",
        b"sec-websocket-protocol", b"user-agent", b"x-forwarded-for", b"x-forwarded-proto",
    )
}  # fmt: skip
"""One object each for the names that all clients send: a connection keeps its headers for as long as it lives."""


def headers_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a request as uvicorn hands it over: each a line, its name in lower case, ``: `` behind it."""
    headers = []
    for line in head[:-4].split(b"\r\n")[1:]:
        name, _, value = line.partition(b": ")
        headers.append((_KNOWN_NAMES.get(name, name), value))
    return headers


def writable_fd(transport: asyncio.Transport) -> int:
    """The descriptor of a transport that puts bytes into its socket as they are; -1 under TLS, and on Windows."""
    socket = transport.get_extra_info("socket")
    if socket is None or transport.get_extra_info("sslcontext") is not None or sys.platform == "win32":
        return -1
    return int(socket.fileno())


def peer_of(transport: asyncio.Transport) -> tuple[str, int] | None:
    """The address at the other end."""
    peer = transport.get_extra_info("peername")
    return (peer[0], peer[1]) if isinstance(peer, tuple) else None  # a Unix socket's is a text


def give_away(siblings: Siblings, query: str, descriptor: int, head: bytes) -> bool:
    """Give a connection to the process whose session it is to carry, if that is another one; returns whether it was."""
    number = siblings.owner_of(query)
    return number is not None and descriptor >= 0 and siblings.give(number, descriptor, head)


GOODBYE = "41"
"""A client leaves the main namespace: Socket.IO's DISCONNECT in an Engine.IO message."""


def ends_with_goodbye(data: bytes) -> bool:
    """Whether the last of these frames of a client is its goodbye.

    Some clients close the WebSocket first and write it behind the close frame, where RFC 6455, section 5.5.1, has
    nobody read any more. It says that they left, and did not lose their network.
    """
    head, mask, payload = data[-8:-6], data[-6:-2], data[-2:]
    return head == b"\x81\x82" and bytes(a ^ b for a, b in zip(payload, mask, strict=False)) == GOODBYE.encode()


def dissolve(http: asyncio.BaseProtocol) -> None:
    """Let uvicorn's HTTP protocol go, whose connection is a WebSocket now.

    It and its parser hold each other, and with them the request: a third of what a storm of connects would leave to the
    garbage collector, whose pauses are felt by all clients. uvicorn itself dissolves them when a connection is lost, of
    which this protocol hears no more.
    """
    if hasattr(http, "parser"):
        http.parser = None
