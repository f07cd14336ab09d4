"""What a Lua script has in Redis beside the commands: numbers as text, and MessagePack as ``cmsgpack`` writes it.

A string is any bytes there, so no library of Python's reads and writes just the same.
"""

import struct
from typing import Any

import msgspec


def number(value: float) -> str:
    """``string.format('%.0f', value)``."""
    return f"{value:.0f}"


def pack(value: Any) -> bytes:
    """``cmsgpack.pack``, of what scripts pack: lists, strings, whole numbers, ``False``."""
    if isinstance(value, list):
        return _head(len(value), 0x90, 15, b"\xdc", b"\xdd") + b"".join(map(pack, value))
    if isinstance(value, bytes):
        return _string_head(len(value)) + value
    if value is False or value is None:
        return b"\xc2"
    return msgspec.msgpack.encode(int(value))


def unpack(packed: bytes) -> Any:
    """``cmsgpack.unpack``, of the same."""
    value, _ = _read(packed, 0)
    return value


def _head(length: int, fixed: int, most: int, two: bytes, four: bytes) -> bytes:
    if length <= most:
        return bytes([fixed | length])
    return two + struct.pack(">H", length) if length < 2**16 else four + struct.pack(">I", length)


def _string_head(length: int) -> bytes:
    if 31 < length < 256:
        return b"\xd9" + bytes([length])
    return _head(length, 0xA0, 31, b"\xda", b"\xdb")


def _read(packed: bytes, at: int) -> tuple[Any, int]:
    head = packed[at]
    if 0x90 <= head <= 0x9F or head in (0xDC, 0xDD):
        length, at = (head & 15, at + 1) if head <= 0x9F else _length(packed, at, {0xDC: 2, 0xDD: 4}[head])
        items = []
        for _ in range(length):
            item, at = _read(packed, at)
            items.append(item)
        return items, at
    if 0xA0 <= head <= 0xBF or head in (0xD9, 0xDA, 0xDB):
        length, at = (head & 31, at + 1) if head <= 0xBF else _length(packed, at, {0xD9: 1, 0xDA: 2, 0xDB: 4}[head])
        return packed[at : at + length], at + length
    sizes = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    size = 1 + sizes.get(head, 0)
    value = msgspec.msgpack.decode(packed[at : at + size])
    return value, at + size


def _length(packed: bytes, at: int, size: int) -> tuple[int, int]:
    return int.from_bytes(packed[at + 1 : at + 1 + size]), at + 1 + size
