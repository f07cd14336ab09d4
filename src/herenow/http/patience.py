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
from typing import Any, Final, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 65_536
"""Bytes of a request's line and headers, at most, beside those that came in the same segment."""

What = Literal["head", "body", "answer", "size"]
"""What took too long, or was too large."""

_ANSWERS: Final[dict[What, bytes]] = {
    "head": b"408 Request Timeout",
    "body": b"408 Request Timeout",
    "size": b"431 Request Header Fields Too Large",
}


class PatientHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with an end to its patience; see :func:`patient`."""

    patience_s: float
    cut: Callable[[What], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_size: int | None = 0  # None once it is complete
        self._began = False

    # -- uvicorn's own, with a deadline ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._wait_for("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_for(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_size is not None:
            if not self._began:
                self._began = True
                if self._deadline is None:  # after an answer, it was uvicorn that waited
                    self._wait_for("head")
            if self._head_size > MAX_HEAD:
                self._cut("size")
                return
            self._head_size += len(data)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._head_size = None
        self._wait_for("body")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._wait_for(None)
        self._head_size, self._began = 0, False
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._wait_for(None)
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        self._wait_for("answer")
        super().pause_writing()

    def resume_writing(self) -> None:
        self._wait_for(None)
        super().resume_writing()

    # -- the deadline --------------------------------------------------------------------------------------------------

    def _wait_for(self, what: What | None) -> None:
        """Wait for something from now on; ``None``: for nothing."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if what is None else self.loop.call_later(self.patience_s, self._cut, what)

    def _cut(self, what: What) -> None:
        self._wait_for(None)
        type(self).cut(what)
        is_answered = self.cycle is not None and self.cycle.response_started
        if what == "answer" or (is_answered and not self.cycle.response_complete):
            self.transport.abort()
            return
        if self._began and not (what == "body" and is_answered):
            line = _ANSWERS[what]
            self.transport.write(b"HTTP/1.1 " + line + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()


def patient(patience_s: float, cut: Callable[[What], None]) -> type[PatientHttp]:
    """Make the class that uvicorn is to use.

    Args:
        patience_s: how long a head, a body and each pause in reading an answer may take.
        cut: told of each connection that is cut off, and why.
    """
    return type("PatientHttp", (PatientHttp,), {"patience_s": patience_s, "cut": staticmethod(cut)})
