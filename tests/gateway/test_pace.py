"""How the outboxes of a server share the time for diffs."""

import pytest

from herenow.gateway.outbox import FLUSH_SHARE, Pace


@pytest.mark.parametrize(("took_s", "window_s"), [(0.0, 0.05), (0.01, 0.05), (0.1, 0.3), (0.5, 1.0), (3.0, 1.0)])
def test_one_outbox_waits_for_its_window_longer_under_load_and_never_too_long(took_s: float, window_s: float) -> None:
    pace, start_s = Pace(0.05, 1.0), 100.0
    for _ in range(5):
        next_s = pace.next_s(start_s, took_s)
        assert next_s - start_s == pytest.approx(window_s)
        start_s = next_s


def test_many_outboxes_together_take_no_more_than_their_share() -> None:
    pace, now_s, spent_s = Pace(0.05, 1.0), 0.0, 0.0
    due_s = [0.0] * 40
    while now_s < 20:
        at = due_s.index(min(due_s))
        now_s = max(now_s, due_s[at])
        due_s[at] = pace.next_s(now_s, 0.005)
        now_s += 0.005
        spent_s += 0.005
    assert spent_s / now_s < 1 / FLUSH_SHARE * 1.1


def test_after_a_load_the_window_is_short_again() -> None:
    pace = Pace(0.05, 1.0)
    for _ in range(20):
        pace.next_s(100.0, 2.0)
    assert pace.next_s(101.5, 0.0) == pytest.approx(101.55)
