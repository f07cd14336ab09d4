"""How long, and how much, an HTTP connection may keep the server waiting. uvicorn itself waits for ever.

- The head of a request must be there within the time-out, counted from the connection's first moment or from the end of
  the answer before (where uvicorn's own keep-alive of five seconds is shorter), however slowly its bytes drip.
- So must its body, counted from its head. Socket.IO's polling has a bound of its own, which is as long as its
  heartbeat.
- Who reads an answer so slowly that nothing of it moves for that long is cut off. A WebSocket has its own rules.
- A head has at most ``MAX_HEAD`` bytes: uvicorn would keep as many headers as are sent.

Who had begun a request is told (408, 431) before the connection is closed; who had said nothing, is not.
"""

import asyncio
from collections.abc import Callable
from itertools import islice
from time import monotonic
from typing import Any, Final, Literal

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from herenow.supervision import OnFault, tell_loop

MAX_HEAD: Final = 65_536
"""Bytes of a request's line and headers, at most, beside those that came in the same segment."""

_AT_ONCE: Final = 50
_PAUSE_S: Final = 0.01
"""So many are cut off at once, and the next after a pause."""

What = Literal["head", "body", "answer", "size"]
"""What took too long, or was too large."""

_LATE: Final = ("408 Request Timeout", "timeout", "the request was not there in time")
_ANSWERS: Final[dict[What, tuple[str, str, str]]] = {
    "head": _LATE,
    "body": _LATE,
    "size": ("431 Request Header Fields Too Large", "too_large", f"a head of more than {MAX_HEAD} bytes"),
}
_NO_HTTP: Final = ("400 Bad Request", "bad_request", "what came is not a request of HTTP/1.1")


def _answer(status: str, code: str, message: str) -> bytes:
    """Build an answer in the form of all others (``http/errors.py``); there is no application behind it."""
    body = msgspec.json.encode({"error": {"code": code, "message": message, "temporary": code == "timeout"}})
    head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class Waits:
    """Who is waited for, and since when. All are waited for equally long, so that who came first is due first: one
    timer of the event loop does for all, where one for each connection would be a good part of what a connect costs.

    Args:
        patience_s: how long.
        on_fault: told of what raises.
    """

    def __init__(self, patience_s: float, on_fault: OnFault = tell_loop) -> None:
        self._patience_s = patience_s
        self._on_fault = on_fault
        self._waits: dict[PatientHttp, tuple[float, What]] = {}  # until when; in this order
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, protocol: "PatientHttp") -> bool:
        return protocol in self._waits

    def begin(self, protocol: "PatientHttp", what: What) -> None:
        """Wait for something from now on, and for nothing else."""
        self.end(protocol)
        self._waits[protocol] = (monotonic() + self._patience_s, what)
        if self._timer is None:
            self._timer = protocol.loop.call_later(self._patience_s, self._look, protocol.loop)

    def end(self, protocol: "PatientHttp") -> None:
        """Wait for nothing more."""
        self._waits.pop(protocol, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cut those off who are due; come back for the next. A crowd of them goes in parts, with the others between."""
        self._timer = None
        now_s, wait_s = monotonic(), _PAUSE_S
        for protocol, (due_s, what) in list(islice(self._waits.items(), _AT_ONCE)):
            if due_s > now_s:
                wait_s = due_s - now_s
                break
            try:
                protocol.cut_off(what)
            except Exception as error:  # of one, who is waited for no more: the others go on to be watched
                self._on_fault("patience", error)
                protocol.transport.abort()
        if self._waits:
            self._timer = loop.call_later(wait_s, self._look, loop)


class PatientHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with an end to its patience; see :func:`patient`."""

    waits: Waits
    cut: Callable[[What], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_size: int | None = 0  # None once it is complete
        self._began = False
        self._is_unread = False

    # -- uvicorn's own, with a deadline ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
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
        self.waits.begin(self, "answer")
        super().pause_writing()

    def resume_writing(self) -> None:
        self._is_unread = False
        self._wait_on()
        super().resume_writing()

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


def patient(patience_s: float, cut: Callable[[What], None], on_fault: OnFault = tell_loop) -> type[PatientHttp]:
    """Make the class that uvicorn is to use.

    Args:
        patience_s: how long a head, a body and each pause in reading an answer may take.
        cut: told of each connection that is cut off, and why.
        on_fault: told of what raises.
    """
    return type("PatientHttp", (PatientHttp,), {"waits": Waits(patience_s, on_fault), "cut": staticmethod(cut)})
