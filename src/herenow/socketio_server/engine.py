"""The Engine.IO server between the shells and the application: which sessions there are, and what time it is for them.

It owns no socket. A *shell* (``websocket.py``, ``asgi.py``) accepts requests and gives each session a :class:`Link`,
by which the engine writes; the shell feeds the session with what the link reads. The application (``server.py``, or
any other :class:`Application`) gets messages and sends them.

Backpressure, both ways:

* *Slow* is a connection whose unsent bytes passed ``write_buffer_high``. :meth:`Connection.send` then refuses, and the
  caller merges or drops, until the link has drained below ``write_buffer_low``. The application hears of both.
* A connection is *held* while the application asks for it (:meth:`Connection.hold`): nothing more is read from it, so
  a client that sends and does not read, or sends faster than it is served, fills its own socket and nobody's memory.
  Not even its pongs are read then: one that is held for longer than the heartbeat allows is closed.

Who is late with a pong may have a slow link, and be reading still what was sent before the ping. So it is asked how
far the peer has come (``progress.py``), and as long as that moves, it has time. What is large goes behind a ping of its
own: a client gives up by itself when it hears none.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from herenow.logs import get_logger
from herenow.progress import Delivery, Progress
from herenow.sparing import Sparing
from herenow.steady import Steady
from herenow.supervision import OnFault, tell_loop

from . import errors
from .addresses import Proxies, customer_of, parse_networks
from .faults import Faults
from .heartbeat import Heartbeat
from .ids import new_id
from .message import Message
from .queries import parse_query
from .session import (
    PROBE_FAILED,
    Closed,
    Event,
    MessageReceived,
    PongReceived,
    ProbeFailed,
    Reason,
    Session,
    SessionSettings,
    Transport,
    Upgraded,
)
from .turns import Turns

log = get_logger("herenow.socketio")

STATE_KEY: Final = "herenow.socketio_server"
"""Where the lifespan state holds ``{path: engine}``, for the fast WebSocket to find its engine."""

MAX_HEADERS: Final = 16_384
"""Bytes of a handshake's headers, at most: a session keeps them for as long as it lives."""

BULK: Final = 32_768
"""Bytes of a message before which a ping goes: on 20 kB/s it takes 1.6 s."""

_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings(SessionSettings):
    """How the engine behaves. All times are in milliseconds, all sizes in bytes.

    Attributes:
        path: of the HTTP requests; begins and ends with ``/``. A request without the last ``/`` is served too.
        origins: which ``Origin`` headers may connect: ``"*"`` for any, a collection of origins
            (``https://app.example``), or ``None`` for the server's own origin only: that of the ``Host`` header, so
            a proxy must pass it on. A request without the header does not come from a browser's page and is allowed.
        trusted_proxies: addresses and networks whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed.
        max_sessions_per_address: more are refused with 429; ``None`` for no limit. IPv6 addresses count by their /64
            network, and this machine's own do not count.
        write_buffer_high: unsent bytes from which a connection is slow.
        write_buffer_low: unsent bytes at which it has drained.
    """

    path: str = "/engine.io/"
    origins: Iterable[str] | None = None
    trusted_proxies: Iterable[str] = ("127.0.0.0/8", "::1")
    max_sessions_per_address: int | None = None
    write_buffer_high: int = 65_536
    write_buffer_low: int = 16_384

    def __post_init__(self) -> None:
        super(EngineSettings, self).__post_init__()  # the short form fails in a dataclass with slots
        if not (self.path.startswith("/") and self.path.endswith("/")):
            raise ValueError(f"path must begin and end with '/', not {self.path!r}")
        if not 0 <= self.write_buffer_low < self.write_buffer_high:
            raise ValueError("write_buffer_low must be below write_buffer_high")
        if self.max_sessions_per_address is not None and self.max_sessions_per_address <= 0:
            raise ValueError(f"max_sessions_per_address must be above 0, not {self.max_sessions_per_address}")
        object.__setattr__(self, "trusted_proxies", tuple(self.trusted_proxies))
        parse_networks(self.trusted_proxies)
        if isinstance(self.origins, str) and self.origins != "*":
            raise ValueError(f"origins must be '*' or a collection of origins, not the string {self.origins!r}")
        if not (self.origins is None or self.origins == "*"):
            object.__setattr__(self, "origins", frozenset(self.origins))


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


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
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


