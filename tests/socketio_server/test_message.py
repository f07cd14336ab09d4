"""Frames as this package builds them, read by the library that parses everybody else's."""

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from herenow.socketio_server.message import Message, frame, frames


def parse(data: bytes) -> list[Frame]:
    protocol = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN, max_size=None)
    protocol.receive_data(data)
    assert protocol.parser_exc is None
    return [event for event in protocol.events_received() if isinstance(event, Frame)]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_frame_of_any_length_is_read_back(length: int) -> None:
    [text] = parse(frame("é" * (length // 2) + "x" * (length % 2)))
    assert (text.opcode, text.fin, len(text.data)) == (Opcode.TEXT, True, length)
    [binary] = parse(frame(b"\xff" * length))
    assert (binary.opcode, binary.fin, bytes(binary.data)) == (Opcode.BINARY, True, b"\xff" * length)


def test_a_message_is_framed_once_for_all() -> None:
    message = Message('2["a"]', b"\x01")
    assert message.frames() is message.frames()
    assert message.asgi() is message.asgi()
    assert [(each.opcode, bytes(each.data)) for each in parse(message.frames())] == [
        (Opcode.TEXT, b'42["a"]'),
        (Opcode.BINARY, b"\x01"),
    ]
    assert message.asgi() == [
        {"type": "websocket.send", "text": '42["a"]'},
        {"type": "websocket.send", "bytes": b"\x01"},
    ]
    assert frames([]) == b""
