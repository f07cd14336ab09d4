"""A Socket.IO client as small as ``herenow test`` needs it: one WebSocket, the namespace ``/``, and bad manners.

It can do what a browser does (connect, emit with an acknowledgement, leave) and what happens to one: be cut off in the
middle, or fall silent while its socket stays open.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

ACK_WITHIN_S = 5.0

Received = Callable[[str, Any], None]
"""Told of each event: its name and its payload."""


class NotLetIn(Exception):
    """The server did not let the client in, or refused an event."""


class Caller:
    """One connection. Make it with :meth:`open`."""

    def __init__(self, websocket: ClientConnection, received: Received | None) -> None:
        self._websocket = websocket
        self._received = received
        self._acks: dict[int, asyncio.Future[Any]] = {}
        self._last_ack = 0
        self._is_mute = False
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, address: str, user_id: str, received: Received | None = None) -> Self:
        """Connect as a user of a development server.

        Raises:
            Refused: the server does not want us.
            OSError: there is no server.
        """
        url = address.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        websocket = await connect(url, compression=None, ping_interval=None, close_timeout=1, proxy=None)
        client = cls(websocket, received)
        await websocket.recv()  # the Engine.IO handshake
        await websocket.send("40" + msgspec.json.encode({"userId": user_id}).decode())
        answer = str(await websocket.recv())
        if not answer.startswith("40"):
            await websocket.close()
            raise NotLetIn(answer[2:])
        client._reader = asyncio.create_task(client._read())
        return client

    async def emit(self, event: str, payload: dict[str, Any], *, within_s: float = ACK_WITHIN_S) -> dict[str, Any]:
        """Send an event and wait for its acknowledgement, for so long at most.

        Raises:
            Refused: the server answered with an error, or not in time.
        """
        self._last_ack += 1
        answer = self._acks[self._last_ack] = asyncio.get_running_loop().create_future()
        await self._websocket.send(f"42{self._last_ack}" + msgspec.json.encode([event, payload]).decode())
        try:
            async with asyncio.timeout(within_s):
                result: dict[str, Any] = await answer
        except TimeoutError as error:
            raise NotLetIn(f"{event} was not acknowledged") from error
        if not result["ok"]:
            raise NotLetIn(result["error"]["message"])
        return result

    async def leave(self) -> None:
        """Say goodbye, as ``socket.disconnect()`` does."""
        await self._websocket.send("41")
        await self._end()

    async def cut(self) -> None:
        """End without a word of the protocol, as a closed tab does."""
        self._websocket.transport.abort()
        await self._end()

    async def sent_away(self) -> None:
        """Wait until the server has ended the connection."""
        await self._websocket.wait_closed()

    def mute(self) -> None:
        """Answer no heartbeat any more, as when the network died: the socket itself stays open."""
        self._is_mute = True

    async def _end(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        self._websocket.transport.abort()

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self._websocket:
                await self._take(str(message))

    async def _take(self, packet: str) -> None:
        if packet == "2":
            if not self._is_mute:
                await self._websocket.send("3")
        elif packet.startswith("42"):
            event, payload = msgspec.json.decode(packet[2:])
            if self._received is not None:
                self._received(event, payload)
        elif packet.startswith("43"):
            number, _, payload = packet[2:].partition("[")
            waiting = self._acks.pop(int(number), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(msgspec.json.decode("[" + payload)[0])
