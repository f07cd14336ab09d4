"""One Engine.IO v4 session as a state machine. Sans-I/O: packets and the time in, events and packets out.

The law (docs/engine.io-protocol/v4-current.md; where it is silent, the reference server):

* A session is carried by one transport, ``polling`` or ``websocket``. It may move from the first to the second once,
  through a *probe*: a second transport that says ``2probe``, is answered ``3probe``, and takes over with ``5``.
* A heartbeat of the server's: ``2`` every ``ping_interval_ms``, answered by ``3`` within ``ping_timeout_ms`` of when it
  arrived: while it is on its way behind what a slow peer takes, that peer is not asked yet. A ping may go before its
  time, ahead of something large; a client counts from the last one.
* A polling client has at most one GET and one POST under way. A second one closes the session.
* A malformed packet, or one that the client must not send here, closes the session at once.
* A session closes once. Its reason never changes, and after it nothing is received and nothing but the last words
  (``1`` or ``6`` to a waiting GET) is sent.

::

                 receive_probe("2probe")          receive_probe("5")
    POLLING ────────────────────────────▶ PROBED ────────────────────▶ WEBSOCKET
       ▲   begin_probe ▶ PROBING             │ probe_lost
       └───────────────────┴─────────────────┘
    any ── client | server | transport closed | ping timeout | transport error | bad packet ──▶ CLOSED

The shells own the sockets. They call an input, hand the events on, then take ``data_to_send()`` for the transport
that carries the session, ``probe_data_to_send()`` for the one that probes, or ``poll_data()`` for a waiting GET.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import msgspec

from .. import packets
from ..errors import BadPacket


class Reason(StrEnum):
    """Why a session, or a socket in a namespace, closed."""

    CLIENT = "client"
    SERVER = "server"
    SENT_AWAY = "sent away"
    """By the server too, but the client is to come back: it ends as a lost connection does, without a word."""
    TRANSPORT_CLOSED = "transport closed"
    PING_TIMEOUT = "ping timeout"
    TRANSPORT_ERROR = "transport error"
    BAD_PACKET = "bad packet"


class Transport(StrEnum):
    """What carries a session."""

    POLLING = "polling"
    WEBSOCKET = "websocket"


Probe = Literal["none", "probing", "probed"]
"""How far an upgrade has come: nothing, a WebSocket is open, it has said ``2probe``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """How a session behaves. All times are in milliseconds.

    Attributes:
        ping_interval_ms: between two pings; sent to the client in the handshake.
        ping_timeout_ms: within which a pong is due; sent to the client in the handshake.
        max_payload: bytes of one message or polling body, at most; sent to the client in the handshake.
        upgrade_timeout_ms: within which a probing WebSocket must take over.
        random: gives a number in [0, 1) for the jitter of the pings.
    """

    ping_interval_ms: int = 25_000
    ping_timeout_ms: int = 20_000
    max_payload: int = 1_000_000
    upgrade_timeout_ms: int = 10_000
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        for name in ("ping_interval_ms", "ping_timeout_ms", "max_payload", "upgrade_timeout_ms"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


class MessageReceived(msgspec.Struct, frozen=True):
    """The client sent a message."""

    data: str | bytes


class PongReceived(msgspec.Struct, frozen=True):
    """The client is alive; the next ping falls due at another time than the pong would have."""


class Upgraded(msgspec.Struct, frozen=True):
    """The probing WebSocket carries the session from now on."""


class ProbeFailed(msgspec.Struct, frozen=True):
    """The probing WebSocket broke the rules or was too slow: close it. The session goes on over polling."""


class Closed(msgspec.Struct, frozen=True):
    """The session is closed; the last event of a session."""

    reason: Reason


Event = MessageReceived | PongReceived | Upgraded | ProbeFailed | Closed

_NEVER = float("inf")
_PONG = PongReceived()
PROBE_FAILED = ProbeFailed()

JITTER = (0.05, 0.15)
"""By which part of the interval a ping comes early. Early, so that every bound that the client counts on still holds;
apart, so that ten thousand sessions that began together do not ping together for ever."""


LOOKS = 5
"""So often within the time-out of a ping is it looked whether it is still on its way."""

MESSAGE_COST = 64
"""Bytes that a queued message counts for beside its length, so that empty ones cannot fill the memory."""


class Session:
    """An Engine.IO session.

    Args:
        sid: the session id; whoever knows it can speak for the session.
        transport: what the handshake came over.
        settings: shared by all sessions of a server.
        now_ms: the time of a monotonic clock, as in every other call.

    Attributes:
        reason: why the session closed; ``None`` while it is open.
        fault: what was wrong with what the client sent, if that is the reason.
        queued: the size of all messages that wait to be sent; each counts for ``MESSAGE_COST`` more than its length.
    """

    __slots__ = ("_look_at", "_outbox", "_ping_at", "_polling", "_pong_due", "_posting", "_probe", "_probe_due",
                 "_probe_out", "_settings", "fault", "queued", "reason", "sid", "transport")  # fmt: skip

    def __init__(self, sid: str, transport: Transport, settings: SessionSettings, now_ms: float) -> None:
        self.sid = sid
        self.transport = transport
        self.reason: Reason | None = None
        self.fault = ""
        self.queued = 0
        self._outbox: list[str | bytes] = []
        self._settings = settings
        self._probe: Probe = "none"
        self._probe_due = _NEVER
        self._probe_out: list[str] | None = None
        self._polling = False
        self._posting = False
        self._pong_due = _NEVER
        self._look_at = _NEVER
        self._ping_at = self._next_ping(now_ms)
        opened = {
            "sid": sid,
            "upgrades": ["websocket"] if transport is Transport.POLLING else [],
            "pingInterval": settings.ping_interval_ms,
            "pingTimeout": settings.ping_timeout_ms,
            "maxPayload": settings.max_payload,
        }
        self._outbox.append(packets.OPEN + msgspec.json.encode(opened).decode())

    # -- receiving -------------------------------------------------------------------------------------------------

    def receive(self, data: str | bytes) -> list[Event]:
        """Take one packet: a frame of the WebSocket that carries the session, or a part of a polling payload."""
        if self.reason is not None:
            return []
        if isinstance(data, bytes):
            return [MessageReceived(data)]
        try:
            kind, payload = packets.decode_text(data)
        except BadPacket as error:
            return self.refuse(str(error))
        if kind == packets.MESSAGE:
            return [MessageReceived(payload)]
        if kind == packets.PONG:
            self._pong_due = _NEVER
            return [_PONG]
        if kind == packets.CLOSE:
            return self._close(Reason.CLIENT)
        if kind == packets.NOOP:
            return []
        # OPEN and PING are the server's to send, UPGRADE belongs on the probing transport.
        return self.refuse("an Engine.IO packet that a client does not send here")

    def transport_lost(self, *, error: bool = False) -> list[Event]:
        """The WebSocket that carries the session, or a waiting GET, is gone: closed, or broken by an ``error``."""
        return self._close(Reason.TRANSPORT_ERROR if error else Reason.TRANSPORT_CLOSED)

    # -- polling ---------------------------------------------------------------------------------------------------

    def begin_poll(self) -> list[Event]:
        """A GET begins to wait; the shell answers it as soon as :meth:`poll_data` gives a body.

        Returns a ``Closed`` if another GET waits already ("a client MUST NOT have more than one active GET request.
        Should it happen, the server MUST return an HTTP 400 error status and close the session"): refuse this one.
        """
        if self._polling:
            return self.refuse("a second GET while one waits")
        self._polling = True
        return []

    def poll_data(self) -> str | None:
        """Return the body for the waiting GET, which ends it; ``None`` while there is nothing to say."""
        if not self._polling:
            return None
        if self.reason is not None:
            # The last words. Who closed it, or is to come back, is only let go; one that is put out is told so.
            is_told = self.reason not in (Reason.CLIENT, Reason.SENT_AWAY)
            body = [*self._take_outbox(), packets.CLOSE if is_told else packets.NOOP]
        elif self.transport is Transport.WEBSOCKET:
            body = [packets.NOOP]  # what is queued belongs to the WebSocket
        elif self._outbox:
            body = self._take_outbox()
        elif self._probe == "probed":
            body = [packets.NOOP]  # frees the client to finish its upgrade
        else:
            return None
        self._polling = False
        return packets.encode_payload(body)

    @property
    def polling(self) -> bool:
        """Whether a GET waits."""
        return self._polling

    def begin_post(self) -> list[Event]:
        """A POST begins; it ends with :meth:`end_post`.

        Returns a ``Closed`` if another POST is under way (the same rule as for GET): refuse this one.
        """
        if self._posting:
            return self.refuse("a second POST while one is under way")
        self._posting = True
        return []

    def end_post(self) -> None:
        """The POST has been answered."""
        self._posting = False

    # -- upgrade ---------------------------------------------------------------------------------------------------

    def begin_probe(self, now_ms: float) -> bool:
        """A WebSocket with this session's id has opened. Returns whether it may probe; if not, close it.

        "A client MUST NOT open more than one WebSocket connection per session. Should it happen, the server MUST
        close the WebSocket connection." The session itself is not touched.
        """
        if self.reason is not None or self.transport is Transport.WEBSOCKET or self._probe != "none":
            return False
        self._probe = "probing"
        self._probe_due = now_ms + self._settings.upgrade_timeout_ms
        return True

    def receive_probe(self, data: str | bytes) -> list[Event]:
        """Take one frame of the probing WebSocket."""
        if self._probe == "probing" and data == packets.PING + "probe":
            self._probe = "probed"
            self._probe_out = [packets.PONG + "probe"]
            return []
        if self._probe == "probed" and data == packets.UPGRADE:
            self._end_probe()
            self.transport = Transport.WEBSOCKET
            return [Upgraded()]
        return self.probe_lost()

    def probe_lost(self) -> list[Event]:
        """The probing WebSocket is gone, or must go. The session goes on over polling."""
        if self._probe == "none":
            return []
        self._end_probe()
        return [PROBE_FAILED]

    def probe_data_to_send(self) -> list[str]:
        """Return the packets for the probing WebSocket, each a frame of its own; it empties the queue."""
        out, self._probe_out = self._probe_out or [], None
        return out

    def _end_probe(self) -> None:
        self._probe = "none"
        self._probe_due = _NEVER

    # -- time ------------------------------------------------------------------------------------------------------

    def due_ms(self) -> float:
        """When :meth:`advance` has something to do next."""
        beat = self._ping_at if self._pong_due == _NEVER else min(self._look_at, self._pong_due)
        return min(beat, self._probe_due)

    def advance(self, now_ms: float) -> list[Event]:
        """Let time pass: a ping goes out, a pong is overdue, a probe took too long."""
        if self.reason is not None:
            return []
        if now_ms >= self._pong_due:
            return self._close(Reason.PING_TIMEOUT)
        if now_ms >= self._ping_at:
            self.ping(now_ms)
        return self.probe_lost() if now_ms >= self._probe_due else []

    def ping(self, now_ms: float) -> None:
        """Queue a ping, now and not when it is time; nothing while another waits for its answer."""
        if self._pong_due == _NEVER and self.reason is None:
            self._outbox.append(packets.PING)
            self._ping_at = self._next_ping(now_ms)
            self._pong_due = now_ms + self._settings.ping_timeout_ms
            self._look_at = now_ms + self._settings.ping_timeout_ms / LOOKS

    def is_late(self, now_ms: float) -> bool:
        """Whether it is time to look if the ping that waits for its answer has arrived; then call :meth:`looked`."""
        return now_ms >= self._look_at and self._pong_due != _NEVER

    def looked(self, now_ms: float, *, moves: bool) -> None:
        """Note whether the ping, or what was sent before it, ``moves`` towards a peer that takes it.

        Then the peer is there, and has not been asked yet: its answer is due within the time-out from now.
        """
        self._look_at = now_ms + self._settings.ping_timeout_ms / LOOKS
        if moves:
            self._pong_due = now_ms + self._settings.ping_timeout_ms

    def _next_ping(self, now_ms: float) -> float:
        low, high = JITTER
        return now_ms + self._settings.ping_interval_ms * (1 - low - (high - low) * self._settings.random())

    # -- outputs ---------------------------------------------------------------------------------------------------

    def send(self, *messages: str | bytes) -> None:
        """Queue messages, in their order. A closed session drops them."""
        if self.reason is None:
            self._outbox += [packets.MESSAGE + data if isinstance(data, str) else data for data in messages]
            self.queued += sum(map(len, messages)) + MESSAGE_COST * len(messages)

    @property
    def has_more(self) -> bool:
        """Whether something is queued that no transport has taken yet."""
        return bool(self._outbox)

    def data_to_send(self) -> list[str | bytes]:
        """Return the packets for the WebSocket that carries the session, each a frame of its own; empties the queue.

        While polling carries it, what is queued waits for :meth:`poll_data`.
        """
        if self.transport is Transport.POLLING:
            return []
        return self._take_outbox()

    def _take_outbox(self) -> list[str | bytes]:
        out, self._outbox = self._outbox, []
        self.queued = 0
        return out

    def close(self, *, may_return: bool = False) -> list[Event]:
        """Close the session from this side; ``may_return`` says that the client is to come back by itself."""
        return self._close(Reason.SENT_AWAY if may_return else Reason.SERVER)

    def refuse(self, fault: str) -> list[Event]:
        """Close the session because what the client sent is malformed, as this layer or the one above found.

        Args:
            fault: what is wrong with it; one of few sentences, without anything of what was sent.
        """
        return self._close(Reason.BAD_PACKET, fault)

    def _close(self, reason: Reason, fault: str = "") -> list[Event]:
        if self.reason is not None:
            return []
        self.reason, self.fault = reason, fault
        return [*self.probe_lost(), Closed(reason)]
