"""A client of the presence contract, by hand, that remembers all it was told."""

import asyncio
import contextlib
import itertools
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from support import receive, websocket


class Refused(Exception):
    """The server answered CONNECT_ERROR."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.error = error


class Client:
    """One connection of a user, over WebSocket.

    Attributes:
        ready: the payload of ``presence:ready``.
        diffs: every ``presence:diff``, in the order in which they came.
        errors: every ``presence:error``.
        view: what this client shows: of each user the highest version that it was told.
        closed: set when the connection has ended.
    """

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.ready: dict[str, Any] = {}
        self.diffs: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.view: dict[str, dict[str, Any]] = {}
        self.closed = asyncio.Event()
        self._changed = asyncio.Event()
        self._acks: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count()
        self._reader: asyncio.Task[None] | None = None
        self._pongs: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, url: str, user: str | None = None, **auth: Any) -> "Client":
        """Connect as a user (under ``dev``), or with another payload.

        Raises:
            Refused: the server said why.
        """
        ws = await websocket(url)
        try:
            await ws.recv()
            payload = {"userId": user} if user is not None else auth
            await ws.send("40" + msgspec.json.encode(payload).decode())
            answer = str(await receive(ws))
            if answer.startswith("44"):
                await ws.close()
                raise Refused(msgspec.json.decode(answer[2:]))
            client = cls(ws)
            first = msgspec.json.decode(str(await receive(ws))[2:])
            assert first[0] == "presence:ready", first
        except BaseException:
            ws.transport.abort()  # who gives up leaves nothing open: the server would show its user until it asks
            raise
        client.ready = first[1]
        client._reader = asyncio.create_task(client._read())
        return client

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for data in self.ws:
                self._take(str(data))
        self.closed.set()
        self._changed.set()

    def _take(self, data: str) -> None:
        if data == "2":
            self._pongs = asyncio.ensure_future(self._pong())
        elif data.startswith("43"):
            digits, bracket, rest = data[2:].partition("[")
            self._acks.pop(int(digits)).set_result(msgspec.json.decode(bracket + rest)[0])
        elif data.startswith("42"):
            event, payload = msgspec.json.decode(data[2:])
            if event == "presence:diff":
                self.diffs.append(payload)
                for change in payload["changes"]:
                    self.learn(change)
            else:
                assert event == "presence:error", event
                self.errors.append(payload)
            self._changed.set()

    async def _pong(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self.ws.send("3")

    def learn(self, user: dict[str, Any]) -> None:
        """Keep what is newer."""
        known = self.view.get(user["userId"])
        if known is None or known["version"] < user["version"]:
            self.view[user["userId"]] = user

    async def call(self, event: str, payload: Any = None) -> dict[str, Any]:
        """Send an event and return its acknowledgement, good or bad."""
        ack_id = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._acks[ack_id] = answer
        await self.send(event, payload, ack_id)
        async with asyncio.timeout(10):
            return await answer

    async def send(self, event: str, payload: Any = None, ack_id: int | None = None) -> None:
        """Send an event."""
        data = [event] if payload is None else [event, payload]
        await self.ws.send(f"42{'' if ack_id is None else ack_id}" + msgspec.json.encode(data).decode())

    async def watch(self, *users: str, **payload: Any) -> dict[str, Any]:
        """Watch users, or with ``all=True`` everybody; the snapshot goes into the view."""
        answer = await self.call("presence:watch", {"users": list(users), **payload} if users else payload)
        assert answer["ok"], answer
        for user in answer["users"]:
            self.learn(user)
        return answer

    def shows(self, user: str) -> str | None:
        """The availability that this client shows for a user."""
        return self.view[user]["availability"] if user in self.view else None

    def causes(self, user: str) -> list[str]:
        """Why each change of a user that this client was told of happened."""
        return [change["cause"] for diff in self.diffs for change in diff["changes"] if change["userId"] == user]

    async def until(self, condition: Any, timeout_s: float = 5.0) -> None:
        """Wait until something that this client was told makes a condition true."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def settle(self, seconds: float = 0.15) -> None:
        """Give what is on its way the time to arrive: to show that nothing does."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Go without a word: the transport closes."""
        await self.ws.close()
        if self._reader is not None:
            await self._reader

    async def leave(self) -> None:
        """Go on purpose, as the stock client's ``disconnect()`` does."""
        await self.ws.send("41")
        await self.close()

    def kill(self) -> None:
        """Die: the socket is reset."""
        self.ws.transport.abort()