class Engine:
    """An Engine.IO v4 server without sockets.

    Args:
        application: gets the events.
        settings: how it behaves.
        clock: by which clients are waited for; by default one of its own.

    Attributes:
        clock: the same.
        proxies: whose word about a client's address counts.
        turns: whose bytes are parsed when.
        on_refused: told of each handshake that is refused, as what it counts.
        faults: of peers that speak no valid Socket.IO.
        on_fault: told of what raises in the midst of the engine's own work; see :meth:`supervise`.
    """

    def __init__(self, application: Application, settings: EngineSettings, clock: Steady | None = None) -> None:
        self.application = application
        self.clock = Steady() if clock is None else clock
        self.now_ms: Callable[[], float] = self.clock.now_ms
        """The engine's time, in milliseconds."""
        self.on_refused: Callable[[str], object] = len
        self.faults = Faults()
        self.on_fault: OnFault = tell_loop
        self.settings = settings
        self.connections: dict[str, Connection] = {}
        self.stopping = False
        self.turns = Turns()
        self.proxies = Proxies(settings.trusted_proxies)
        self._sessions_of: dict[str, int] = {}
        self._sparing = Sparing()
        # A ping comes early by a twentieth of the interval at least (session.JITTER), and is at most one tick late, as
        # is its time-out: so together they are over when the client's own count is.
        tick_ms = min(max(min(settings.ping_interval_ms, settings.ping_timeout_ms) / 50, 5), 100)
        self._heartbeat: Heartbeat[Connection] = Heartbeat(
            tick_ms, self._due, self.clock, on_fault=lambda name, error: self.on_fault(name, error)
        )

    def supervise(self, on_fault: OnFault) -> None:
        """Have faults reported there: each goes on by itself, and harms no other connection."""
        self.on_fault = self.turns.on_fault = on_fault

    # -- requests --------------------------------------------------------------------------------------------------

    def admit(
        self,
        transport: Transport,
        method: str,
        query: str,
        headers: Iterable[tuple[bytes, bytes]],
        peer: tuple[str, int] | None,
    ) -> Connection | None:
        """Check a request; return the connection that it belongs to, or ``None`` for a handshake.

        The connection may be one that waits only to be told that it is closed.

        Args:
            transport: what the request is for.
            method: of HTTP.
            query: the raw query string.
            headers: names in lower case and values.
            peer: the other end of the socket.

        Raises:
            RequestRefused: with the answer to give.
        """
        fields: dict[str, str] = {}
        try:
            fields = parse_query(query)
            return self._admit(transport, method, fields, headers, peer)
        except errors.RequestRefused as refusal:
            if "sid" not in fields and not isinstance(refusal, errors.Forbidden):  # that is counted where it is found
                self.refused(refusal, headers, peer)
            raise

    def refused(
        self,
        refusal: errors.RequestRefused,
        headers: Iterable[tuple[bytes, bytes]],
        peer: tuple[str, int] | None,
    ) -> None:
        """Count a handshake that is refused; who speaks no valid Socket.IO has a line in the log too."""
        self.on_refused(refusal.counted_as)
        if refusal.counted_as == errors.RequestRefused.counted_as:
            address = None if peer is None else self.proxies.client(peer[0], headers)
            self.faults.note(address, refusal.message, self.now_ms())

    def note_fault(self, connection: Connection, fault: str) -> None:
        """Count what a session's client did wrong."""
        address = connection.handshake.address
        self.faults.note(None if address is None else address[0], fault, self.now_ms())

    def _admit(
        self,
        transport: Transport,
        method: str,
        query: Mapping[str, str],
        headers: Iterable[tuple[bytes, bytes]],
        peer: tuple[str, int] | None,
    ) -> Connection | None:
        if query.get("transport") != transport:
            raise errors.UnknownTransport
        if query.get("EIO") != "4":
            raise errors.UnsupportedVersion
        self.check_origin(headers)
        sid = query.get("sid")
        if sid is None:
            if method != "GET":
                raise errors.BadMethod
            if self.stopping:
                raise errors.ShuttingDown
            if sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS:
                raise errors.HeadersTooLarge
            self._check_address(peer, headers)
            return None
        connection = self.connections.get(sid)
        if connection is None:
            raise errors.UnknownSession
        # A pong may be overdue since less than a tick: what the protocol calls closed must not answer.
        self._advance(connection, self.now_ms())
        if transport is Transport.POLLING:
            if connection.session.transport is not Transport.POLLING:
                raise errors.RequestRefused  # the session has moved to its WebSocket
            if method not in ("GET", "POST"):
                raise errors.BadMethod
        if not connection.is_open and (method == "POST" or sid not in self.connections):
            raise errors.UnknownSession
        return connection

    def check_origin(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the request's origin, or ``None`` if it names none.

        Raises:
            Forbidden: the origin is not allowed.
        """
        headers = list(headers)
        origin = find_header(headers, b"origin")
        if origin is None:
            return None
        allowed = self.settings.origins
        if allowed is None:
            host = find_header(headers, b"host")
            is_allowed = host is not None and _authority(origin) == host.lower()
        else:
            is_allowed = allowed == "*" or origin in allowed
        if not is_allowed:
            event, shown = "a request was refused: its origin is not among those allowed", origin[:200]
            self._sparing.say(log.info, event, of=shown, origin=shown)
            self.on_refused(errors.Forbidden.counted_as)
            raise errors.Forbidden
        return origin

    def _check_address(self, peer: tuple[str, int] | None, headers: Iterable[tuple[bytes, bytes]]) -> None:
        most = self.settings.max_sessions_per_address
        if most is None or peer is None:
            return
        address = self.proxies.client(peer[0], headers)
        if self._sessions_of.get(customer_of(address) or "", 0) >= most:
            event = "sessions are refused: if it is a proxy, let trusted_proxies name it"
            self._sparing.say(log.warning, event, of=address, address=address, most=most)
            raise errors.TooManySessions

    def _count(self, handshake: Handshake, step: int) -> None:
        customer = None if handshake.address is None else customer_of(handshake.address[0])
        if customer is not None:
            left = self._sessions_of.pop(customer, 0) + step
            if left:
                self._sessions_of[customer] = left

    def open(self, transport: Transport, link: Link, handshake: Handshake) -> Connection:
        """Open a session for a handshake that was admitted. Call :meth:`start` once the link knows its connection.

        Args:
            handshake: with the address of the peer; the connection's own has the client's.
        """
        if handshake.address is not None:
            host = self.proxies.client(handshake.address[0], handshake.headers)
            if host != handshake.address[0]:
                handshake = msgspec.structs.replace(handshake, address=(host, handshake.address[1]))
        if self.settings.max_sessions_per_address is not None:
            self._count(handshake, 1)
        session = Session(new_id(), transport, self.settings, self.now_ms())
        connection = Connection(self, session, link, handshake)
        self.connections[session.sid] = connection
        self.schedule(connection)
        return connection

    def start(self, connection: Connection) -> None:
        """Send the open packet, and tell the application."""
        connection.link.flush()
        self.application.opened(connection)

    # -- a WebSocket's events, the same for both shells --------------------------------------------------------------

    def websocket_opened(self, connection: Connection, link: WebSocketLink) -> bool:
        """A WebSocket with an open session's id has opened. Returns False if the protocol has it closed."""
        if not connection.session.begin_probe(self.now_ms()):
            return False
        connection.probe = link
        self.schedule(connection)
        return True

    def websocket_received(self, connection: Connection, link: WebSocketLink, data: str | bytes) -> None:
        """A WebSocket brought a message: of the session that it carries, or of its probe."""
        session = connection.session
        if link is connection.link:
            self.handle(connection, session.receive(data))
        elif link is connection.probe:
            events = session.receive_probe(data)
            if events and events[0] is PROBE_FAILED:
                self.note_fault(connection, "a WebSocket that was to take a session over said something else")
            if answers := session.probe_data_to_send():
                link.write(answers)
            self.handle(connection, events)
            connection.link.flush()  # a waiting GET is let go as soon as the probe is answered

    def websocket_lost(self, connection: Connection, link: Link, *, error: bool) -> None:
        """A WebSocket is gone: closed by the peer, or broken by an ``error``."""
        if link is connection.link:
            self.handle(connection, connection.session.transport_lost(error=error))
        elif link is connection.probe:
            self.handle(connection, connection.session.probe_lost())

    # -- events ----------------------------------------------------------------------------------------------------

    def handle(self, connection: Connection, events: Iterable[Event]) -> None:
        """Act on what a session says has happened."""
        for event in events:
            if isinstance(event, MessageReceived):
                self.application.received(connection, event.data)
            elif isinstance(event, PongReceived):
                connection.answered(self.now_ms())
                self.schedule(connection)
            elif isinstance(event, Upgraded):
                self._upgraded(connection)
            elif isinstance(event, ProbeFailed):
                self._probe_failed(connection)
            else:
                self._closed(connection, event)

    def _upgraded(self, connection: Connection) -> None:
        probe, polling = connection.probe, connection.link
        if probe is None:
            raise AssertionError("a session was upgraded by a probe that is not there")
        connection.moved(probe)
        polling.flush()
        polling.release()
        if connection.held:
            probe.hold()
        probe.flush()
        if probe.full:
            connection.became_slow()
        else:
            connection.became_drained()
        self.schedule(connection)

    def _probe_failed(self, connection: Connection) -> None:
        probe, connection.probe = connection.probe, None
        if probe is not None:
            probe.close(Reason.TRANSPORT_ERROR)
        self.schedule(connection)

    def _closed(self, connection: Connection, event: Closed) -> None:
        session = connection.session
        if session.fault:
            self.note_fault(connection, session.fault)
        # A polling client that is between two GETs has still to hear of it, and to get what was queued before.
        between = session.transport is Transport.POLLING and not session.polling
        wait = between and event.reason in (Reason.SERVER, Reason.SENT_AWAY) and not self.stopping
        try:
            connection.link.close(event.reason)
            if wait:
                connection.set_timer(self.settings.ping_interval_ms)
        except Exception as error:  # of the way to a client that is over anyway: the application must hear of it
            wait = False
            self.on_fault("closing", error)
        if not wait:
            self.forget(connection)
        self.application.closed(connection, event.reason)
        log.debug("session closed", session=connection.label, reason=event.reason.value)

    def forget(self, connection: Connection) -> None:
        """Drop a closed connection: its id is unknown from now on."""
        self._heartbeat.cancel(connection)
        connection.link.forget()
        known = self.connections.pop(connection.sid, None)
        if known is not None and self.settings.max_sessions_per_address is not None:
            self._count(connection.handshake, -1)

    # -- time ------------------------------------------------------------------------------------------------------

    def schedule(self, connection: Connection) -> None:
        """Put a connection where its next deadline is."""
        self._heartbeat.schedule(connection, connection.due_ms())

    def _due(self, connection: Connection, now_ms: float) -> None:
        if not connection.is_open:
            self.forget(connection)
            return
        try:
            self._advance(connection, now_ms)
            if not connection.is_open:
                return
            connection.link.flush()
            if connection.take_timer(now_ms):
                self.application.due(connection)
            if connection.is_open:
                self.schedule(connection)
        except Exception as error:  # it would have no heartbeat any more, and so no end
            self.on_fault("heartbeat", error)
            self.handle(connection, connection.session.transport_lost(error=True))

    def _advance(self, connection: Connection, now_ms: float) -> None:
        connection.look(now_ms)
        self.handle(connection, connection.session.advance(now_ms))

    def close_code(self, reason: Reason) -> int:
        """The code of the close frame that goes out when a session closes (RFC 6455, section 7.4.1)."""
        if reason in (Reason.PING_TIMEOUT, Reason.SENT_AWAY):
            return 1001  # going away
        return 1002 if reason in (Reason.BAD_PACKET, Reason.TRANSPORT_ERROR) else 1000

    # -- life ---------------------------------------------------------------------------------------------------

    def start_again(self) -> None:
        """Let clients in again after a :meth:`stop`."""
        self.stopping = False

    def stop(self) -> None:
        """Open no new session, and close all that are open. Idempotent."""
        if not self.stopping:
            self.stopping = True
            self.application.stopping()
        for connection in list(self.connections.values()):
            try:
                connection.close(may_return=True)
            except Exception as error:  # the others are to be closed all the same
                self.on_fault("closing", error)
