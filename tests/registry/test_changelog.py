"""The ring of recent changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herenow.model import Availability, Cause, Change, StoredUser
from herenow.registry.changelog import ChangeLog, row_of


def change(user_id: str, version: int) -> Change:
    return Change(user_id, True, Availability.ONLINE, version // 1000, None, None, version, Cause.CONNECT)


def log_of(*changes: Change, capacity: int = 4, start: int = 100) -> ChangeLog:
    log = ChangeLog(capacity, start)
    for each in changes:
        log.append(each)
    return log


def test_an_empty_log_vouches_for_its_own_start_and_for_nothing_else() -> None:
    log = log_of()
    assert log.version == 100
    assert log.since(100) == ()
    assert log.since(99) is None
    assert log.since(101) is None


def test_it_gives_what_is_newer_oldest_first() -> None:
    a, b, c = change("a", 110), change("b", 120), change("c", 130)
    log = log_of(a, b, c)
    assert log.version == 130
    assert log.since(100) == (a, b, c)
    assert log.since(110) == (b, c)
    assert log.since(115) == (b, c)
    assert log.since(130) == ()


def test_only_the_latest_change_of_a_user_is_given_in_the_place_of_the_latest() -> None:
    log = log_of(change("a", 110), change("b", 120), change("a", 130))
    assert log.since(100) == (change("b", 120), change("a", 130))


def test_a_full_ring_drops_the_oldest_and_says_that_it_no_longer_covers_it() -> None:
    changes = [change(f"user-{version}", version) for version in range(110, 210, 10)]
    log = log_of(*changes)
    assert len(log) == 4
    assert log.since(150) is None
    assert log.since(160) == tuple(changes[-4:])
    assert log.since(180) == tuple(changes[-2:])


def test_it_gives_a_users_own_latest_first_as_far_as_it_has_them() -> None:
    changes = [change("ab"[version // 10 % 2], version) for version in range(110, 200, 10)]
    assert log_of().of("a", 3) == ()
    assert log_of(*changes).of("a", 3) == (change("a", 180), change("a", 160))
    assert log_of(*changes, capacity=20).of("a", 3) == (change("a", 180), change("a", 160), change("a", 140))
    assert log_of(*changes, capacity=20).of("c", 3) == ()


@pytest.mark.parametrize("version", [0, 99, 121, 2**53])
def test_a_version_of_another_process_is_never_taken_for_its_own(version: int) -> None:
    assert log_of(change("a", 110), change("b", 120)).since(version) is None


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), max_size=20),
    st.integers(95, 165),
)
def test_it_agrees_with_the_whole_history(capacity: int, steps: list[tuple[str, int]], since: int) -> None:
    version, history = 100, list[Change]()
    for user_id, step in steps:
        version += step
        history.append(change(user_id, version))
    covered_from = history[-capacity - 1].version if len(history) > capacity else 100
    answer = log_of(*history, capacity=capacity).since(since)
    if not covered_from <= since <= version:
        assert answer is None
    else:
        newer = [each for each in history if each.version > since]
        net = {each.user_id: each for each in newer}
        assert answer == tuple(each for each in newer if net[each.user_id] is each)


def test_it_gives_the_last_change_of_each_of_some_users_the_latest_first() -> None:
    a, b, c, a2, d = (change(name, 110 + n) for n, name in enumerate("abcad"))
    log = log_of(a, b, c, a2, d)
    assert log.last_of({"a", "b", "x"}) == {"a": a2, "b": b}
    assert list(log.last_but({"c"}.__contains__, 2)) == ["d", "a"]
    assert log.last_of({"x"}) == {}


def test_the_row_of_a_change_says_what_it_tells() -> None:
    told = Change("u", True, Availability.BUSY, 5, "à midi", None, 9, Cause.CLAIM)
    assert row_of(told) == StoredUser("u", True, Availability.BUSY, 5, None, 9)
