"""How far a peer has come with what was sent to it: what its machine has acknowledged, and what is still on its way.

On Linux the kernel knows (``TCP_INFO``, ``SIOCOUTQ``), under TLS too, where the bytes are those of its records.
Elsewhere the transport's own buffer must do: what has left it counts as acknowledged.

It costs two system calls, so only of those who are late it is asked. ``hold_little`` has the kernel take no more than
it can soon send: what waits then waits here, where it is seen, and where newer diffs can take its place.
"""

import asyncio
import contextlib
import socket
import struct
import sys
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple, cast

TRANSPORT: Final = "herenow.transport"
"""The extension of an ASGI scope in which an HTTP protocol of ours leaves its transport."""

UNSENT: Final = 16_384
"""Bytes that the kernel keeps unsent, about: what a link of 20 kB/s sends in a second."""

HIDDEN: Final = 1 << 40
"""Added to what waits where some of it cannot be seen."""

LAYERS: Final = 8
"""Middlewares that are looked through, at most."""

_ACKED_AT: Final = 120
"""Where ``tcpi_bytes_acked`` stands in Linux's ``struct tcp_info``, since 4.1."""

_IS_LINUX: Final = sys.platform == "linux"


class Progress(NamedTuple):
    """Bytes that the peer has ``acknowledged``, counted from anywhere, and that ``wait`` to be."""

    acknowledged: int
    waiting: int


def progress_of(transport: asyncio.Transport) -> Progress:
    """Ask how far a peer has come."""
    unwritten = 0 if transport.is_closing() and _descriptor(transport) < 0 else transport.get_write_buffer_size()
    known = _in_kernel(transport) if _IS_LINUX else None
    if known is None:
        return Progress(-unwritten, unwritten)
    acknowledged, waiting = known[0], known[1] + unwritten
    if waiting and transport.get_extra_info("sslcontext") is not None:
        waiting += HIDDEN  # what is encrypted lies in a transport below; only when the kernel has nothing, nor has that
    return Progress(acknowledged, waiting)


def hold_little(transport: asyncio.Transport) -> None:
    """Let the kernel keep little unsent for a connection."""
    if _IS_LINUX and (connection := transport.get_extra_info("socket")) is not None:
        keep_little_unsent(connection)


def keep_little_unsent(connection: Any) -> None:
    """The same, for a socket; what a listening one accepts inherits it."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
    except (OSError, AttributeError):  # no TCP: a Unix socket
        return


def transport_behind(scope: Any, send: Any) -> asyncio.Transport | None:
    """Find the transport under an ASGI request, to look at: in its scope, or where ``send`` ends in uvicorn's own.

    Returns ``None`` where it cannot be found: another server, or something opaque in between.
    """
    left = (scope.get("extensions") or {}).get(TRANSPORT)
    return _under(send, LAYERS) if left is None else cast(asyncio.Transport, left["transport"])


def _under(send: Any, layers: int) -> asyncio.Transport | None:
    """Look through the middlewares around a ``send``: functions, as a rule, that close over the next one."""
    found = getattr(getattr(send, "__self__", None), "transport", None)
    if hasattr(found, "get_write_buffer_size"):
        return cast(asyncio.Transport, found)
    for cell in getattr(send, "__closure__", None) or () if layers else ():
        with contextlib.suppress(ValueError):  # an empty cell
            inner = cell.cell_contents
            if isinstance(inner, FunctionType | MethodType) and (deeper := _under(inner, layers - 1)) is not None:
                return deeper
    return None


def _descriptor(transport: asyncio.Transport) -> int:
    connection = transport.get_extra_info("socket")
    return -1 if connection is None else int(connection.fileno())


def _in_kernel(transport: asyncio.Transport) -> tuple[int, int] | None:
    import fcntl
    import termios

    connection = transport.get_extra_info("socket")
    try:
        (acked,) = struct.unpack_from("=Q", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), _ACKED_AT)
        queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (OSError, AttributeError, ValueError, struct.error):  # no TCP, an old kernel, or closed already
        return None
    return acked, int.from_bytes(queued, sys.byteorder)


class Delivery:
    """Whether what was sent up to a certain moment is still on its way to a peer that takes it.

    Args:
        first: how far the peer had come by that moment.
    """

    __slots__ = ("_acknowledged", "_end")

    def __init__(self, first: Progress) -> None:
        self._acknowledged = first.acknowledged
        self._end = first.acknowledged + first.waiting

    def moves(self, now: Progress) -> bool:
        """Whether some of it arrived since the last call. Once all has, what else moves says nothing of it."""
        moved = now.acknowledged > self._acknowledged and self._acknowledged < self._end
        self._acknowledged = now.acknowledged
        if not now.waiting:
            self._end = now.acknowledged
        return moved
