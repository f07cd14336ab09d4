"""How long, and how much, an HTTP connection may keep the server waiting. uvicorn itself waits for ever.

- The head of a request must be there within the time-out, counted from the connection's first moment or from the end of
  the answer before (where uvicorn's own keep-alive of five seconds is shorter), however slowly its bytes drip.
- So must its body, counted from its head. Socket.IO's polling has a bound of its own, which is as long as its
  heartbeat.
- Who reads an answer so slowly that nothing of it moves for that long is cut off. A WebSocket has its own rules.
- A head has at most ``MAX_HEAD`` bytes: uvicorn would keep as many headers as are sent.

Who had begun a request is told (408, 431) before the connection is closed; who had said nothing, is not. And who comes
when there is no room is told so (503) at once.
"""

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, Literal

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from herenow.progress import TRANSPORT, progress_of
from herenow.steady import Steady, Timer
from herenow.supervision import OnFault, tell_loop

MAX_HEAD: Final = 65_536
"""Bytes of a request's line and headers, at most, beside those that came in the same segment."""

_AT_ONCE: Final = 50
_PAUSE_S: Final = 0.01
"""So many are cut off at once, and the next after a pause."""

What = Literal["head", "body", "answer", "size"]
"""What took too long, or was too large."""

_TEMPORARY: Final = ("timeout", "too_many_connections")

_LATE: Final = ("408 Request Timeout", "timeout", "the request was not there in time")
_ANSWERS: Final[dict[What, tuple[str, str, str]]] = {
    "head": _LATE,
    "body": _LATE,
    "size": ("431 Request Header Fields Too Large", "too_large", f"a head of more than {MAX_HEAD} bytes"),
}
_NO_ROOM: Final = (
    "503 Service Unavailable",
    "too_many_connections",
    "no file descriptors left: come again in a moment",
)
_NO_HTTP: Final = ("400 Bad Request", "bad_request", "what came is not a request of HTTP/1.1")


def _answer(status: str, code: str, message: str) -> bytes:
    """Build an answer in the form of all others (``http/errors.py``); there is no application behind it."""
    body = msgspec.json.encode({"error": {"code": code, "message": message, "temporary": code in _TEMPORARY}})
    head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class Waits:
    """Who is waited for, and since when. All are waited for equally long, so that who came first is due first: one
    timer of the event loop does for all, where one for each connection would be a good part of what a connect costs.

    Args:
        patience_s: how long.
        clock: by which.
        on_fault: told of what raises.
    """

    def __init__(self, patience_s: float, clock: Steady, on_fault: OnFault = tell_loop) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._on_fault = on_fault
        self._waits: dict[PatientHttp, tuple[float, What]] = {}  # until when; in this order
        self._timer: Timer | None = None

    def __contains__(self, protocol: "PatientHttp") -> bool:
        return protocol in self._waits

    def begin(self, protocol: "PatientHttp", what: What) -> None:
        """Wait for something from now on, and for nothing else."""
        self.end(protocol)
        self._waits[protocol] = (self._clock.now_ms() + self._patience_s * 1000, what)
        if self._timer is None:
            self._timer = self._clock.call_later(self._patience_s, self._look)

    def end(self, protocol: "PatientHttp") -> None:
        """Wait for nothing more."""
        self._waits.pop(protocol, None)

    def _look(self) -> None:
        """Cut those off who are due; come back for the next. A crowd of them goes in parts, with the others between."""
        self._timer = None
        now_ms, wait_s = self._clock.now_ms(), _PAUSE_S
        for protocol, (due_ms, what) in list(islice(self._waits.items(), _AT_ONCE)):
            if due_ms > now_ms:
                wait_s = (due_ms - now_ms) / 1000
                break
            try:
                if what == "answer" and protocol.has_moved():
                    self.begin(protocol, what)
                else:
                    protocol.cut_off(what)
            except Exception as error:  # of one, who is waited for no more: the others go on to be watched
                self._on_fault("patience", error)
                protocol.transport.abort()
        if self._waits and self._timer is None:
            self._timer = self._clock.call_later(wait_s, self._look)


class PatientHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with an end to its patience; see :func:`patient`."""

    waits: Waits
    cut: Callable[[What], None]
    may_stay: Callable[[int], bool]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_size: int | None = 0  # None once it is complete
        self._began = False
        self._is_unread = False
        self._acknowledged = 0

    # -- uvicorn's own, with a deadline ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        socket = transport.get_extra_info("socket")
        if socket is not None and not type(self).may_stay(socket.fileno()):
            transport.write(_answer(*_NO_ROOM))
            transport.close()
            return
        self.waits.begin(self, "head")

    def connection_lost(self, exc: Exception | None) -> None:
        self.waits.end(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_size is not None:
            if not self._began:
                self._began = True
                if self not in self.waits:  # after an answer, it was uvicorn that waited
                    self.waits.begin(self, "head")
            if self._head_size > MAX_HEAD:
                self.cut_off("size")
                return
            self._head_size += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: {"transport": self.transport}}

    def on_headers_complete(self) -> None:
        self._head_size = None
        self._wait_on()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_size, self._began = 0, False
        self._wait_on()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self.transport.write(_answer(*_NO_HTTP))
        self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        self.waits.end(self)
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        self._is_unread = True
        self.has_moved()
        self.waits.begin(self, "answer")
        super().pause_writing()

    def resume_writing(self) -> None:
        self._is_unread = False
        self._wait_on()
        super().resume_writing()

    def has_moved(self) -> bool:
        """Whether the peer has taken something since the last call."""
        before, self._acknowledged = self._acknowledged, progress_of(self.transport).acknowledged
        return self._acknowledged > before

    def _wait_on(self) -> None:
        """Wait for what is next: while an answer is not read, for nothing else, whatever comes behind its request."""
        if self._is_unread:
            return
        if self._head_size is None:
            self.waits.begin(self, "body")
        elif self._began:
            self.waits.begin(self, "head")
        else:
            self.waits.end(self)

    # -- the end -------------------------------------------------------------------------------------------------------

    def cut_off(self, what: What) -> None:
        """End a connection that took too long, or sent too much; tell it, if it had begun a request."""
        self.waits.end(self)
        is_answered = self.cycle is not None and self.cycle.response_started
        if what == "answer" or (is_answered and not self.cycle.response_complete):
            self.transport.abort()
        else:
            if self._began and not (what == "body" and is_answered):
                self.transport.write(_answer(*_ANSWERS[what]))
            self.transport.close()
        type(self).cut(what)


def patient(
    patience_s: float,
    cut: Callable[[What], None],
    may_stay: Callable[[int], bool] = lambda _: True,
    *,
    clock: Steady | None = None,
    on_fault: OnFault = tell_loop,
) -> type[PatientHttp]:
    """Make the class that uvicorn is to use.

    Args:
        patience_s: how long a head, a body and each pause in reading an answer may take.
        cut: told of each connection that is cut off, and why.
        may_stay: whether there is room for a new connection, which has this file descriptor.
        clock: by which they are waited for; by default one of its own.
        on_fault: told of what raises.
    """
    members = {
        "waits": Waits(patience_s, clock or Steady(), on_fault),
        "cut": staticmethod(cut),
        "may_stay": staticmethod(may_stay),
    }
    return type("PatientHttp", (PatientHttp,), members)
