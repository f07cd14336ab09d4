"""The order of activity."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from herenow.registry.recency import Entry, Recency


def entries_of(*entries: Entry) -> Recency:
    recency = Recency()
    for entry in entries:
        recency.add(entry)
    return recency


def test_an_empty_order_has_no_page() -> None:
    assert list(Recency().newest_first()) == []
    assert list(Recency().newest_first((5, "a"))) == []


def test_the_most_recent_come_first_and_ties_are_ordered_by_id() -> None:
    recency = entries_of((1, "a"), (3, "b"), (2, "c"), (3, "a"))
    assert list(recency.newest_first()) == [(3, "b"), (3, "a"), (2, "c"), (1, "a")]


def test_a_walk_goes_on_after_a_place_that_was_left_meanwhile() -> None:
    recency = entries_of((1, "a"), (2, "b"), (3, "c"))
    recency.remove((2, "b"))
    assert list(recency.newest_first((2, "b"))) == [(1, "a")]
    assert list(recency.newest_first((9, "z"))) == [(3, "c"), (1, "a")]
    assert list(recency.newest_first((0, ""))) == []


def test_pages_of_a_crowd_of_many_chunks_fit_together() -> None:
    everybody = [(moment * 7919 % 10_007, f"user-{moment}") for moment in range(10_007)]
    recency = entries_of(*everybody)
    walked: list[Entry] = []
    while page := list(islice(recency.newest_first(walked[-1] if walked else None), 1000)):
        walked += page
    assert walked == sorted(everybody, reverse=True)
    for entry in everybody:
        recency.remove(entry)
    assert len(recency) == 0
    assert list(recency.newest_first()) == []


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), max_size=300), st.integers(0, 30))
def test_it_agrees_with_a_plain_set(entries: list[Entry], moment: int) -> None:
    recency, naive = Recency(), set[Entry]()
    for entry in entries:
        if entry in naive:
            recency.remove(entry)
            naive.remove(entry)
        else:
            recency.add(entry)
            naive.add(entry)
        assert len(recency) == len(naive)
    assert list(recency.newest_first()) == sorted(naive, reverse=True)
    before = (moment, "b")
    assert list(recency.newest_first(before)) == sorted((e for e in naive if e < before), reverse=True)
