"""The token bucket."""

from hypothesis import given
from hypothesis import strategies as st

from herenow.gateway.access.limits import TokenBucket


def test_a_burst_passes_and_then_the_rate() -> None:
    bucket = TokenBucket(10, 0.0)
    assert [bucket.take(10, 0.0) for _ in range(21)] == [True] * 20 + [False]
    assert bucket.take(10, 0.1)
    assert not bucket.take(10, 0.1)
    assert [bucket.take(10, 100.0) for _ in range(21)] == [True] * 20 + [False]


@given(st.lists(st.floats(-1, 1), max_size=300))
def test_never_more_than_the_burst_and_the_rate(steps: list[float]) -> None:
    """Also when the clock is set back."""
    bucket, now, latest, taken = TokenBucket(5, 0.0), 0.0, 0.0, 0
    forward = 0.0
    for step in steps:
        now += step
        forward += max(0.0, step)
        latest = max(latest, now)
        taken += bucket.take(5, now)
        assert taken <= 10 + 5 * forward + 1e-6
