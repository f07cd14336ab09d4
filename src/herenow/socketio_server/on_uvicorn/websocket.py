"""Shell 1, the fast path: a uvicorn WebSocket protocol class that speaks Engine.IO straight on the transport.

    uvicorn app:app --ws herenow.socketio_server:FastWebSocket

uvicorn makes one for each upgrade request. One for another path than an engine's is handed, byte for byte, to uvicorn's
own implementation. ``transports.asgi.EngineApp`` puts the engines into the lifespan state (``STATE_KEY``).

The handshake, parsing, unmasking, pongs and the closing handshake are ``websockets``' sans-I/O ``ServerProtocol``.
Sending is ours: a prebuilt frame, one system call; no task, no queue, no await a recipient.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, PayloadTooBig, ProtocolError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from herenow.logs import Guarded
from herenow.progress import Progress, hold_little, progress_of

from ..closing import Cut
from ..engineio.connection import Connection, Handshake
from ..engineio.engine import STATE_KEY, Engine
from ..engineio.session import Reason, Transport
from ..engineio.turns import READ_SLICE, TURN_S, Allowance
from ..errors import RequestRefused
from ..message import Message, frames
from ..queries import PLAIN_HANDSHAKE
from ..transports.requests import WEBSOCKET_LOGGER, refusal_response, switching_response
from . import upgrade
from .upgrade import GOODBYE, HOP_HEADERS, ends_with_goodbye, headers_of, peer_of

log = Guarded(logging.getLogger(WEBSOCKET_LOGGER), {})


class FastWebSocket(asyncio.Protocol):
    """One WebSocket connection of uvicorn's; a ``WebSocketLink`` (``connection.py``) once it belongs to a session.

    The arguments are those that uvicorn gives every protocol class.
    """

    __slots__ = ("_allowance", "_app_state", "_config", "_connection", "_cut", "_direct", "_engine", "_fd",
                 "_fragments", "_held", "_other", "_protocol", "_server_state", "_text", "_transport", "_unread",
                 "_waiting", "full", "ready")  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._other: Any = None  # uvicorn's own protocol, for a path that is not ours
        self._protocol: ServerProtocol | None = None
        self._connection: Connection | None = None
        self._fragments: bytearray | None = None
        self._text = False
        self._held = False
        self._unread = b""
        self._allowance = Allowance()
        self._engine: Engine | None = None
        self._waiting = False  # for its turn to read on
        self._cut: Cut | None = None
        self.full = False
        self.ready = False
        self._direct = -1  # the descriptor while it may be written to: ready, and nothing waits in the transport

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; what it is for shows in the request."""
        self._transport = cast(asyncio.Transport, transport)
        upgrade.dissolve(self._transport.get_protocol())
        self._fd = upgrade.writable_fd(self._transport)

    def data_received(self, data: bytes) -> None:
        """Take the request first, then frames."""
        if self._other is not None:
            self._other.data_received(data)
        elif self._engine is None:
            self._request_received(data)
        elif self._protocol is None:
            pass  # it is refused, or over: what still comes is nobody's
        elif self._held or self._waiting:
            self._unread += data  # what was on its way when reading was paused
        else:
            self._read(self._protocol, data)

    def eof_received(self) -> bool | None:
        """The peer is gone. The transport closes, once it has written what the peer may never read: not for ever."""
        if self._other is not None:
            return cast("bool | None", self._other.eof_received())
        self._lost(error=False)
        self._cut_later()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._other is not None:
            self._other.connection_lost(exc)
            return
        self._server_state.connections.discard(self)
        self._unread, self._held = b"", False
        if self._cut is not None:
            self._cut.cancel()
        self._lost(error=exc is not None)

    def pause_writing(self) -> None:
        """More than the high mark is unsent."""
        if self._other is not None:
            self._other.pause_writing()
            return
        self.full = True
        self._unready()
        if self._connection is not None:
            if self._connection.link is self:
                self._connection.became_slow()
            else:
                self.hold()  # a probe has nothing to say that it would not read the answer to

    def resume_writing(self) -> None:
        """Less than the low mark is unsent."""
        if self._other is not None:
            self._other.resume_writing()
            return
        self.full = False
        connection = self._connection
        if connection is not None:
            self.ready = True
            if self._held and not (connection.link is self and connection.held):
                self.release()
            if connection.link is self:
                connection.became_drained()

    def shutdown(self) -> None:
        """uvicorn stops: the engine closes all its sessions, not only this one, so that all are told at once."""
        if self._other is not None:
            self._other.shutdown()
        elif self._connection is not None:
            self._connection.engine.stop()
        elif self._cut is None:  # else it is ending already, and has its time
            self._transport.close()

    # -- the request -----------------------------------------------------------------------------------------------

    def _request_received(self, data: bytes) -> None:
        """uvicorn hands over the head of the upgrade request, whole and in one piece, and has parsed it already."""
        method, target, _ = (part.decode("latin-1") for part in data.split(b" ", 2))
        path, _, query = target.partition("?")
        engines: dict[str, Engine] = self._app_state.get(STATE_KEY, {})
        engine = engines.get(path) or engines.get(path + "/")
        if engine is None:
            self._hand_over(data)
            return
        self._engine = engine
        if engine.siblings is not None and upgrade.give_away(engine.siblings, query, self._fd, data):
            self._transport.abort()
            return
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # typed for uvicorn's own classes
        headers = headers_of(data)
        try:
            connection = engine.admit(Transport.WEBSOCKET, "GET", query, headers, peer_of(self._transport))
        except RequestRefused as refusal:
            self._refuse(refusal_response(refusal))
            return
        hold_little(self._transport)
        self._transport.set_write_buffer_limits(engine.settings.write_buffer_high, engine.settings.write_buffer_low)
        # Open from the start: its parser would else keep the request for as long as the connection lives.
        self._protocol = ServerProtocol(state=State.OPEN, max_size=engine.settings.max_payload, logger=log)
        named = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name in HOP_HEADERS]
        request = Request(target, Headers(named), method)
        try:
            accepted, *_ = self._protocol.process_request(request)
        except InvalidHandshake:
            engine.refused(RequestRefused("no valid WebSocket handshake"), headers, peer_of(self._transport))
            self._refuse(self._protocol.accept(request).serialize())  # which says what is wrong with it
        else:
            self._accept(engine, connection, query, headers, switching_response(accepted))

    def _refuse(self, response: bytes) -> None:
        self._write(response)
        self._transport.close()
        self._cut_later()

    def _accept(
        self,
        engine: Engine,
        connection: Connection | None,
        query: str,
        headers: list[tuple[bytes, bytes]],
        response: bytes,
    ) -> None:
        self.ready = True
        engine.heard_on(self._transport.get_extra_info("sockname"))
        if connection is not None:
            self._write(response)
            if engine.websocket_opened(connection, self):
                self._connection = connection
            else:
                self._close(CloseCode.POLICY_VIOLATION, "the session has a WebSocket already")
            return
        kept = tuple(header for header in headers if header[0] not in HOP_HEADERS)
        query = PLAIN_HANDSHAKE if query == PLAIN_HANDSHAKE else query  # one object for nearly all
        self._connection = engine.open(Transport.WEBSOCKET, self, Handshake(query, kept, peer_of(self._transport)))
        # One write for the response and the open packet: a system call less, and a wake-up less for the client.
        self._write(response + frames(self._connection.session.data_to_send()))
        engine.start(self._connection)

    def _hand_over(self, data: bytes) -> None:
        if AutoWebSocketsProtocol is None:
            raise AssertionError("uvicorn finds no WebSocket library, though websockets is installed")
        self._other = AutoWebSocketsProtocol(
            config=self._config, server_state=self._server_state, app_state=self._app_state
        )
        self._other.connection_made(self._transport)
        self._other.data_received(data)

    # -- frames in -------------------------------------------------------------------------------------------------

    def _read(self, protocol: ServerProtocol, data: bytes) -> None:
        """Parse what came: at once, if that is little, else in turn."""
        now_s = monotonic()
        if len(data) > READ_SLICE or self._allowance.is_spent(now_s):
            self._unread = data
            if not self._transport.is_closing():
                self._transport.pause_reading()
            self._read_on()
            return
        clock = self._allowance.clock(now_s)
        began_s = clock()
        self._parse(protocol, data)
        self._allowance.spend(now_s, clock() - began_s)

    def _parse(self, protocol: ServerProtocol, data: bytes) -> None:
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Frame):
                self._frame_received(protocol, event)
        if protocol.close_rcvd is not None and self._connection is not None and ends_with_goodbye(data):
            self._connection.engine.websocket_received(self._connection, self, GOODBYE)
        if self._protocol is not None:
            self._answer(protocol)  # also while closing: the peer's close frame is still to come

    def _frame_received(self, protocol: ServerProtocol, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            self._text = frame.opcode is Opcode.TEXT
            if frame.fin:
                self._message_received(protocol, frame.data)
            else:
                # One bytearray, not a list: a million empty continuation frames must cost nothing.
                self._fragments = bytearray(frame.data)
        elif frame.opcode is Opcode.PING and self.full and self._protocol is not None:
            # Its pong is on its way already, behind what the peer does not read. The next ones must wait.
            self.hold()
        elif frame.opcode is Opcode.CONT and self._fragments is not None:
            self._fragments += frame.data
            if frame.fin:
                message, self._fragments = self._fragments, None
                self._message_received(protocol, message)

    def _message_received(self, protocol: ServerProtocol, data: bytes | bytearray | memoryview) -> None:
        message: str | bytes = bytes(data)
        if self._text:
            try:
                message = bytes(data).decode()
            except UnicodeDecodeError:
                if protocol.state is State.OPEN:
                    protocol.fail(CloseCode.INVALID_DATA, "a text message is not UTF-8")
                self._note_fault("a text message is not UTF-8")
                self._lost(error=True)
                return
        if self._connection is not None:
            self._connection.engine.websocket_received(self._connection, self, message)

    def _answer(self, protocol: ServerProtocol) -> None:
        """Write what the protocol has to say by itself: the response, pongs, close frames, the end."""
        for chunk in protocol.data_to_send():
            if chunk:
                self._write(chunk)
            else:
                self._transport.close()
                self._cut_later()
        if protocol.close_rcvd is not None or protocol.parser_exc is not None:
            if isinstance(protocol.parser_exc, PayloadTooBig):
                self._note_fault("a message of more than max_payload")
            elif isinstance(protocol.parser_exc, ProtocolError):
                self._note_fault("a frame is no valid WebSocket")
            self._lost(error=protocol.parser_exc is not None)

    def _note_fault(self, fault: str) -> None:
        if self._connection is not None:
            self._connection.engine.note_fault(self._connection, fault)

    def _lost(self, *, error: bool) -> None:
        """The peer is gone or broke WebSocket's rules. The first word counts."""
        self._unready()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.engine.websocket_lost(connection, self, error=error)

    # -- engine.WebSocketLink --------------------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        """Write a message's prebuilt frames: straight into the socket, if nothing waits before them (decision 008)."""
        data = message.frames()
        if self._direct < 0 and not self._may_write_directly():
            if not self.ready:
                return False
            self._write(data)
            return True
        try:
            sent = os.write(self._direct, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._unready()
            # Told later: the caller may be in a loop over many. And by us: an aborted transport knows of no error.
            asyncio.get_running_loop().call_soon(partial(self._lost, error=True))
            self._transport.abort()
            return False
        if sent < len(data):
            self._write(data[sent:])
        return True

    def _may_write_directly(self) -> bool:
        """Ask the transport, after something was written through it."""
        if self.ready and not self._transport.get_write_buffer_size():
            self._direct = self._fd
        return self._direct >= 0

    def _write(self, data: bytes) -> None:
        """Write behind what waits in the transport."""
        self._direct = -1
        self._transport.write(data)

    def _unready(self) -> None:
        self.ready = False
        self._direct = -1

    def write(self, packets: Sequence[str | bytes]) -> None:
        """Write packets, a frame each, even when full: they are the protocol's own."""
        self._write(frames(packets))

    def flush(self) -> None:
        """Write what the session has queued."""
        if self._connection is not None and (out := self._connection.session.data_to_send()):
            self.write(out)

    def close(self, reason: Reason) -> None:
        """Flush, then begin the closing handshake; who is to come back gets none."""
        self.flush()
        connection, self._connection = self._connection, None
        if connection is not None and reason is Reason.SENT_AWAY:
            self._hang_up()
        elif connection is not None:
            self._close(connection.engine.close_code(reason), connection.last_words(reason))

    def _hang_up(self) -> None:
        """End the connection as the network does (decision 037), once what waits in it is written.

        Only our half, where that can be: a socket with something unread that is closed whole is reset, and the peer
        loses what it had not read.
        """
        self._unready()
        if self._transport.is_closing():
            return
        self._protocol, self._unread, self._held = None, b"", False
        self._transport.resume_reading()
        self._cut_later()
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()
        except OSError:  # it is reset already
            self._transport.abort()

    def _close(self, code: int, reason: str) -> None:
        self._unready()
        if self._held:
            self.release()  # to hear the peer's close frame
        if self._protocol is None or self._protocol.state is not State.OPEN or self._transport.is_closing():
            return
        self._protocol.send_close(code, reason)
        self._answer(self._protocol)
        self._cut_later()

    def _cut_later(self) -> None:
        """Give the peer some time to read the end and to answer it; one that does neither must not keep the socket."""
        if self._cut is None and self._engine is not None:
            self._cut = Cut(self._transport, self._engine.clock)

    def progress(self) -> Progress:
        """How far the peer has come."""
        return progress_of(self._transport)

    def hold(self) -> None:
        """Stop reading."""
        self._held = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def release(self) -> None:
        """Read again, first what was left unparsed."""
        self._held = False
        self._read_on()

    def forget(self) -> None:
        """Drop the connection, which is over."""
        self._connection = None

    def _read_on(self) -> None:
        """Go on with reading at this connection's next turn."""
        if not self._waiting and self._engine is not None:
            self._waiting = True
            self._engine.turns.ask(self._take_turn)

    def _take_turn(self) -> None:
        self._waiting = False
        protocol = self._protocol
        if self._held or protocol is None:
            return
        data, self._unread = self._unread, b""
        end = monotonic() + TURN_S
        for at in range(0, len(data), READ_SLICE):
            if self._held or monotonic() > end:
                self._unread = data[at:]
                if not self._held:
                    self._read_on()
                return
            self._parse(protocol, data[at : at + READ_SLICE])
            if self._protocol is None:
                return
        if not self._held and not self._transport.is_closing():
            self._transport.resume_reading()
