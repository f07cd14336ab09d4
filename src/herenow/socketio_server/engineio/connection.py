"""One session between its way to the client and the application, and what these two are to the engine.

Backpressure, both ways:

* *Slow* is a connection whose unsent bytes passed ``write_buffer_high``. :meth:`Connection.send` then refuses, and the
  caller merges or drops, until the link has drained below ``write_buffer_low``. The application hears of both.
* A connection is *held* while the application asks for it (:meth:`Connection.hold`): nothing more is read from it, so
  a client that sends and does not read, or sends faster than it is served, fills its own socket and nobody's memory.
  Not even its pongs are read then: one that is held for longer than the heartbeat allows is closed.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from herenow.progress import Delivery, Progress

from ..message import Message
from .session import Reason, Session, Transport

if TYPE_CHECKING:
    from .engine import Engine

BULK: Final = 32_768
"""Bytes of a message before which a ping goes: on 20 kB/s it takes 1.6 s."""

_NEVER: Final = float("inf")


class Handshake(msgspec.Struct, frozen=True, gc=False):
    """The request that opened a session.

    Attributes:
        query: the raw query string.
        headers: names in lower case and values, as they came.
        address: the client's host and port, if the transport knows them; behind a trusted proxy, the proxy's port.
    """

    query: str
    headers: tuple[tuple[bytes, bytes], ...]
    address: tuple[str, int] | None

    def header(self, name: str) -> str | None:
        """Return the first header of this name (any case), or ``None``."""
        return find_header(self.headers, name.lower().encode("latin-1"))


def find_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return the value of the first header called ``name`` (lower case), or ``None``."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


class Link(Protocol):
    """The way to the client that a shell gives a connection.

    Attributes:
        full: whether more than ``write_buffer_high`` bytes wait to be sent.
    """

    full: bool

    def send(self, message: Message) -> bool:
        """Write a message, or return False because the link is slow or closed."""

    def flush(self) -> None:
        """Write what the session has queued, whatever its size: it is the protocol's own."""

    def close(self, reason: Reason) -> None:
        """Flush, then close the transport."""

    def hold(self) -> None:
        """Stop reading."""

    def release(self) -> None:
        """Read again."""

    def progress(self) -> Progress:
        """How far the peer has come with what was written; not cheap."""

    def forget(self) -> None:
        """Drop the connection, which is over: left to the garbage collector, its pauses are felt by all clients."""


class WebSocketLink(Link, Protocol):
    """A link that is a WebSocket, so that it can also probe."""

    def write(self, packets: Sequence[str | bytes]) -> None:
        """Write Engine.IO packets, a frame each, past the session's queue."""


class Application(Protocol):
    """What an engine serves. No method may block or be async; none is called after ``closed`` for a connection."""

    def opened(self, connection: "Connection") -> None:
        """A session is open."""

    def received(self, connection: "Connection", data: str | bytes) -> None:
        """A message came."""

    def closed(self, connection: "Connection", reason: Reason) -> None:
        """The session is closed. Called exactly once for each ``opened``."""

    def slow(self, connection: "Connection") -> None:
        """More than ``write_buffer_high`` bytes are unsent: ``send`` refuses from now on.

        An application that answers what it reads must stop reading now, or soon: see :meth:`Connection.hold`.
        """

    def drained(self, connection: "Connection") -> None:
        """The connection takes messages again."""

    def stopping(self) -> None:
        """The engine is about to close all connections: the last moment to send. Called once."""

    def due(self, connection: "Connection") -> None:
        """The time given to :meth:`Connection.set_timer` has come."""


