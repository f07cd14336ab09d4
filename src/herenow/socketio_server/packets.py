"""The codecs of Engine.IO v4 and Socket.IO v5. Sans-I/O: text and bytes in, packets out, and back.

Engine.IO (docs/engine.io-protocol/v4-current.md, "Packet encoding"): a packet is one character of type and its
payload; a binary message is the bare bytes on a WebSocket and ``b`` + base64 in a polling payload, whose packets are
separated by ``\\x1e``.

Socket.IO (docs/socket.io-protocol/v5-current.md, "Packet encoding")::

    <type>[<number of attachments>-][<namespace>,][<ack id>][<JSON>]   + attachments, one Engine.IO message each

``BINARY_EVENT`` and ``BINARY_ACK`` exist on the wire only: a :class:`Packet` whose data holds ``bytes`` anywhere is
sent as one, and :class:`Decoder` gives an ``EVENT`` or ``ACK`` with the bytes back in their places.
"""

import json
import math
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec

from .errors import BadPacket

# -- Engine.IO ---------------------------------------------------------------------------------------------------

OPEN: Final = "0"
CLOSE: Final = "1"
PING: Final = "2"
PONG: Final = "3"
MESSAGE: Final = "4"
UPGRADE: Final = "5"
NOOP: Final = "6"
ENGINE_TYPES: Final = frozenset("0123456")

SEPARATOR: Final = "\x1e"

EnginePacket = tuple[str, str | bytes]
"""Type character and payload; the payload is ``bytes`` only for a binary message."""


def decode_text(text: str) -> EnginePacket:
    """Decode one Engine.IO packet from a text frame or from a polling payload.

    Raises:
        BadPacket: it is empty, of unknown type, or its base64 is wrong.
    """
    kind = text[:1]
    if kind in ENGINE_TYPES and kind:
        return kind, text[1:]
    if kind == "b":
        try:
            return MESSAGE, a2b_base64(text[1:], strict_mode=True)
        except (Base64Error, ValueError) as error:  # ValueError: characters outside ASCII
            raise BadPacket("a binary packet is not valid base64") from error
    raise BadPacket("an Engine.IO packet has no type or an unknown one")


def split_payload(payload: bytes) -> list[str]:
    """Split the body of a polling request into packets, each as :func:`decode_text` takes it.

    Raises:
        BadPacket: it is not UTF-8.
    """
    try:
        return payload.decode().split(SEPARATOR)
    except UnicodeDecodeError as error:
        raise BadPacket("a payload is not UTF-8") from error


def encode_payload(packets: Sequence[str | bytes]) -> str:
    """Encode packets, as they would be sent on a WebSocket, into the body of a polling response."""
    return SEPARATOR.join(
        packet if isinstance(packet, str) else "b" + b64encode(packet).decode("ascii") for packet in packets
    )


# -- Socket.IO ---------------------------------------------------------------------------------------------------


class PacketType(IntEnum):
    """The packet types of Socket.IO v5."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


RESERVED_EVENTS: Final = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")
)
"""Names that the reference implementation emits itself and refuses from the wire."""

MAX_DEPTH: Final = 100
"""Levels of JSON nesting, at most: far below the interpreter's recursion limit, far above any honest payload."""

MAX_CONTAINERS: Final = 20_000
"""Arrays and objects in one packet, at most. A megabyte of ``[]`` would keep the server busy for a second."""

MAX_ID_DIGITS: Final = 16
"""Digits of an ack id, at most: 2**53, the largest number that JavaScript counts up to, has sixteen."""

ATTACHMENT_COST: Final = 64
"""Bytes that an attachment counts for beside its length, so that empty ones cannot fill the memory."""


class Packet(msgspec.Struct, frozen=True):
    """One Socket.IO packet.

    Attributes:
        type: never ``BINARY_EVENT`` or ``BINARY_ACK``.
        namespace: begins with ``/``, holds no comma and no query string.
        data: ``EVENT``: a list, the event's name first; ``ACK``: a list; ``CONNECT``: a dict or ``None``;
            ``CONNECT_ERROR``: a dict or a string; ``DISCONNECT``: ``None``.
        id: the ack id, or ``None``.
        query: what stood behind a ``?`` in the namespace of a CONNECT, without the ``?``.
    """

    type: PacketType
    namespace: str = "/"
    data: Any = None
    id: int | None = None
    query: str = ""


