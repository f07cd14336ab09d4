import pytest

from herenow.gateway.auth.expiry import WARNING_S, Expiry, end_ms


def test_everyone_is_warned_once_and_ends_once() -> None:
    expiry = Expiry()
    expiry.set("a", 1000)
    expiry.set("b", 2000)
    expiry.set("never", None)
    assert len(expiry) == 2
    assert expiry.due(1000 - WARNING_S - 1) == ([], [])
    assert expiry.due(1000 - WARNING_S) == (["a"], [])
    assert expiry.due(999.9) == ([], [])
    assert expiry.due(1000) == ([], ["a"])
    assert expiry.due(1001) == ([], [])
    assert len(expiry) == 1


def test_who_has_less_time_than_the_warning_is_warned_at_once() -> None:
    expiry = Expiry()
    expiry.set("a", 1000)
    assert expiry.due(999) == (["a"], [])
    assert expiry.due(1000) == ([], ["a"])


def test_who_has_ended_is_not_warned_any_more() -> None:
    expiry = Expiry()
    expiry.set("a", 1000)
    assert expiry.due(5000) == ([], ["a"])


def test_a_new_end_replaces_the_old_one_and_is_warned_of_anew() -> None:
    expiry = Expiry()
    expiry.set("a", 1000)
    assert expiry.due(990) == (["a"], [])
    expiry.set("a", 2000)
    assert expiry.due(1500) == ([], [])
    assert expiry.due(1990) == (["a"], [])
    expiry.set("a", None)
    assert expiry.due(3000) == ([], [])


@pytest.mark.parametrize(
    ("ends_s", "ms"), [(None, None), (1000.5, 1_000_500), (1e13, None), (1e306, None), (float("inf"), None)]
)
def test_what_ends_after_all_times_never_ends(ends_s: float | None, ms: int | None) -> None:
    assert end_ms(ends_s) == ms


@pytest.mark.parametrize("ends_s", [0, -5, -1e308, float("-inf"), float("nan")])
def test_what_ended_before_all_times_or_at_none_has_ended(ends_s: float) -> None:
    expiry = Expiry()
    expiry.set("a", ends_s)
    assert expiry.due(1) == ([], ["a"])


def test_memory_is_bounded_by_who_is_here() -> None:
    expiry = Expiry()
    for number in range(10_000):
        expiry.set(str(number), 1e9)
        expiry.forget(str(number))
    assert len(expiry) == 0
    assert len(expiry._ends.heap) < 200
