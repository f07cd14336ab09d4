"""An attacker's connection: it writes what it likes, as fast as it is read, and counts what comes back."""

import asyncio
import contextlib
from collections import Counter

from raw import client_frame

ADDRESS = "203.0.113.7"
"""Where the attackers say that they come from: behind a proxy that is trusted, so that they count as one address."""


def upgrade(address: str = ADDRESS) -> bytes:
    """A WebSocket's handshake."""
    return (
        f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()


def text(packet: str) -> bytes:
    """A packet in its frame."""
    return client_frame(packet.encode())


class Peer(asyncio.Protocol):
    """One connection.

    Args:
        counts: how often what came back; shared by all peers of an attack. ``answers`` are acknowledgements,
            ``refused`` those among them that are errors, ``status NNN`` the answers to the first request.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._tail = b""
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.ended = asyncio.Event()
        self.answered = asyncio.Event()

    @classmethod
    async def open(cls, port: int, counts: Counter[str]) -> "Peer":
        """Connect.

        Raises:
            OSError: nobody is there.
        """
        _, peer = await asyncio.get_running_loop().create_connection(lambda: cls(counts), "127.0.0.1", port)
        return peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.answered.is_set():
            self._counts[f"status {data[9:12].decode('latin-1')}"] += 1
            self.answered.set()
        data, before = self._tail + data, self._tail
        for word, name in (
            (b'{"ok":', "answers"),
            (b'"ok":false', "refused"),
            (b'"code":"rate_limited"', "rate_limited"),
            (b'44{"message"', "not let in"),
            (b"presence:ready", "let in"),
        ):
            self._counts[name] += data.count(word) - before.count(word)
        if data.endswith(b"\x81\x012"):
            self._transport.write(text("3"))
        self._tail = data[-24:]

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._counts["closed by the server"] += 1
        self.ended.set()
        self.answered.set()
        self._may_write.set()

    async def write(self, data: bytes) -> bool:
        """Write when the peer reads; whether it is still there."""
        await self._may_write.wait()
        if self.ended.is_set():
            return False
        self._transport.write(data)
        return True

    async def flood(self, data: bytes) -> None:
        """Write the same again and again until the peer closes."""
        while await self.write(data):  # noqa: ASYNC110  # it does not wait for anything
            await asyncio.sleep(0)

    def abort(self) -> None:
        """Go."""
        with contextlib.suppress(AttributeError):
            self._transport.abort()