def encode(packet: Packet) -> tuple[str | bytes, ...]:
    """Encode a packet into the Engine.IO messages that carry it: one text, then its attachments.

    Raises:
        ValueError: the data is nested deeper than ``MAX_DEPTH``, or holds text that is not valid Unicode.
        TypeError: the data holds what JSON cannot express.
    """
    kind: int = packet.type
    data = packet.data
    attachments: list[bytes] = []
    if kind in (PacketType.EVENT, PacketType.ACK):
        data = _take_out(data, attachments, 0)
        if attachments:
            kind += 3  # EVENT 2 → BINARY_EVENT 5, ACK 3 → BINARY_ACK 6
    head = f"{kind}{len(attachments)}-" if attachments else str(kind)
    if packet.namespace != "/":
        query = f"?{packet.query}" if packet.query else ""
        head += f"{packet.namespace}{query},"
    if packet.id is not None:
        head += str(packet.id)
    if data is not None:
        head += msgspec.json.encode(data).decode()
    return head, *attachments


class Decoder:
    """Puts packets together from Engine.IO messages, one session's in their order.

    Args:
        max_bytes: how much one packet may hold with its attachments, in bytes; each attachment counts for
            ``ATTACHMENT_COST`` more than its length.
    """

    __slots__ = ("_attachments", "_left", "_max_bytes", "_missing", "_packet")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._packet: Packet | None = None
        self._attachments: list[bytes] | None = None
        self._missing = 0
        self._left = 0

    def feed(self, message: str | bytes) -> Packet | None:
        """Take one Engine.IO message; return the packet that it completes, if it does.

        Raises:
            BadPacket: the message is malformed, or does not fit what came before it. The session must be closed.
        """
        if isinstance(message, str):
            if self._packet is not None:
                raise BadPacket("text came where an attachment was due")
            packet, missing = _decode_head(message)
            if not missing:
                return packet
            self._packet, self._missing, self._attachments = packet, missing, []
            self._left = self._max_bytes - len(message)
            if missing * ATTACHMENT_COST > self._left:
                raise BadPacket("a packet announces more attachments than its size allows")
            return None
        if self._packet is None or self._attachments is None:
            raise BadPacket("an attachment came without its packet")
        self._left -= len(message) + ATTACHMENT_COST
        if self._left < 0:
            raise BadPacket("a packet with its attachments is too large")
        self._attachments.append(message)
        self._missing -= 1
        if self._missing:
            return None
        packet, attachments = self._packet, self._attachments
        self._packet, self._attachments = None, None
        return msgspec.structs.replace(packet, data=_put_back(packet.data, list(attachments)))


def _decode_head(text: str) -> tuple[Packet, int]:
    """Decode the text of a packet; return it with the number of attachments that are still to come."""
    if not "0" <= text[:1] <= "6":
        raise BadPacket("a Socket.IO packet has no type or an unknown one")
    kind = PacketType(int(text[0]))
    at = 1
    attachments = 0
    if kind >= PacketType.BINARY_EVENT:
        dash = text.find("-", at, at + 8)  # seven digits: more attachments than any size limit admits
        if dash < 0 or not _is_digits(text[at:dash]):
            raise BadPacket("a binary packet does not say how many attachments it has")
        attachments = int(text[at:dash])
        at = dash + 1
        kind = PacketType(kind - 3)
    namespace, query = "/", ""
    if text[at : at + 1] == "/":
        comma = text.find(",", at)
        end = comma if comma >= 0 else len(text)
        namespace, _, query = text[at:end].partition("?")
        at = end + 1
    digits = at
    while "0" <= text[digits : digits + 1] <= "9":
        digits += 1
        if digits - at > MAX_ID_DIGITS:
            raise BadPacket("an ack id is too long")
    ack_id = int(text[at:digits]) if digits > at else None
    data = _decode_json(text[digits:]) if digits < len(text) else None
    _check(kind, data, ack_id)
    return Packet(kind, namespace, data, ack_id, query), attachments


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _check(kind: PacketType, data: Any, ack_id: int | None) -> None:
    """Hold the payload rules of "Exchange protocol"; what the document leaves open follows the reference parser."""
    if kind is PacketType.EVENT:
        # "The payload is mandatory and MUST be a non-empty array. If that's not the case, then the receiver MUST
        # close the connection."
        if not isinstance(data, list) or not data:
            raise BadPacket("an event is not a non-empty array")
        name = data[0]
        # The reference parser also takes a number for a name, but not true and false, which are ints in Python.
        if type(name) is not int and type(name) is not str:
            raise BadPacket("an event has no name")
        if name in RESERVED_EVENTS:
            raise BadPacket("an event has a reserved name")
    elif kind is PacketType.ACK:
        # "The payload is mandatory and MUST be an array (possibly empty)."
        if not isinstance(data, list):
            raise BadPacket("an acknowledgement is not an array")
        if ack_id is None:
            raise BadPacket("an acknowledgement has no id")
    elif kind is PacketType.CONNECT:
        if data is not None and not isinstance(data, dict):
            raise BadPacket("the payload of a CONNECT is not an object")
    elif kind is PacketType.DISCONNECT:
        if data is not None:
            raise BadPacket("a DISCONNECT has a payload")
    elif not isinstance(data, dict | str):
        raise BadPacket("the payload of a CONNECT_ERROR is neither an object nor a string")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is out of range")
    return value


