"""The ledger and the script that commits in Redis are twins: the same history gives the same, to the version."""

import random
from collections.abc import Callable

import pytest

from contract.registries import FACTORIES, GRACE_MS, Opened, local
from herenow.model import Availability, Cause, Claim, Claimed, Closing, StoredUser
from herenow.registry.base import Registry

USERS = ("alice", "bob", "zoë")
STEPS = 120
LIVES = 12

Deed = Callable[[Registry], object]


def some_deed(dice: random.Random, now_ms: int, last: dict[str, StoredUser]) -> Deed:
    """Something that can be done, to one of few, so that it often happens to the same one."""
    user, connection = dice.choice(USERS), dice.choice(("c1", "c2"))
    node, closing = dice.choice(("n1", "n2")), dice.choice(list(Closing))
    claim = Claim(
        dice.choice([None, *Claimed]),
        dice.choice([None, "à midi"]),
        dice.choice([None, now_ms - 1, now_ms + 1500, now_ms + 60_000]),
    )
    shown, last_active_ms = dice.choice(list(Availability)), dice.choice([None, 5, now_ms])
    row = StoredUser(user, dice.random() < 0.5, shown, last_active_ms, claim, dice.choice([1, 7]))
    wrong = last.get(user, row)
    deeds: list[Deed] = [
        lambda registry: registry.connect(user, connection, node=node, transport="websocket", address="192.0.2.7"),
        lambda registry: registry.connect(user, connection, node=node),
        lambda registry: registry.connect(user, connection, node=node),
        lambda registry: registry.disconnect(user, connection, closing),
        lambda registry: registry.disconnect(user, connection, closing),
        lambda registry: registry.active(user, connection),
        lambda registry: registry.idle(user, connection),
        lambda registry: registry.claim(user, claim),
        lambda registry: registry.claim(user, None),
        lambda registry: registry.evict([user], disconnect=dice_is_even, cause=Cause.STALE),
        lambda registry: registry.node_lost(node, last_beat_ms=now_ms - 700),
        lambda registry: registry.adopt([row], last_beat_ms=now_ms - 300, grace_ms=5000),
        lambda registry: registry.repair([wrong]),
        lambda registry: registry.stamp(),
    ]
    dice_is_even = dice.random() < 0.5
    return dice.choice(deeds)


async def seen(opened: Opened) -> object:
    """All that can be asked of a registry."""
    registry = opened.registry
    page = await registry.online(2)
    return (
        await registry.stats(),
        await registry.get(USERS),
        await registry.rows(USERS),
        [await registry.explain(user) for user in USERS],
        page,
        None if page.cursor is None else await registry.online(2, page.cursor),
        sorted(await registry.connections_on("n1")),
        sorted(await registry.known(9)),
        await registry.changes_since(opened.changes[0].version) if opened.changes else None,
    )


@pytest.mark.parametrize("seed", range(LIVES))
@pytest.mark.parametrize("kind", [kind for kind in FACTORIES if kind != "local"])
async def test_the_same_history_gives_the_same(kind: str, seed: int) -> None:
    dice = random.Random(seed)
    idle_after_ms = dice.choice([None, 3000])
    twins = [local(idle_after_ms), FACTORIES[kind](idle_after_ms)]
    try:
        for step in range(STEPS):
            deed = some_deed(dice, twins[0].clock.unix_ms, twins[0].rows())
            wait_ms, jump_ms = (
                dice.choice([0, 0, 1, 1000, GRACE_MS - 1, GRACE_MS]),
                dice.choice([0] * 9 + [-500, -9000]),
            )
            for twin in twins:
                await deed(twin.registry)  # type: ignore[misc]
                await twin.clock.advance(wait_ms)
                twin.clock.set_wall_clock(jump_ms)
            one, other = twins
            assert other.changes == one.changes, step
            assert other.rows() == one.rows(), step
            assert [each for batch in other.batches for each in batch.evicted] == [
                each for batch in one.batches for each in batch.evicted
            ]
            if step % 5 == 4:
                assert await seen(other) == await seen(one), step
    finally:
        for twin in twins:
            await twin.registry.close()
