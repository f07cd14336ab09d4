"""The scripts that herenow has in Redis, once more in Python: each line here stands for one there.

``tests/contract/test_script_twins.py`` holds them against the real ones on a real Redis.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from simulation import lua
from simulation.redis_data import SPARING, WRITES, Argument, Data, Refused, raw

Script = Callable[["Run", list[str], list[bytes]], Any]


class Run:
    """One run of a script.

    Args:
        data: on which.
        is_full: no memory is left: who asks for some is refused, but not behind a first write that needs none.
    """

    def __init__(self, data: Data, *, is_full: bool) -> None:
        self._data = data
        self._is_full = is_full
        self._has_written = False

    def call(self, command: str, *arguments: Argument) -> Any:
        """``redis.call``."""
        if command in WRITES:
            if self._is_full and not self._has_written and command not in SPARING:
                raise Refused("OOM command not allowed when used memory > 'maxmemory'")
            self._has_written = True
        return self._data.call(command, *arguments)


def commit(redis: Run, keys: list[str], args: list[bytes]) -> Any:
    users, due, order, counts, last, log, outcomes, sequence, skew, nodes, tenants = keys[:11]
    tenant, stamp, now = args[0], args[1], int(args[2])
    before = redis.call("HGET", outcomes, tenant)
    if before and before[:8] == stamp:
        return lua.unpack(before[8:])
    if args[6] != b"" and redis.call("HEXISTS", nodes, args[6]) == 0:
        raise Refused("FENCED")
    slack = int(args[3])
    if slack > 0:
        seconds, micros = redis.call("TIME")
        here = int(seconds) * 1_000_000 + int(micros) + 1000 * int(redis.call("GET", skew) or 0)
        if abs(here - now) > slack:
            raise Refused("SKEWED")
    if args[7] == b"1":
        redis.call("PERSIST", nodes)
    asked = args[9::4]
    held = redis.call("HMGET", users, *asked)
    all_numbers = msgspec.msgpack.decode(args[8])
    states: list[Argument] = []
    gone: list[Argument] = []
    falls_due: list[Argument] = []
    never_due: list[Argument] = []
    placed: list[Argument] = []
    nowhere: list[Argument] = []
    sums, joined, left = [0] * 6, defaultdict[str, list[Argument]](list), defaultdict[str, list[Argument]](list)
    out: list[Any] = [False]
    said: list[Argument] = []
    version = max(int(redis.call("GET", last) or 0), int(args[4]))
    for number, user in enumerate(asked):
        at = 9 + 4 * number
        revision, state, news, there = args[at + 1], args[at + 2], args[at + 3], held[number]
        if (there[:8] if there else b"") != revision:
            out.append(there or False)
            continue
        versions, shown_at, shown, above, due_ms, place_ms, deltas, joins, leaves = all_numbers[number]
        version = max(version, above)
        first = max(version + 1, now)
        if versions > 0:
            version = first + versions - 1
        if shown_at > 0:
            shown = first + shown_at - 1
        if state == b"":
            gone.append(user)
        else:
            states += [user, stamp + struct.pack(">Q", shown) + state]
        if due_ms is not False:
            falls_due += [due_ms, user]
        else:
            never_due.append(user)
        if place_ms is not False:
            placed += [place_ms, user]
        else:
            nowhere.append(user)
        sums = [sum_ + int(delta) for sum_, delta in zip(sums, deltas, strict=True)]
        for node in joins:
            joined[keys[10 + node]].append(user)
        for node in leaves:
            left[keys[10 + node]].append(user)
        if news != b"":
            said += [f"{lua.number(first)}:{len(said)}", news]
        out.append(first)

    def call(command: str, key: str, arguments: list[Argument]) -> None:
        if arguments:
            redis.call(command, key, *arguments)

    call("HSET", users, states)
    call("HDEL", users, gone)
    call("ZADD", due, falls_due)
    call("ZREM", due, never_due)
    call("ZADD", order, placed)
    call("ZREM", order, nowhere)
    for name, sum_ in zip(("online", "away", "busy", "connections", "held", "lingers_saved"), sums, strict=True):
        if sum_ != 0:
            redis.call("HINCRBY", counts, name, sum_)
    for key, users_ in joined.items():
        call("SADD", key, users_)
    for key, users_ in left.items():
        call("SREM", key, users_)
    if redis.call("SET", last, lua.number(version), "GET") is None:
        redis.call("SADD", tenants, tenant)
    if said:
        place = redis.call("INCR", sequence)
        out[0] = redis.call(
            "XADD", log, "MAXLEN", "~", args[5], "*", "schema", "1", "place", place, "tenant", tenant, *said
        )
    redis.call("HSET", outcomes, tenant, stamp + lua.pack(out))
    return out


def stamp(redis: Run, keys: list[str], args: list[bytes]) -> Any:
    version = max(int(redis.call("GET", keys[0]) or 0) + 1, int(args[0]), int(args[1]) + 1)
    redis.call("SADD", keys[1], args[2])
    redis.call("SET", keys[0], lua.number(version))
    return version


def page(redis: Run, keys: list[str], args: list[bytes]) -> Any:
    order, users, nodes = keys
    if args[0] != b"" and redis.call("HEXISTS", nodes, args[0]) == 0:
        raise Refused("FENCED")
    rank = 0
    if len(args) > 2:
        low = redis.call("ZCOUNT", order, b"(" + args[2], "+inf")
        high = low + redis.call("ZCOUNT", order, args[2], args[2])
        while low < high:
            middle = (low + high) // 2
            user = redis.call("ZREVRANGE", order, middle, middle)[0]
            if user < args[3]:
                high = middle
            else:
                low = middle + 1
        rank = low
    found: list[Any] = []
    for user in redis.call("ZREVRANGE", order, rank, rank + int(args[1]) - 1):
        found += [user, redis.call("HGET", users, user) or False]
    return found


def lost(redis: Run, keys: list[str], args: list[bytes]) -> Any:
    users, counts, due, order, filled, log, sequence, nodes = keys[:8]
    if redis.call("HEXISTS", nodes, args[1]) == 0:
        raise Refused("FENCED")
    if redis.call("HLEN", users) >= int(redis.call("HGET", counts, "held") or 0):
        return 0
    redis.call("DEL", users, counts, due, order, filled, *keys[8:])
    place = redis.call("INCR", sequence)
    redis.call("XADD", log, "*", "schema", "1", "place", place, "tenant", args[0], "lost", "1")
    return 1


def register(redis: Run, keys: list[str], args: list[bytes]) -> Any:
    if args[5] != b"":
        dead = {args[0], *args[6:]}
        for node in redis.call("HKEYS", keys[0]):
            name = re.fullmatch(rb"(.*):[0-9a-fA-F]+", node)
            if name is not None and name[1] == args[5] and node not in dead:
                return False
    redis.call("PERSIST", keys[0])
    if args[2] != b"":
        redis.call("HDEL", keys[0], args[2])
        redis.call("HDEL", keys[1], args[2])
        redis.call("HSETNX", keys[2], args[2], args[3])
    redis.call("HSET", keys[0], args[0], args[1])
    redis.call("HSET", keys[1], args[0], 1)
    redis.call("SET", keys[3], args[4], "NX")
    return redis.call("GET", keys[3])


def beat(redis: Run, keys: list[str], args: list[bytes]) -> Any:
    is_member = redis.call("HEXISTS", keys[0], args[0])
    if is_member == 1:
        redis.call("PERSIST", keys[0])
        redis.call("HINCRBY", keys[1], args[0], 1)
    seconds, micros = redis.call("TIME")
    last = redis.call("XREVRANGE", keys[4], "+", "-", "COUNT", 1)
    return [
        is_member, seconds, micros, redis.call("GET", keys[6]) or b"", last[0][0] if last else b"0-0",
        redis.call("GET", keys[5]) or b"0", redis.call("GET", keys[3]) or b"", redis.call("GET", keys[7]) or b"",
        redis.call("GET", keys[8]) or b"", redis.call("HGETALL", keys[1]), redis.call("HGETALL", keys[2]),
    ]  # fmt: skip


def replace(redis: Run, keys: list[str], args: list[bytes]) -> Any:
    if redis.call("HEXISTS", keys[1], args[2]) == 0:
        raise Refused("FENCED")
    if (redis.call("GET", keys[0]) or b"") != args[0]:
        return 0
    redis.call("PERSIST", keys[1])
    if args[1] == b"":
        redis.call("DEL", keys[0])
    else:
        redis.call("SET", keys[0], args[1])
    return 1


def give_up(redis: Run, keys: list[str], args: list[bytes]) -> Any:
    if redis.call("HEXISTS", keys[0], args[3]) == 0:
        if args[0] == args[3] and redis.call("HEXISTS", keys[2], args[3]) == 1:
            return redis.call("HLEN", keys[0])
        raise Refused("FENCED")
    beats = redis.call("HGET", keys[1], args[0])
    if not beats or (args[1] != b"" and beats != args[1]):
        return -1
    redis.call("HDEL", keys[0], args[0])
    redis.call("HDEL", keys[1], args[0])
    redis.call("HSETNX", keys[2], args[0], args[2])
    left = redis.call("HLEN", keys[0])
    if left == 0 and redis.call("GET", keys[3]) == b"yes":
        redis.call("SET", keys[3], "left")
    return left


def adopt(redis: Run, keys: list[str], args: list[bytes]) -> Any:
    redis.call("PERSIST", keys[0])
    known = redis.call("GET", keys[0])
    process, _, entry = (known or b"").partition(b" ")
    if process != args[0]:
        seconds, micros = redis.call("TIME")
        here = int(seconds) * 1_000_000 + int(micros) + 1000 * int(redis.call("GET", keys[3]) or 0)
        off = int(args[4]) - here
        if abs(off) > int(args[5]):
            redis.call("INCRBY", keys[3], lua.number(off / 1000))
    last = redis.call("XREVRANGE", keys[1], "+", "-", "COUNT", 1)
    ms, _, number = (last[0][0] if last else b"0-0").partition(b"-")
    seen_ms, seen_number, place = int(args[1]), int(args[2]), int(args[3])
    is_behind = (int(ms), int(number)) < (seen_ms, seen_number)
    here_place = int(redis.call("GET", keys[2]) or 0)
    if process == args[0] and not is_behind:
        return [0, entry]
    place = max(place, here_place) + 1
    redis.call("SET", keys[2], place)
    id_ = f"{seen_ms}-{seen_number + 1}" if is_behind else "*"
    again = "1" if known else "0"
    added = redis.call("XADD", keys[1], id_, "schema", "1", "place", place, "tenant", "", "again", again)
    if process == args[0]:
        return [0, entry]
    redis.call("SET", keys[0], args[0] + b" " + added)
    return [1, added]


SCRIPTS: dict[str, Script] = {
    "commit": commit, "stamp": stamp, "page": page, "register": register, "beat": beat, "replace": replace,
    "give_up": give_up, "adopt": adopt, "lost": lost,
}  # fmt: skip
"""The twin of each script, by the name of its file."""


@cache
def sources() -> dict[str, str]:
    """The real scripts, by name."""
    here = files("herenow.registry.redis")
    return {name: (here / f"{name}.lua").read_text() for name in SCRIPTS}


def name_of(source: str) -> str:
    """Say which script this is."""
    return next(name for name, text in sources().items() if text == source)


def run(name: str, data: Data, keys: Sequence[str], args: Sequence[Argument], *, is_full: bool = False) -> Any:
    """Run a script; nothing of it is done where it is refused at its first write.

    Raises:
        Refused: what the script, or Redis, says.
    """
    return _answer(SCRIPTS[name](Run(data, is_full=is_full), list(keys), [raw(each) for each in args]))


def _answer(value: Any) -> Any:
    """What a client has of what a script returns."""
    if isinstance(value, list):
        return [_answer(each) for each in value]
    return None if value is False else value