_JSON: Final = msgspec.json.Decoder(float_hook=_finite)
"""With Python's own float: msgspec's takes 13 µs for ``1e300``, which is two seconds for a message of a megabyte."""


def _decode_json(text: str) -> Any:
    try:
        value = _JSON.decode(text)
    except msgspec.MsgspecError as error:
        value = _decode_lone_surrogates(text, error)
    except RecursionError as error:
        raise BadPacket("a payload is nested too deep") from error
    # No deeper than it has opening brackets: two counts at C speed spare nearly every packet the walk.
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_shape(value)
    return value


def _decode_lone_surrogates(text: str, cause: Exception) -> Any:
    r"""Decode JSON with half a surrogate pair, as JavaScript writes it for a string that was cut in two (``"\ud83d"``).

    Such a string is a user's everyday mistake, not an attack, so each lone half becomes U+FFFD, as it would in a
    browser's own UTF-8 encoder. msgspec refuses it, rightly, as no Unicode text.
    """
    if "\\ud" not in text.lower():
        raise BadPacket("a payload is not valid JSON") from cause
    try:
        repaired = json.dumps(json.loads(text), ensure_ascii=False)
        return _JSON.decode(repaired.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except (ValueError, RecursionError) as error:  # msgspec's and json's own errors are ValueErrors
        raise BadPacket("a payload is not valid JSON") from error


def _check_shape(value: Any) -> None:
    """Walk through the containers, a level at a time; stop at the first that is one too many or too deep."""
    level = [value] if isinstance(value, list | dict) else []
    containers = depth = 0
    while level:
        containers += len(level)
        depth += 1
        if depth > MAX_DEPTH:
            raise BadPacket("a payload is nested too deep")
        if containers > MAX_CONTAINERS:
            raise BadPacket("a payload has too many arrays and objects")
        level = [
            child
            for parent in level
            for child in (parent if isinstance(parent, list) else parent.values())
            if isinstance(child, list | dict)
        ]


def _take_out(value: Any, attachments: list[bytes], depth: int) -> Any:
    """Copy ``value`` with a placeholder for every bytes-like in it."""
    if isinstance(value, bytes | bytearray | memoryview):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if depth > MAX_DEPTH:
        raise ValueError(f"data is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list | tuple):
        return [item if type(item) in _SCALARS else _take_out(item, attachments, depth + 1) for item in value]
    if isinstance(value, dict):
        return {
            key: item if type(item) in _SCALARS else _take_out(item, attachments, depth + 1)
            for key, item in value.items()
        }
    return value


_SCALARS: Final = frozenset((str, int, float, bool, type(None), msgspec.Raw))
"""What can hold no bytes: not worth a call each, where an array has half a million of them."""


def _put_back(value: Any, attachments: list[bytes | None]) -> Any:
    """Replace every placeholder in ``value`` by its attachment. No deeper than ``MAX_DEPTH``: it was checked.

    Each attachment goes to one place. Thirty thousand placeholders for one of them would make of a megabyte, when a
    handler sends its arguments back, thirty thousand.
    """
    if isinstance(value, list):
        return [_put_back(item, attachments) for item in value]
    if isinstance(value, dict):
        if value.get("_placeholder") is True:
            number = value.get("num")
            if type(number) is not int or not 0 <= number < len(attachments):
                raise BadPacket("a placeholder names an attachment that is not there")
            attachment, attachments[number] = attachments[number], None
            if attachment is None:
                raise BadPacket("two placeholders name the same attachment")
            return attachment
        return {key: _put_back(item, attachments) for key, item in value.items()}
    return value
