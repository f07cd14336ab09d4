"""What a Redis holds, and the commands that herenow gives it: a model in Python, small and general.

Commands are called as a script calls them, by name and with plain arguments; answers are those that a client has, with
``None`` for nothing. What a key holds: bytes; a hash; a set; a sorted set (a dict to numbers); a :class:`Stream`.
"""

import copy
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

Argument = bytes | str | int | float
Position = tuple[int, int]

WRITES = frozenset({
    "SET", "DEL", "INCR", "INCRBY", "HSET", "HSETNX", "HDEL", "HINCRBY", "SADD", "SREM", "ZADD", "ZREM", "XADD",
    "PERSIST",
})  # fmt: skip
"""Commands that may change something."""

SPARING = frozenset({"DEL", "HDEL", "SREM", "ZREM", "PERSIST"})
"""Of these, the ones that need no memory."""


class Refused(Exception):
    """Redis answers with an error: how it begins says what it is."""


class Stream:
    """A log of entries, each with its fields in order."""

    def __init__(self) -> None:
        self.entries: list[tuple[Position, dict[bytes, bytes]]] = []
        self.last: Position = (0, 0)


class Data:
    """All keys of one Redis.

    Args:
        now_us: its wall clock.

    Attributes:
        keys: what each holds.
        added: called with each stream that has a new entry.
    """

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.keys: dict[str, Any] = {}
        self.now_us = now_us
        self.added: Callable[[str], None] = lambda key: None

    def copy_keys(self) -> dict[str, Any]:
        """Return all that it holds, as a replica would have it."""
        return copy.deepcopy(self.keys)

    def call(self, command: str, *arguments: Argument) -> Any:
        """Do a command."""
        return _COMMANDS[command](self, *arguments)

    # -- strings -------------------------------------------------------------------------------------------------------

    def ping(self) -> bytes:
        return b"PONG"

    def time(self) -> list[bytes]:
        seconds, micros = divmod(self.now_us(), 1_000_000)
        return [b"%d" % seconds, b"%d" % micros]

    def get(self, key: Argument) -> bytes | None:
        return self.keys.get(text(key))

    def set(self, key: Argument, value: Argument, *options: Argument) -> Any:
        before = self.keys.get(text(key))
        if "NX" in options and before is not None:
            return None
        self.keys[text(key)] = raw(value)
        return before if "GET" in options else b"OK"

    def delete(self, *keys: Argument) -> int:
        return sum(self.keys.pop(text(key), None) is not None for key in keys)

    def incrby(self, key: Argument, by: Argument = 1) -> int:
        number = int(self.keys.get(text(key), b"0")) + int(raw(by))
        self.keys[text(key)] = b"%d" % number
        return number

    def persist(self, key: Argument) -> int:
        return 0  # no key of herenow's expires

    # -- hashes --------------------------------------------------------------------------------------------------------

    def hget(self, key: Argument, field: Argument) -> bytes | None:
        found: bytes | None = self._hash(key).get(raw(field))
        return found

    def hmget(self, key: Argument, *fields: Argument) -> list[bytes | None]:
        return [self.hget(key, field) for field in fields]

    def hgetall(self, key: Argument) -> list[bytes]:
        return [each for pair in self._hash(key).items() for each in pair]

    def hkeys(self, key: Argument) -> list[bytes]:
        return list(self._hash(key))

    def hexists(self, key: Argument, field: Argument) -> int:
        return int(raw(field) in self._hash(key))

    def hlen(self, key: Argument) -> int:
        return len(self._hash(key))

    def hset(self, key: Argument, *pairs: Argument) -> int:
        there = self.keys.setdefault(text(key), {})
        before = len(there)
        for field, value in zip(pairs[::2], pairs[1::2], strict=True):
            there[raw(field)] = raw(value)
        return len(there) - before

    def hsetnx(self, key: Argument, field: Argument, value: Argument) -> int:
        return 0 if self.hexists(key, field) else self.hset(key, field, value)

    def hdel(self, key: Argument, *fields: Argument) -> int:
        return self._remove(key, fields)

    def hincrby(self, key: Argument, field: Argument, by: Argument) -> int:
        number = int(self._hash(key).get(raw(field), b"0")) + int(raw(by))
        self.hset(key, field, number)
        return number

    def hscan(self, key: Argument, cursor: Argument, *options: Argument) -> list[Any]:
        return [b"0", self.hgetall(key)]

    # -- sets, plain and sorted ----------------------------------------------------------------------------------------

    def sadd(self, key: Argument, *members: Argument) -> int:
        there = self.keys.setdefault(text(key), {})  # as a dict: it has an order, the same in each run
        before = len(there)
        there.update(dict.fromkeys(map(raw, members)))
        return len(there) - before

    def srem(self, key: Argument, *members: Argument) -> int:
        return self._remove(key, members)

    def smembers(self, key: Argument) -> list[bytes]:
        return list(self._hash(key))

    def scard(self, key: Argument) -> int:
        return self.hlen(key)

    def sscan(self, key: Argument, cursor: Argument, *options: Argument) -> list[Any]:
        return [b"0", self.smembers(key)]

    def zadd(self, key: Argument, *pairs: Argument) -> int:
        there = self.keys.setdefault(text(key), {})
        before = len(there)
        for score, member in zip(pairs[::2], pairs[1::2], strict=True):
            there[raw(member)] = float(raw(score))
        return len(there) - before

    def zrem(self, key: Argument, *members: Argument) -> int:
        return self._remove(key, members)

    def zcount(self, key: Argument, low: Argument, high: Argument) -> int:
        return len(self._between(key, low, high))

    def zrange(self, key: Argument, low: Argument, high: Argument, *options: Argument) -> list[bytes]:
        if "BYSCORE" not in options:
            raise AssertionError("herenow asks for ranges by score only")
        found = self._between(key, low, high)
        if "LIMIT" in options:
            at = options.index("LIMIT")
            first, number = int(raw(options[at + 1])), int(raw(options[at + 2]))
            found = found[first : first + number]
        return found

    def zrevrange(self, key: Argument, first: Argument, last: Argument) -> list[bytes]:
        ordered = sorted(self._hash(key), key=lambda member: (self._hash(key)[member], member), reverse=True)
        return ordered[int(raw(first)) : int(raw(last)) + 1]

    def _between(self, key: Argument, low: Argument, high: Argument) -> list[bytes]:
        (lowest, is_low_out), (highest, is_high_out) = _bound(low), _bound(high)
        found = [
            (score, member)
            for member, score in self._hash(key).items()
            if (lowest < score if is_low_out else lowest <= score)
            and (score < highest if is_high_out else score <= highest)
        ]
        return [member for _, member in sorted(found)]

    # -- streams -------------------------------------------------------------------------------------------------------

    def xadd(self, key: Argument, *rest: Argument) -> bytes:
        stream = self.keys.setdefault(text(key), Stream())
        length = None
        if rest[0] == "MAXLEN":
            length, rest = int(raw(rest[2])), rest[3:]
        position = self._next(stream.last) if rest[0] == "*" else position_of(raw(rest[0]))
        if position <= stream.last:
            raise Refused("ERR The ID specified in XADD is equal or smaller than the target stream top item")
        fields = {raw(name): raw(value) for name, value in zip(rest[1::2], rest[2::2], strict=True)}
        stream.entries.append((position, fields))
        stream.last = position
        if length is not None:
            del stream.entries[:-length]
        self.added(text(key))
        return entry_of(position)

    def _next(self, last: Position) -> Position:
        ms = self.now_us() // 1000
        return (ms, 0) if ms > last[0] else (last[0], last[1] + 1)

    def xlen(self, key: Argument) -> int:
        return len(self._stream(key).entries)

    def xrange(self, key: Argument, low: Argument, high: Argument, *options: Argument) -> list[Any]:
        lowest, highest = _place(low), _place(high)
        return self._entries(key, lambda position: lowest <= position <= highest, options, backwards=False)

    def xrevrange(self, key: Argument, high: Argument, low: Argument, *options: Argument) -> list[Any]:
        lowest, highest = _place(low), _place(high)
        return self._entries(key, lambda position: lowest <= position <= highest, options, backwards=True)

    def xread(self, key: Argument, after: Argument, *options: Argument) -> list[Any]:
        start, entries = _place(after), self._stream(key).entries
        first = bisect_right(entries, start, key=lambda entry: entry[0])
        return [[entry_of(each), fields.copy()] for each, fields in entries[first : first + int(raw(options[1]))]]

    def _entries(
        self, key: Argument, is_meant: Callable[[Position], bool], options: tuple[Argument, ...], *, backwards: bool
    ) -> list[Any]:
        entries = self._stream(key).entries
        found: list[Any] = [
            [entry_of(each), fields.copy()]
            for each, fields in (reversed(entries) if backwards else entries)
            if is_meant(each)
        ]
        return found[: int(raw(options[1]))] if options else found

    # -- how it is held ------------------------------------------------------------------------------------------------

    def _hash(self, key: Argument) -> dict[bytes, Any]:
        found: dict[bytes, Any] = self.keys.get(text(key)) or {}
        return found

    def _stream(self, key: Argument) -> Stream:
        found: Stream = self.keys.get(text(key)) or Stream()
        return found

    def _remove(self, key: Argument, members: tuple[Argument, ...]) -> int:
        there = self._hash(key)
        removed = sum(there.pop(raw(member), self) is not self for member in members)
        if not there:
            self.keys.pop(text(key), None)  # nothing is held that is empty
        return removed


