"""A shortcut past the ``send`` of uvicorn's own WebSocket: prebuilt frames, straight to its transport (decision 015).

ASGI's ``send`` builds the frame of a message anew for each recipient, in a coroutine of its own. Where the coroutine is
uvicorn's, the transport is right behind it, and a frame that was built once may be written there: no state of the
WebSocket depends on the frames that a server sends, as long as they are whole.

Only where nothing stands between: a middleware that wraps ``send`` means to see what is sent. Under any other server,
or a uvicorn whose insides are not these any more, there is no shortcut, and ``send`` does it.
"""

import asyncio
from typing import Final, Self

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import State
from websockets.server import ServerProtocol

from ..transports.requests import Send

_PROTOCOL: Final = ("uvicorn.protocols.websockets.websockets_sansio_impl", "WebSocketsSansIOProtocol")


class Shortcut:
    """Writes whole frames on one accepted WebSocket of uvicorn's."""

    __slots__ = ("_conn", "_transport", "_writable")

    def __init__(self, conn: ServerProtocol, writable: asyncio.Event, transport: asyncio.Transport) -> None:
        self._conn = conn
        self._writable = writable
        self._transport = transport

    @classmethod
    def past(cls, send: Send) -> Self | None:
        """Find the shortcut past ASGI's ``send`` of an accepted WebSocket; ``None`` if there is none."""
        protocol = getattr(send, "__self__", None)
        if (type(protocol).__module__, type(protocol).__qualname__) != _PROTOCOL:
            return None
        conn, writable, transport = (getattr(protocol, name, None) for name in ("conn", "writable", "transport"))
        if not (isinstance(conn, ServerProtocol) and isinstance(writable, asyncio.Event)):
            return None
        # RFC 7692, section 6: a message may go uncompressed although compression was agreed on.
        if not (transport and all(isinstance(extension, PerMessageDeflate) for extension in conn.extensions)):
            return None
        return cls(conn, writable, transport)

    def write(self, frames: bytes) -> bool:
        """Write frames. False, with nothing written, where ``send`` would wait or refuse: then ask that."""
        if self._conn.state is not State.OPEN or not self._writable.is_set() or self._transport.is_closing():
            return False
        self._transport.write(frames)
        return True