class Connection:
    """One session with its way to the client.

    Attributes:
        state: the application's to use.
        last_pong_ms: when the client last answered a ping, by the engine's clock; ``None`` before the first.
    """

    __slots__ = ("_delivery", "_held", "_timer_ms", "engine", "handshake", "last_pong_ms", "link", "probe", "session",
                 "slow", "state", "wheel_slot")  # fmt: skip

    def __init__(self, engine: "Engine", session: Session, link: Link, handshake: Handshake) -> None:
        self.engine = engine
        self.session = session
        self.link = link
        self.probe: WebSocketLink | None = None
        self.handshake = handshake
        self.state: Any = None
        self.slow = False
        self.last_pong_ms: float | None = None
        self.wheel_slot: int | None = None
        self._held = 0
        self._delivery: Delivery | None = None
        self._timer_ms = _NEVER

    @property
    def sid(self) -> str:
        """The session id: the client's secret. Show :attr:`label` in logs."""
        return self.session.sid

    @property
    def label(self) -> str:
        """Enough of the session id to follow it through a log, too little to speak for it."""
        return self.session.sid[:6]

    @property
    def is_open(self) -> bool:
        """Whether the session is open."""
        return self.session.reason is None

    def send(self, message: Message) -> bool:
        """Send a message. Returns False, and sends nothing, when the connection is slow or closed."""
        return self.link.send(message)

    def push(self, *messages: Message) -> None:
        """Send messages, even to a slow connection: for answers, whose number the application bounds."""
        for message in messages:
            if len(message.messages[0]) > BULK:
                self.ping_ahead()
            self.session.send(*message.messages)
        self.link.flush()

    def ping_ahead(self) -> None:
        """Send a ping before something large, if none is under way: behind it, it would be late on a slow link."""
        if self.session.transport is Transport.WEBSOCKET:
            self.session.ping(self.engine.now_ms())
            self.engine.schedule(self)
            self.link.flush()

    def close(self, *, may_return: bool = False) -> None:
        """Close the session from this side; ``may_return`` says that the client is to come back by itself."""
        self.engine.handle(self, self.session.close(may_return=may_return))

    def refuse(self, fault: str) -> None:
        """Close the session because what it sent is malformed; ``fault`` says how."""
        self.engine.handle(self, self.session.refuse(fault))

    def set_timer(self, delay_ms: float | None) -> None:
        """Let :meth:`Application.due` be called after ``delay_ms``; ``None`` takes it back. One timer a connection."""
        self._timer_ms = _NEVER if delay_ms is None else self.engine.now_ms() + delay_ms
        self.engine.schedule(self)

    def due_ms(self) -> float:
        """When the session's or the application's next deadline is."""
        return min(self.session.due_ms() if self.is_open else _NEVER, self._timer_ms)

    def take_timer(self, now_ms: float) -> bool:
        """Whether the application's time has come; it is taken back."""
        if now_ms < self._timer_ms:
            return False
        self._timer_ms = _NEVER
        return True

    @property
    def held(self) -> bool:
        """Whether nothing is to be read from the client now."""
        return self._held > 0

    def hold(self) -> None:
        """Read nothing more from the client until :meth:`release`; holds count."""
        self._held += 1
        if self._held == 1:
            self.link.hold()

    def release(self) -> None:
        """Take one :meth:`hold` back."""
        self._held -= 1
        if self._held == 0:
            self.link.release()

    def rest(self, delay_s: float) -> None:
        """Read nothing from the client for so long; for one that sends more than it may."""
        self.hold()
        asyncio.get_running_loop().call_later(delay_s, self.release)

    def last_words(self, reason: Reason) -> str:
        """What a WebSocket's close frame says: why, and what was wrong."""
        return f"{reason}: {self.session.fault}" if self.session.fault else reason

    # -- for the shells --------------------------------------------------------------------------------------------

    def became_slow(self) -> None:
        """The link has more than ``write_buffer_high`` bytes unsent."""
        if not self.slow and self.is_open:
            self.slow = True
            self.engine.application.slow(self)

    def look(self, now_ms: float) -> None:
        """See whether a ping that is not answered is still on its way, if it is time to."""
        if not self.session.is_late(now_ms):
            return
        progress, delivery = self.link.progress(), self._delivery
        if delivery is None:
            self._delivery = Delivery(progress)
        self.session.looked(now_ms, moves=delivery is not None and delivery.moves(progress))

    def answered(self, now_ms: float) -> None:
        """The ping was answered."""
        self.last_pong_ms = now_ms
        self._delivery = None

    def moved(self, link: "WebSocketLink") -> None:
        """Another link carries the session: what was on its way on the old one says nothing any more."""
        self.link, self.probe = link, None
        self._delivery = None

    def became_drained(self) -> None:
        """The link has less than ``write_buffer_low`` bytes unsent."""
        if self.slow:
            self.slow = False
            if self.is_open:
                self.engine.application.drained(self)
