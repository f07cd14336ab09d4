"""What falls due when."""

from hypothesis import given
from hypothesis import strategies as st

from herenow.registry.deadlines import Deadlines


def test_due_keys_come_earliest_first_and_once() -> None:
    deadlines = Deadlines()
    deadlines.set("late", 30)
    deadlines.set("early", 10)
    deadlines.set("between", 20)
    assert deadlines.next_due() == 10
    assert deadlines.pop_due(9) == []
    assert deadlines.pop_due(20) == ["early", "between"]
    assert deadlines.pop_due(20) == []
    assert deadlines.next_due() == 30
    assert len(deadlines) == 1


def test_a_crowd_that_falls_due_at_once_can_be_taken_in_parts() -> None:
    deadlines = Deadlines()
    for key in "dbac":
        deadlines.set(key, 10)
    assert deadlines.pop_due(10, limit=3) == ["a", "b", "c"]
    assert deadlines.next_due() == 10
    assert deadlines.pop_due(10, limit=3) == ["d"]


def test_of_two_times_for_one_key_only_the_later_word_counts() -> None:
    deadlines = Deadlines()
    deadlines.set("forward", 10)
    deadlines.set("forward", 50)
    deadlines.set("back", 60)
    deadlines.set("back", 20)
    assert deadlines.due_of("forward") == 50
    assert deadlines.pop_due(40) == ["back"]
    assert deadlines.pop_due(60) == ["forward"]


def test_a_cancelled_deadline_never_falls_due_even_if_the_key_is_set_again_for_the_same_time() -> None:
    deadlines = Deadlines()
    deadlines.set("key", 10)
    deadlines.cancel("key")
    deadlines.cancel("unknown")
    assert deadlines.due_of("key") is None
    assert deadlines.next_due() is None
    deadlines.set("key", 10)
    assert deadlines.pop_due(10) == ["key"]
    assert deadlines.pop_due(10) == []


def test_a_million_reschedules_of_a_few_keys_take_no_memory() -> None:
    deadlines = Deadlines()
    for time in range(1_000_000):
        deadlines.set("abcdefgh"[time % 8], time)
    # Looks inside: nothing outside can tell the dead entries, and they are what this is about.
    assert len(deadlines.heap) < 200
    assert len(deadlines) == 8
    assert sorted(deadlines.pop_due(1_000_000)) == list("abcdefgh")


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "cancel", "pop", "next"]), st.sampled_from("abcd"), st.integers(0, 20)),
        max_size=200,
    )
)
def test_it_agrees_with_a_plain_dict(steps: list[tuple[str, str, int]]) -> None:
    deadlines, naive = Deadlines(), dict[str, int]()
    for step, key, time in steps:
        if step == "set":
            deadlines.set(key, time)
            naive[key] = time
        elif step == "cancel":
            deadlines.cancel(key)
            naive.pop(key, None)
        elif step == "pop":
            due = sorted((due, key) for key, due in naive.items() if due <= time)
            assert deadlines.pop_due(time) == [key for _, key in due]
            naive = {key: due for key, due in naive.items() if due > time}
        else:
            assert deadlines.next_due() == min(naive.values(), default=None)
        assert len(deadlines) == len(naive)
