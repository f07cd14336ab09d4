"""Who lives, judged look by look, on clocks that are turned by hand."""

import pytest
from msgspec.structs import replace

from herenow.store.liveness import STEP_S, Watch, find_living
from herenow.store.nodes import Damage, Node, Roll, Sighting
from store.rows import NOW_MS

LEASE_S = 5.0


def node(name: str = "one", host: str = "far.example.org") -> Node:
    return Node(name, 1, host, 1, "", "", NOW_MS, NOW_MS, round(LEASE_S * 1000))


def seen(age_s: float, *, stamp: int = NOW_MS, of: Node | None = None) -> Roll:
    return Roll((Sighting(of or node(), round(age_s * 1000), stamp),))


DOUBTFUL = {
    "an old beat": seen(5),
    "a very old beat": seen(3600),
    "a beat from the future": seen(-3600),
    "a damaged row": Roll(damaged=(Damage("pid is a word", "…"),)),
    "a removed row": Roll(is_removed=True),
}


@pytest.mark.parametrize("age_s", [0, 4.999])
def test_a_young_beat_is_believed_at_once(age_s: float) -> None:
    sighting = Watch(LEASE_S).judge(seen(age_s), 0)
    assert sighting is not None
    assert sighting.node == node()


def test_nobody_is_nobody_at_once() -> None:
    for roll in (Roll(), seen(0, of=replace(node(), lease_ms=0))):
        watch = Watch(LEASE_S)
        assert watch.judge(roll, 0) is None
        assert watch.is_sure


@pytest.mark.parametrize("roll", DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_what_is_doubtful_is_dead_once_it_has_not_moved_for_a_lease(roll: Roll) -> None:
    watch = Watch(LEASE_S)
    for passed_s, is_sure in ((0, False), (4.9, False), (0.1, True)):
        assert watch.judge(roll, passed_s) is None
        assert watch.is_sure is is_sure


@pytest.mark.parametrize("roll", DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_what_is_doubtful_lives_once_it_beats(roll: Roll) -> None:
    watch = Watch(LEASE_S)
    watch.judge(roll, 0)
    watch.judge(roll, 4.9)
    assert watch.judge(seen(0, stamp=NOW_MS + 1), 0.1) is not None


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_beat_that_moved_lives_however_old_it_looks(jump_s: float) -> None:
    """The clock of the database is turned again and again."""
    watch = Watch(LEASE_S)
    watch.judge(seen(jump_s), 0)
    assert watch.judge(seen(jump_s, stamp=NOW_MS + 1), 1) is not None


def test_a_beat_that_grows_young_without_moving_does_not_live() -> None:
    """It is from the future, and the clock of the database catches up."""
    watch = Watch(LEASE_S)
    watch.judge(seen(-2), 0)
    for _ in range(5):
        assert watch.judge(seen(0.5), 1) is None
    assert watch.is_sure


def test_other_damage_begins_anew() -> None:
    watch = Watch(LEASE_S)
    watch.judge(Roll(damaged=(Damage("", "one"),)), 0)
    watch.judge(Roll(damaged=(Damage("", "other"),)), 5)
    assert not watch.is_sure


def test_the_claimant_and_those_of_a_dead_host_are_nobody() -> None:
    for watch in (Watch(LEASE_S, claimant=node()), Watch(LEASE_S, dead_hosts={node().host})):
        assert watch.judge(seen(0), 0) is None
        assert watch.is_sure
    assert Watch(LEASE_S, claimant=node("two")).judge(seen(0), 0) is not None


class Hand:
    """A clock that passes while somebody sleeps, and jumps when told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.looks = 0
        self.stopped_for_s = 0.0

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds + self.stopped_for_s


async def look_for(hand: Hand, *rolls: Roll) -> tuple[Sighting | None, list[list[str]]]:
    """Look at one after the other; the last one stays."""
    left = list(rolls)
    doubts: list[list[str]] = []

    async def look() -> Roll:
        hand.looks += 1
        return left.pop(0) if len(left) > 1 else left[0]

    watch = Watch(LEASE_S)
    found = await find_living(
        look, watch, on_doubt=lambda roll: doubts.append(roll.complaints), clock=hand.now, sleep=hand.sleep
    )
    return found, doubts


async def test_it_is_looked_once_where_it_is_clear_and_nobody_is_told_of_doubts() -> None:
    hand = Hand()
    assert await look_for(hand, Roll()) == (None, [])
    found, doubts = await look_for(hand, seen(1))
    assert found is not None
    assert (doubts, hand.looks, hand.now_s) == ([], 2, 0)


async def test_a_dead_server_is_watched_for_a_lease_and_its_damage_told_once() -> None:
    hand = Hand()
    found, doubts = await look_for(hand, DOUBTFUL["a removed row"])
    assert (found, doubts) == (None, [["the row of the server was removed"]])
    assert LEASE_S <= hand.now_s < LEASE_S + 2 * STEP_S


async def test_a_living_one_is_found_as_soon_as_it_beats() -> None:
    hand = Hand()
    found, _ = await look_for(hand, *[seen(3600)] * 10, seen(0, stamp=NOW_MS + 1))
    assert found is not None
    assert hand.now_s < 1.5


async def test_who_was_stopped_while_watching_has_not_watched() -> None:
    """The whole machine slept, and with it the server that is watched: it has its lease to beat."""
    hand = Hand()
    hand.stopped_for_s = 60
    await look_for(hand, seen(3600))
    assert hand.looks >= LEASE_S / (2 * STEP_S)
