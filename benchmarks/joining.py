"""The load of the join storm: N users connect at once, and each waits until it was told that all N are online.

It understands both ways of telling: herenow's contract (a watch on everybody, net diffs) and the seed design's (a list
at the start, then one event a join). What every client knows in the end is checked; frames and bytes are counted.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from picows import (  # type: ignore[import-not-found, unused-ignore]  # see load.py
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)

from benchmarks import wire

QUIET_S = 3.0
"""Once nothing has come for so long, nothing will: whoever does not know all others by then never does."""

TEXT = WSMsgType.TEXT

_WATCH = b'421["presence:watch",{"all":true}]'
_ACK = b"431"


class Member(WSListener):  # type: ignore[misc, unused-ignore]  # see load.py
    """One user of the storm."""

    __slots__ = ("known", "storm", "user")

    def __init__(self, storm: "Storm", user: str) -> None:
        super().__init__()
        self.storm = storm
        self.user = user
        self.known: set[str] = set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Count the frame, and take what it says."""
        payload = frame.get_payload_as_bytes()
        self.storm.frames += 1
        self.storm.bytes += len(payload)
        if frame.msg_type != TEXT:
            self.storm.fail(f"{self.user} received the {WSMsgType(frame.msg_type).name} frame {payload[:80]!r}")
        elif payload.startswith(wire.EVENT):
            self.take(transport, *msgspec.json.decode(payload.removeprefix(wire.EVENT)))
        elif payload.startswith(_ACK):
            self.learn(user["userId"] for user in msgspec.json.decode(payload.removeprefix(_ACK))[0]["users"])
        elif payload.startswith(wire.ENGINE_OPEN):
            transport.send(TEXT, wire.CONNECT + msgspec.json.encode({"userId": self.user}))
        elif payload == wire.ENGINE_PING:
            transport.send(TEXT, wire.ENGINE_PONG)
        elif not payload.startswith(wire.CONNECT):
            self.storm.fail(f"{self.user} received {payload[:80]!r}")

    def take(self, transport: WSTransport, event: str, data: Any) -> None:
        """Act on one event of either dialect."""
        if event == "presence:diff":
            self.learn(change["userId"] for change in data["changes"] if change["isOnline"])
        elif event == "user-status":
            self.learn([data["userId"]] if data["isOnline"] else ())
        elif event == "presence:ready":
            transport.send(TEXT, _WATCH)
        elif event == "online-users":
            self.learn(data)
        else:
            self.storm.fail(f"{self.user} received the event {event!r}")

    def learn(self, users: Any) -> None:
        """Note who is online."""
        before = len(self.known)
        self.known.update(users)
        if before < self.storm.count == len(self.known):
            self.storm.member_knows_all()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Report a connection that the server ended."""
        self.storm.fail(f"{self.user} was closed by the server")


class Storm:
    """N users who join at once.

    Attributes:
        frames: WebSocket frames received by all; ``bytes`` is their payloads' size.
    """

    def __init__(self, urls: Sequence[str], count: int) -> None:
        self.count = count
        self.frames = 0
        self.bytes = 0
        self._urls = urls
        self._missing = count
        self._done = asyncio.Event()
        self._error: str | None = None
        self._members: list[Any] = []

    @property
    def full(self) -> int:
        """How many know all others."""
        return self.count - self._missing

    def member_knows_all(self) -> None:
        """One more knows everybody."""
        self._missing -= 1
        if not self._missing:
            self._done.set()

    def fail(self, error: str) -> None:
        """Keep the first error."""
        self._error = self._error or error
        self._done.set()

    async def run(self) -> tuple[float, str | None]:
        """Join; return the wall time until all know all, or nothing more comes, and what went wrong, if it did."""
        started_s = time.perf_counter()
        await asyncio.gather(*(self._join(number) for number in range(self.count)))
        while not self._done.is_set():
            frames = self.frames
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await self._done.wait()
            if self.frames == frames:
                break
        wall_s = time.perf_counter() - started_s
        strangers = {user for member in self._members for user in member.known} - {f"u{n}" for n in range(self.count)}
        return wall_s, self._error or (f"strangers were told of: {sorted(strangers)[:3]}" if strangers else None)

    async def _join(self, number: int) -> None:
        user = f"u{number}"
        url = self._urls[number % len(self._urls)]
        _, member = await ws_connect(lambda: Member(self, user), url, websocket_handshake_timeout=None)
        self._members.append(member)
