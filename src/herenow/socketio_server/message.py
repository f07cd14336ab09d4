"""One outgoing message in every form that a shell writes, each built once, at its first use.

This is where fan-out gets its speed: an event for ten thousand sessions is encoded and framed once, and each delivery
is one ``transport.write`` of the same ``bytes``.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from . import packets

_TEXT: Final = 0x81
_BINARY: Final = 0x82


def frame(data: str | bytes) -> bytes:
    """Build one unmasked, unfragmented WebSocket frame (RFC 6455, section 5.2): text for ``str``, else binary."""
    payload = data.encode() if isinstance(data, str) else data
    opcode = _TEXT if isinstance(data, str) else _BINARY
    length = len(payload)
    if length < 126:
        return bytes((opcode, length)) + payload
    if length < 65_536:
        return bytes((opcode, 126)) + length.to_bytes(2, "big") + payload
    return bytes((opcode, 127)) + length.to_bytes(8, "big") + payload


def frames(packets_: Iterable[str | bytes]) -> bytes:
    """Build the frames of several Engine.IO packets, one each, back to back."""
    return b"".join([frame(packet) for packet in packets_])


class Message:
    """What is to be sent as one: a text, or a text and its attachments, as Engine.IO messages.

    Args:
        messages: Engine.IO messages, without the packet type.
    """

    __slots__ = ("_asgi", "_frames", "messages")

    def __init__(self, *messages: str | bytes) -> None:
        self.messages = messages
        self._frames: bytes | None = None
        self._asgi: list[dict[str, Any]] | None = None

    def frames(self) -> bytes:
        """The WebSocket frames, back to back: one write sends them all."""
        if self._frames is None:
            self._frames = frames(_packets(self.messages))
        return self._frames

    def asgi(self) -> list[dict[str, Any]]:
        """The ``websocket.send`` messages of ASGI."""
        if self._asgi is None:
            self._asgi = [asgi_send(packet) for packet in _packets(self.messages)]
        return self._asgi


def asgi_send(packet: str | bytes) -> dict[str, Any]:
    """Build the ASGI message that sends one Engine.IO packet on a WebSocket."""
    return {"type": "websocket.send", "text" if isinstance(packet, str) else "bytes": packet}


def _packets(messages: Sequence[str | bytes]) -> list[str | bytes]:
    return [packets.MESSAGE + data if isinstance(data, str) else data for data in messages]
