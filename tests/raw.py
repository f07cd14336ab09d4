"""A peer that makes its own bytes, right or wrong: WebSocket frames and HTTP requests by hand."""

import asyncio
import struct

HANDSHAKE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Raw:
    """A TCP connection, and after ``upgrade`` a WebSocket whose frames the test makes itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> "Raw":
        host, port = url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    @classmethod
    async def upgrade(cls, url: str) -> "Raw":
        raw = await cls.open(url)
        raw.writer.write(HANDSHAKE)
        assert b" 101 " in await raw.reader.readuntil(b"\r\n\r\n")
        return raw

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ended(self, timeout_s: float = 5.0) -> bytes:
        """Wait until the server closes; return what came."""
        async with asyncio.timeout(timeout_s):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def abort(self) -> None:
        self.writer.transport.abort()


def client_frame(payload: bytes, opcode: int = 1, *, fin: bool = True, mask: bool = True, rsv: int = 0) -> bytes:
    """Build a client's frame, right or wrong."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    size = len(payload)
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65_536:
        head += struct.pack("!BH", bit | 126, size)
    else:
        head += struct.pack("!BQ", bit | 127, size)
    return head + (b"\0\0\0\0" if mask else b"") + payload


async def close_code(raw: Raw) -> int:
    """Read until the server's close frame; return its code. The peer does not answer it: that is the server's worry."""
    data = b""
    async with asyncio.timeout(5):
        while (at := data.rfind(b"\x88")) < 0 or len(data) < at + 4:
            received = await raw.reader.read(65_536)
            assert received, "closed without a close frame"
            data += received
    return int.from_bytes(data[at + 2 : at + 4], "big")
