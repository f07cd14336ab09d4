"""Each script and its twin in Python (``simulation/scripts.py``): the same calls give the same answers and keys.

What the simulation finds, it finds with the twins; here real servers show that the scripts do the same.
"""

import random
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis

import redis_server
from herenow.registry.redis.keys import Keys
from simulation import scripts
from simulation.redis_data import Data, Refused, Stream, entry_of

LIVES = 6
STEPS = 80
USERS = ("alice", "bob", "zoë")
NODES = ("n1:1", "n2:2", "n3:3")
NOW_US = 1_767_225_600_000_000
MOST_MS = 50
"""What of a time that a script has read may differ, where it is written down."""

Call = tuple[str, list[str], list[Any]]


class Twins:
    """A real server and the model, both with the same keys."""

    def __init__(self, kind: str) -> None:
        self.keys = Keys(secrets.token_hex(6))
        self.client: Any = redis.Redis(port=redis_server.shared(kind).port)
        self._scripts = {name: self.client.register_script(source) for name, source in scripts.sources().items()}
        self._now_us = 0
        self.data = Data(lambda: self._now_us)

    def call(self, name: str, keys: list[str], args: list[Any]) -> tuple[Any, Any]:
        """Run a script on both; returns both answers, or what was said instead."""
        seconds, micros = self.client.time()
        self._now_us = seconds * 1_000_000 + micros
        real = _answer(lambda: self._scripts[name](keys=keys, args=args), redis.ResponseError)
        if last := self.client.xrevrange(self.keys.log, count=1):
            entry_us = int(last[0][0].partition(b"-")[0]) * 1000
            if 0 < entry_us - self._now_us < 1_000_000:  # the clock of the server has gone on since it was asked
                self._now_us = entry_us
        return real, _answer(lambda: scripts.run(name, self.data, keys, args), Refused)

    def held(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that both have."""
        names = sorted(name.decode() for name in self.client.scan_iter(f"{{{self.keys.log[1:].partition(':')[0]}:*"))
        model = {name: _model(value) for name, value in self.data.keys.items()}
        return {name: self._real(name) for name in names}, model

    def _real(self, name: str) -> Any:
        match self.client.type(name):
            case b"string":
                return self.client.get(name)
            case b"hash":
                return self.client.hgetall(name)
            case b"set":
                return dict.fromkeys(self.client.smembers(name))
            case b"zset":
                return dict(self.client.zrange(name, 0, -1, withscores=True))
            case _:
                return [(entry, fields) for entry, fields in self.client.xrange(name)]


def _answer(ask: Callable[[], Any], error: type[Exception]) -> Any:
    try:
        return ask()
    except error as said:
        return str(said).split()[0]


def _model(value: Any) -> Any:
    if isinstance(value, Stream):
        return [(entry_of(position), fields) for position, fields in value.entries]
    return value


def some_commit(dice: random.Random, twins: Twins, step: int) -> Call:
    keys, tenant = twins.keys, dice.choice(("", "acme"))
    users = dice.sample(USERS, dice.randrange(1, len(USERS) + 1))
    held = twins.data.keys.get(keys.users(tenant), {})
    numbers, proposals = [], []
    for user in users:
        revision = held.get(user.encode(), b"")[:8] if dice.random() < 0.8 else dice.randbytes(8)
        state = dice.choice((b"", dice.randbytes(dice.choice((1, 40, 300)))))
        news = dice.choice((b"", dice.randbytes(dice.choice((5, 60)))))
        versions = dice.randrange(3) if news else 0
        numbers.append((
            versions, dice.randrange(versions + 1), dice.choice((0, NOW_US - 5)),
            dice.choice((0, 0, NOW_US + dice.randrange(1000))),
            dice.choice((False, NOW_US // 1000 + dice.randrange(9999))), dice.choice((False, dice.randrange(9999))),
            [dice.randrange(-1, 2) for _ in range(6)], dice.choice(([], [1], [1, 2])), dice.choice(([], [2])),
        ))  # fmt: skip
        proposals += [user, revision, state, news]
    stamp = (dice.randrange(max(1, step - 3), step + 1)).to_bytes(8)  # some are sent again
    names = [
        keys.users(tenant), keys.due(tenant), keys.order(tenant), keys.counts(tenant), keys.version(tenant), keys.log,
        keys.outcomes(NODES[0]), keys.sequence, keys.skew, keys.nodes, keys.tenants,
        keys.on(tenant, NODES[0]), keys.on(tenant, NODES[1]),
    ]  # fmt: skip
    seen, member = dice.choice((0, NOW_US + step)), dice.choice(("", "", *NODES))
    slack_us = dice.choice((0, 0, 0, 0, 1000))  # with one, it is always refused: the time is years off
    now_us, brings = NOW_US + 1000 * step + dice.randrange(-5000, 5000), dice.randrange(2)
    head = [tenant, stamp, now_us, slack_us, seen, 65_536, member, brings, msgspec.msgpack.encode(numbers)]
    return "commit", names, [*head, *proposals]


def some_call(dice: random.Random, twins: Twins, step: int) -> Call:
    """Any call of any script, as a node could make it."""
    keys, node, other = twins.keys, dice.choice(NODES), dice.choice(NODES)
    tenant, process = dice.choice(("", "acme")), dice.choice(("run-1", "run-1", "run-2"))
    seen = dice.choice(([0, 0], [NOW_US // 1000, 3], [2 * NOW_US // 1000 + step, 1]))
    values = dice.choices(("", "", "left", "yes", "1-2"), k=2)
    beats, after = dice.choice(("", 1, 2)), dice.choice(([], [5000, dice.choice(USERS)]))
    named = dice.choice(([""], ["n1"], ["n2", *NODES[:2]]))
    registering = [node, dice.randbytes(9), dice.choice(("", other)), -NOW_US, "cluster", *named]
    losing = [
        keys.users(tenant), keys.counts(tenant), keys.due(tenant), keys.order(tenant), keys.filled, keys.log,
        keys.sequence, keys.nodes, keys.on(tenant, NODES[0]),
    ]  # fmt: skip
    beat = [
        keys.nodes, keys.beats, keys.lost, keys.leader, keys.log, keys.sequence, keys.skew, keys.filled, keys.cursor
    ]  # fmt: skip
    calls: list[Call] = [
        ("stamp", [keys.version(tenant), keys.tenants], [NOW_US + step, NOW_US + dice.randrange(2000), tenant]),
        (
            "page",
            [keys.order(tenant), keys.users(tenant), keys.nodes],
            [dice.choice(["", *NODES]), dice.randrange(1, 4), *after],
        ),
        ("register", [keys.nodes, keys.beats, keys.lost, keys.id], registering),
        ("beat", beat, [node]),
        ("lost", losing, [tenant, node]),
        ("replace", [dice.choice((keys.filled, keys.leader)), keys.nodes], [*values, node]),
        ("give_up", [keys.nodes, keys.beats, keys.lost, keys.filled], [other, beats, NOW_US, node]),
        (
            "adopt",
            [keys.generation, keys.log, keys.sequence, keys.skew],
            [process, *seen, dice.randrange(99), NOW_US, 1_000_000],
        ),
    ]
    return some_commit(dice, twins, step) if dice.random() < 0.6 else dice.choice(calls)


@pytest.mark.parametrize("seed", range(LIVES))
@pytest.mark.parametrize("kind", redis_server.KINDS)
def test_a_script_and_its_twin_do_the_same(kind: str, seed: int) -> None:
    dice, twins = random.Random(seed), Twins(kind)
    for step in range(1, STEPS):
        name, keys, args = some_call(dice, twins, step)
        real, model = twins.call(name, keys, args)
        if name == "beat":
            real[1:3] = model[1:3] = []  # the time
        assert model == real, (step, name)
        there, here = twins.held()
        _level(there, here, twins)
        assert here == there, (step, name)
    twins.client.close()


def _level(there: dict[str, Any], here: dict[str, Any], twins: Twins) -> None:
    """Let what was measured by a clock be the same, where it is nearly so."""
    skew = twins.keys.skew
    if skew in there and skew in here and abs(int(there[skew]) - int(here[skew])) < MOST_MS:
        twins.data.keys[skew] = here[skew] = there[skew]
