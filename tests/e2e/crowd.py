"""Many connections from one process, as lean as they can be: they connect, say who they are and answer heartbeats.

python -m e2e.crowd PORT USERS

Prints "ready" when all are connected, "lost N" whenever some are gone, and ends with its standard input.
"""

import asyncio
import resource
import sys
from collections.abc import Callable

import msgspec

AT_ONCE = 200
"""Connections under way at the same time: a listener's queue is finite."""


def raise_file_limit() -> None:
    """Let this process have as many connections as the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def frame(text: str) -> bytes:
    """A client's text frame. RFC 6455, section 5.3, wants a mask; one of zeros changes nothing."""
    payload = text.encode()
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload


PONG = frame("3")


class Visitor(asyncio.Protocol):
    """One connection. It looks for whole frames of the server and knows two of them: the welcome and the ping.

    Args:
        auth: what it says of itself; a text is a user's id, for a server under ``--dev``.
        received: told of every event, as JSON.
    """

    def __init__(self, auth: str | dict[str, str], received: Callable[[bytes], object] = len) -> None:
        self._received = received
        said = {"userId": auth} if isinstance(auth, str) else auth
        self._hello = frame("40" + msgspec.json.encode(said).decode())
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        data = self._buffer + data
        if data.startswith(b"HTTP/1.1 "):
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                self._buffer = data
                return
            assert head.startswith(b"HTTP/1.1 101 "), head
            data = rest
            self._transport.write(self._hello)
        while len(data) >= 2:
            length, start = data[1], 2
            if length == 126:
                length, start = int.from_bytes(data[2:4], "big"), 4
            if len(data) < start + length:
                break
            self._take(data[start : start + length])
            data = data[start + length :]
        self._buffer = data

    def _take(self, packet: bytes) -> None:
        if packet == b"2":
            assert self._transport is not None
            self._transport.write(PONG)
        elif packet.startswith(b"40") and not self.connected.done():
            self.is_open = True
            self.connected.set_result(None)
        elif packet.startswith(b"44") and not self.connected.done():
            self.connected.set_exception(ConnectionRefusedError(packet.decode()))
        elif packet.startswith(b"42"):
            self._received(packet[2:])

    def send(self, packet: str) -> None:
        """Send a packet."""
        assert self._transport is not None
        self._transport.write(frame(packet))

    def leave(self) -> None:
        """Say goodbye, and go."""
        assert self._transport is not None
        self.send("41")
        self._transport.close()

    def vanish(self) -> None:
        """Go without a word, as a closed tab does."""
        assert self._transport is not None
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if not self.connected.done():
            self.connected.set_exception(error or ConnectionError("closed before it was connected"))


async def visit(port: int, auth: str | dict[str, str], received: Callable[[bytes], object] = len) -> Visitor:
    """Connect one user.

    Raises:
        OSError: there is no server, or it does not want us.
    """
    loop = asyncio.get_running_loop()
    _, visitor = await loop.create_connection(lambda: Visitor(auth, received), "127.0.0.1", port)
    await visitor.connected
    return visitor


async def gather(port: int, users: int) -> list[Visitor]:
    """Connect them all."""
    free = asyncio.Semaphore(AT_ONCE)

    async def come(number: int) -> Visitor:
        async with free:
            return await visit(port, f"user-{number}")

    return await asyncio.gather(*map(come, range(users)))


async def main(port: int, users: int) -> None:
    """Come, and stay until told to go."""
    raise_file_limit()
    visitors = await gather(port, users)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    sys.stdout.write(f"lost {sum(not visitor.is_open for visitor in visitors)}\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
