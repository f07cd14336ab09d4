"""The Engine.IO server between the shells and the application: which sessions there are, and what time it is for them.

It owns no socket. A *shell* (``on_uvicorn/``, ``transports/``) accepts requests and gives each session a :class:`Link`,
by which the engine writes; the shell feeds the session with what the link reads. The application (``server.py``, or
any other :class:`Application`) gets messages and sends them. What the three are to each other is in ``connection.py``.

Who is late with a pong may have a slow link, and be reading still what was sent before the ping. So it is asked how
far the peer has come (``progress.py``), and as long as that moves, it has time. What is large goes behind a ping of its
own: a client gives up by itself when it hears none.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from herenow.logs import get_logger
from herenow.sparing import Sparing
from herenow.steady import Steady
from herenow.supervision import OnFault, tell_loop

from .. import errors
from ..faults import Faults
from ..ids import new_id
from ..queries import parse_query
from .addresses import Proxies, customer_of
from .connection import Application, Connection, Handshake, Link, WebSocketLink, find_header
from .heartbeat import Heartbeat
from .session import (
    PROBE_FAILED,
    Closed,
    Event,
    MessageReceived,
    PongReceived,
    ProbeFailed,
    Reason,
    Session,
    Transport,
    Upgraded,
)
from .settings import EngineSettings
from .siblings import Siblings
from .turns import Turns

log = get_logger("herenow.socketio")

STATE_KEY: Final = "herenow.socketio_server"
"""Where the lifespan state holds ``{path: engine}``, for the fast WebSocket to find its engine."""

MAX_HEADERS: Final = 16_384
"""Bytes of a handshake's headers, at most: a session keeps them for as long as it lives."""


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


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
        heard_on: told through which end of the server's a request has come, as an ASGI scope says it.
        faults: of peers that speak no valid Socket.IO.
        on_fault: told of what raises in the midst of the engine's own work; see :meth:`supervise`.
        siblings: other processes that serve the same port.
    """

    def __init__(self, application: Application, settings: EngineSettings, clock: Steady | None = None) -> None:
        self.application = application
        self.clock = Steady() if clock is None else clock
        self.now_ms: Callable[[], float] = self.clock.now_ms
        """The engine's time, in milliseconds."""
        self.on_refused: Callable[[str], object] = len
        self.heard_on: Callable[[Any], None] = _ignore
        self.faults = Faults()
        self.on_fault: OnFault = tell_loop
        self.siblings: Siblings | None = None
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
        sid = new_id() if self.siblings is None else self.siblings.mark + new_id()
        session = Session(sid, transport, self.settings, self.now_ms())
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


def _ignore(_: Any) -> None:
    """Nobody wants to hear it."""
