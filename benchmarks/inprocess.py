"""A presence server without a network, a database or a clock, for counting what its own code does.

All of herenow's code is the product's: the fast WebSocket, the engine, the gateway with JWT, the registry, the outbox
and the writer. In the place of sockets are files, in the place of the database one that keeps nothing, and time passes
only when nothing is left to do. So the same work takes the same steps each time.
"""

import asyncio
import random
import selectors
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import jwt
import msgspec
import uvicorn
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from benchmarks import wire
from herenow.gateway.auth import identity
from herenow.gateway.handlers import Gateway
from herenow.model import StoredUser
from herenow.presence import Presence
from herenow.socketio_server import FastWebSocket
from herenow.socketio_server.engineio.engine import STATE_KEY
from herenow.store.base import Applied, Counts, Gaps, InitReport, RowPage
from herenow.store.nodes import Node

REQUEST = (
    f"GET {wire.PATH} HTTP/1.1\r\nhost: localhost:8000\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\nuser-agent: check\r\n\r\n"
).encode()

EPOCH_S = 1_800_000_000
"""The time of day when the loop's time was 0."""

A_DAY_MS = 86_400_000.0
"""The time of the engine, which stands still, far ahead of the loop's."""

TICK_S = 0.000_01
"""What a turn of the event loop takes, so that time never stands still."""

SETTLE_S = 0.2
"""Time that passes after each step, for flush windows to end. Nobody waits for it."""


class _Jumping(selectors.DefaultSelector):
    """Does not wait: the time until which it was to wait is reached at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        """Look, and let the time pass."""
        self.now_s += max(TICK_S, timeout or 0.0)
        return super().select(0)


class TimelessLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only where nothing is left to do."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """The time that has passed."""
        return self._jumping.now_s


class NoStore:
    """A store that takes everything and keeps nothing."""

    name = "nothing"
    creates_users = True
    prepared = True

    def canonical(self, user_id: str) -> str:
        """Any id is what it is."""
        return user_id

    async def open(self) -> None:
        """Do nothing."""

    close = open

    async def init(self, **_: Any) -> InitReport:
        """All is there."""
        return InitReport(False, ())

    async def apply(self, rows: Sequence[StoredUser]) -> Applied:
        """Say that they were written."""
        return Applied(len(rows), 0)

    async def read(self, user_ids: Collection[str]) -> dict[str, StoredUser]:
        """Know nobody."""
        return {}

    async def online(self, **_: Any) -> RowPage:
        """Nobody is."""
        return RowPage((), None)

    claimed = stale = sift = online

    async def online_ids(self, **_: Any) -> AsyncIterator[list[str]]:
        """Nobody is."""
        nobody: tuple[list[str], ...] = ()
        for page in nobody:
            yield page

    async def gaps(self) -> Gaps:
        """All is there."""
        return Gaps()

    async def objections(self) -> tuple[str, ...]:
        """Nothing is refused."""
        return ()

    async def counts(self) -> Counts:
        """None."""
        return Counts(0, 0, 0, 0)

    async def max_version(self) -> int:
        """None."""
        return 0

    async def claim_node(self, node: Node, *, succeeds: object = None) -> tuple[Node, ...]:
        """It is free."""
        return ()

    async def beat(self, node: Node) -> None:
        """Do nothing."""

    async def release_node(self, node: Node) -> None:
        """Do nothing."""


class FileTransport(asyncio.Transport):
    """A transport into a file, which stands in for a socket whose peer reads at once."""

    def __init__(self) -> None:
        super().__init__()
        self._file = tempfile.TemporaryFile(buffering=0)
        self._protocol = asyncio.Protocol()
        self._closing = False

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return one that there is no need to dissolve."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the file as the socket, and an address."""
        return {"socket": self._file, "peername": ("127.0.0.1", 40_000)}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        """Nothing is buffered."""
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write at once."""
        self._file.write(data)

    def can_write_eof(self) -> bool:
        """No: a file has no other half."""
        return False

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closing

    def pause_reading(self) -> None:
        """Nothing comes unasked."""

    resume_reading = pause_reading

    def close(self) -> None:
        """Close the file."""
        self._closing = True
        self._file.close()

    abort = close

    def received(self) -> bytes:
        """All that was written so far."""
        self._file.seek(0)
        return self._file.read()


class Client:
    """One connection of a user."""

    def __init__(self, rig: "Rig", user_id: str) -> None:
        token = jwt.encode({"sub": user_id}, wire.SECRET, algorithm="HS256")
        self._greeting = wire.CONNECT + msgspec.json.encode({"token": token})
        self.transport = FileTransport()
        self._websocket = FastWebSocket(rig.config, rig.state, rig.app_state)

    def connect(self) -> None:
        """Ask for the upgrade, and say who it is."""
        self._websocket.connection_made(self.transport)
        self._websocket.data_received(REQUEST)
        self.send(self._greeting)

    def send(self, packet: bytes) -> None:
        """Send one packet."""
        frame = Frame(Opcode.TEXT, packet)
        self._websocket.data_received(frame.serialize(mask=True))

    def lose(self) -> None:
        """End the transport."""
        self.transport.close()
        self._websocket.connection_lost(None)


class Rig:
    """The server."""

    def __init__(self, presence: Presence, gateway: Gateway) -> None:
        self.presence = presence
        self.gateway = gateway
        self.config = uvicorn.Config(app=_nobody, lifespan="off", log_config=None)
        self.state = ServerState()
        self.app_state = {STATE_KEY: {"/socket.io/": gateway.server.engine}}


async def _nobody(*_: Any) -> None:
    raise AssertionError("nothing is asked of the application")


def _stop_the_clocks(loop: asyncio.AbstractEventLoop) -> None:
    """Let the wall clock go by the loop's, and chance be no chance: of a time and of an id the digits count."""
    time.time_ns = lambda: int((EPOCH_S + loop.time()) * 1e9)
    time.time = lambda: EPOCH_S + loop.time()
    random.seed(0)


@asynccontextmanager
async def rig() -> Any:
    """Start the server; stop it. The process's clocks are not to be trusted afterwards."""
    _stop_the_clocks(asyncio.get_running_loop())
    # No heartbeat: the clients would have to answer. And no audit, which would fall into one of the steps.
    never: dict[str, Any] = {
        "ping_interval_s": 1e6, "ping_timeout_s": 50, "stale_after_s": 1e7, "audit_every_s": 1e6
    }  # fmt: skip
    presence = Presence("sqlite:///nothing.db", jwt_secret=wire.SECRET, max_events_per_s=1e6, **never)
    presence.store = NoStore()  # type: ignore[assignment]  # has what a start and a connect ask for, and no more
    authenticate = identity.from_settings(presence.settings)
    assert authenticate is not None
    gateway = Gateway(presence, authenticate)
    # Nothing falls due: the engine's own clock counts from the start of the machine, and on one that was just started
    # all deadlines would lie behind this loop's time.
    gateway.server.engine.now_ms = lambda: A_DAY_MS
    await presence.start()
    gateway.start()
    try:
        yield Rig(presence, gateway)
    finally:
        gateway.stop()
        await presence.stop()