_COMMANDS: dict[str, Callable[..., Any]] = {
    "PING": Data.ping, "TIME": Data.time, "GET": Data.get, "SET": Data.set, "DEL": Data.delete, "INCR": Data.incrby,
    "INCRBY": Data.incrby, "PERSIST": Data.persist,
    "HGET": Data.hget, "HMGET": Data.hmget, "HGETALL": Data.hgetall, "HKEYS": Data.hkeys,
    "HEXISTS": Data.hexists, "HLEN": Data.hlen, "HSET": Data.hset,
    "HSETNX": Data.hsetnx, "HDEL": Data.hdel, "HINCRBY": Data.hincrby, "HSCAN": Data.hscan,
    "SADD": Data.sadd, "SREM": Data.srem, "SMEMBERS": Data.smembers, "SCARD": Data.scard, "SSCAN": Data.sscan,
    "ZADD": Data.zadd, "ZREM": Data.zrem, "ZCOUNT": Data.zcount, "ZRANGE": Data.zrange, "ZREVRANGE": Data.zrevrange,
    "XADD": Data.xadd, "XLEN": Data.xlen, "XRANGE": Data.xrange, "XREVRANGE": Data.xrevrange, "XREAD": Data.xread,
}  # fmt: skip


def raw(value: Argument) -> bytes:
    """An argument as it goes over the wire."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else str(value)).encode()


def text(key: Argument) -> str:
    """The name of a key."""
    return key.decode() if isinstance(key, bytes) else str(key)


def position_of(entry: bytes) -> Position:
    """Read an entry's id; without a number, it is the first of that moment."""
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number or 0)


def entry_of(position: Position) -> bytes:
    """Write an entry's id."""
    return b"%d-%d" % position


def _place(bound: Argument) -> Position:
    if bound in ("-", b"-"):
        return (0, 0)
    if bound in ("+", b"+"):
        return (2**63, 2**63)
    return position_of(raw(bound))


def _bound(bound: Argument) -> tuple[float, bool]:
    """Read a bound of scores: the number, and whether it is out itself."""
    written = raw(bound).decode()
    return float(written.removeprefix("(")), written.startswith("(")
