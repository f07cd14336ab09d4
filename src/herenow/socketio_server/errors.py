"""Every error of the Socket.IO server, one tree.

::

    SocketIOError
    ├── BadPacket          the peer sent what the protocol does not allow; its session is closed at once
    ├── RequestRefused     an HTTP request or WebSocket handshake that the protocol refuses
    ├── ConnectRefused     raised by a connect handler: the client gets a CONNECT_ERROR
    ├── CallTimeout        the client did not acknowledge in time
    └── Disconnected       the client went away before it acknowledged

``BadPacket`` and ``RequestRefused`` are the peer's fault and never leave this package; the others are the
application's to raise or to catch.
"""

from typing import Any


class SocketIOError(Exception):
    """The base of all errors of this package."""


class BadPacket(SocketIOError):
    """The peer sent bytes that are no packet, or a packet that the protocol does not allow here."""


class RequestRefused(SocketIOError):
    """A request that the protocol refuses, with the answer that Engine.IO clients know.

    Attributes:
        status: the HTTP status code.
        code: Engine.IO's own error number, sent in the body.
        message: Engine.IO's sentence, sent in the body; with what was wrong, where that is known.
        counted_as: what a handshake that is refused so counts as.

    Args:
        fault: what was wrong.
    """

    counted_as: str = "bad_request"
    status: int = 400
    code: int = 3
    message: str = "Bad request"

    def __init__(self, fault: str = "") -> None:
        super().__init__(fault)
        if fault:
            self.message = f"{self.message}: {fault}"


class UnknownTransport(RequestRefused):
    """The ``transport`` parameter is missing or is neither ``polling`` nor ``websocket``."""

    code = 0
    message = "Transport unknown"


class UnknownSession(RequestRefused):
    """No open session has this ``sid``."""

    code = 1
    message = "Session ID unknown"


class BadMethod(RequestRefused):
    """The HTTP method does not fit: a handshake is a GET."""

    code = 2
    message = "Bad handshake method"


class Forbidden(RequestRefused):
    """The request comes from an origin that is not allowed."""

    counted_as = "forbidden"
    status = 403
    code = 4
    message = "Forbidden"


class UnsupportedVersion(RequestRefused):
    """The ``EIO`` parameter is missing or is not 4: a client older than Socket.IO v3."""

    code = 5
    message = "Unsupported protocol version"


class TooLarge(RequestRefused):
    """The request body is above the maximum payload."""

    status = 413
    message = "Payload too large"


class QueryTooLong(RequestRefused):
    """A query string that is longer than is worth keeping."""

    status = 414
    message = "Query string too long"


class HeadersTooLarge(RequestRefused):
    """A handshake with more headers than are worth keeping."""

    status = 431
    message = "Request header fields too large"


class TooManySessions(RequestRefused):
    """The address has as many sessions as one may have."""

    counted_as = "too_many_connections"
    status = 429
    message = "Too many connections from this address"


class ShuttingDown(RequestRefused):
    """The server is stopping and opens no new session."""

    counted_as = "shutting_down"
    status = 503
    message = "Server is shutting down"


class ConnectRefused(SocketIOError):
    """Raised by a connect handler to refuse the client.

    Args:
        message: the sentence that the client's ``connect_error`` event carries.
        data: any JSON value, sent along as ``error.data``; left out when ``None``.
    """

    def __init__(self, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class CallTimeout(SocketIOError):
    """The client did not acknowledge an event within the time-out of the call."""


class Disconnected(SocketIOError):
    """The client is not, or no longer, connected, so it will not acknowledge."""
