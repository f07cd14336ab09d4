"""No row is written after one's last confirmed beat is older than the lease, on one's own clock."""

import pytest

from herenow.errors import StoreInUse
from herenow.store.fence import Fence
from herenow.store.nodes import Node
from herenow.times import steady_s
from store.clock import TurnedClock

NODE = Node("one", 1, "here", 1, "", "", 0, 0, lease_ms=5000)
LOST = StoreInUse("x", host="awake", pid=2, beat_ms=0)


def test_a_lease_counts_from_before_the_beat_was_sent() -> None:
    clock = TurnedClock()
    fence = Fence(clock)
    sent_s = fence.now_s()
    clock.now_s += 2  # the database takes its time
    fence.confirm(NODE, sent_s=sent_s, beat_ms=77_000)
    assert fence.ends_ms == 82_000
    clock.now_s += 2.9
    assert not fence.is_over
    clock.now_s += 0.2
    assert fence.is_over
    fence.confirm(NODE, sent_s=fence.now_s(), beat_ms=78_000)
    assert not fence.is_over
    fence.expire()
    assert fence.is_over


def test_who_was_replaced_writes_nothing_until_the_next_claim() -> None:
    fence = Fence()
    assert fence.holder() is None
    fence.confirm(NODE, sent_s=fence.now_s(), beat_ms=0)
    assert fence.holder() == NODE
    fence.lose(LOST)
    with pytest.raises(StoreInUse):
        fence.holder()
    fence.confirm(NODE, sent_s=fence.now_s(), beat_ms=0)
    assert fence.holder() == NODE
    fence.lift()
    assert fence.holder() is None


def test_the_steady_clock_grows() -> None:
    assert steady_s() <= steady_s()
