"""Lines of the log that somebody outside can cause fill neither the log nor the memory, and none of it is lost."""

from collections.abc import Callable
from typing import Any

from herenow import sparing
from herenow.lines import Lines
from herenow.sparing import A_MINUTE, EVERY_S, MOST_KINDS, Said, Sparing, alike


def test_a_kind_has_one_line_a_minute_with_the_number_of_those_left_out() -> None:
    lines = Sparing()
    assert [lines.take("refused", "a", at_s) for at_s in (0.0, 1.0, EVERY_S - 1)] == [Said(0, False), None, None]
    assert lines.take("refused", "b", 2.0) == Said(0, False)
    assert lines.take("refused", "a", EVERY_S) == Said(2, False)
    assert lines.take("refused", "a", 2 * EVERY_S) == Said(0, False)


def test_a_crowd_of_kinds_shares_one_line() -> None:
    lines = Sparing()
    said = [lines.take("refused", number, 0.0) for number in range(3 * MOST_KINDS)]
    assert said[:MOST_KINDS] == [Said(0, False)] * MOST_KINDS
    assert said[MOST_KINDS] == Said(0, True)
    assert said[MOST_KINDS + 1 :] == [None] * (2 * MOST_KINDS - 1)
    assert len(lines._said["refused"]) == MOST_KINDS + 1
    assert lines.take("failed", "a", 0.0) == Said(0, False), "no crowd takes a line away from another event"
    assert lines.take("refused", "later", EVERY_S) == Said(0, False)
    assert len(lines._said["refused"]) == 1, "those whose minute is over are forgotten"


def test_what_is_written_says_how_much_was_left_out(monkeypatch: Any) -> None:
    lines, written, now_s = Sparing(), list[tuple[str, dict[str, Any]]](), 0.0
    monkeypatch.setattr(sparing, "monotonic", lambda: now_s)

    def write(event: str, **fields: Any) -> None:
        written.append((event, fields))

    for at_s in (0.0, 1.0, 2.0, EVERY_S):
        now_s = at_s
        lines.say(write, "refused", of="alice", user="alice")
        lines.say(write, "failed", of="alice", user="alice")
    assert written == [
        ("refused", {"user": "alice"}),
        ("failed", {"user": "alice"}),
        ("refused", {"user": "alice", "more": 2}),
        ("failed", {"user": "alice", "more": 2}),
    ]


def test_errors_are_alike_by_their_type_and_place() -> None:
    def caught(raising: Callable[[], object]) -> Exception:
        try:
            raising()
        except Exception as error:
            return error
        raise AssertionError

    def divide() -> object:
        return 1 / 0

    def wait() -> object:
        raise TimeoutError

    assert alike(caught(divide)) == alike(caught(divide))
    assert len({alike(caught(divide)), alike(caught(wait)), alike(caught(lambda: 1 / 0)), alike(TimeoutError())}) == 4


def test_what_happens_to_each_of_a_crowd_is_written_and_only_of_who_comes_and_goes_all_the_time_it_is_counted() -> None:
    lines, written = Lines(), list[tuple[str, dict[str, Any]]]()
    crowd = [f"user-{number}" for number in range(10 * MOST_KINDS)]
    assert all(lines.connected.take(user) for user in crowd)
    assert [lines.connected.take("acme\x1falice") for _ in range(A_MINUTE + 3)] == [True] * A_MINUTE + [False] * 3
    assert lines.change.take("acme\x1falice"), "each event has its own"
    for _ in range(2):
        lines.begin(lambda event, **fields: written.append((event, fields)))
    assert written == [("lines left out", {"of": "connected", "count": 3, "tenant": "acme", "user": "alice"})]
    assert lines.connected.take("acme\x1falice")


def test_a_crowd_that_comes_and_goes_all_the_time_has_no_line_each() -> None:
    lines, written = Lines(), list[dict[str, Any]]()
    for number in range(MOST_KINDS + 7):
        for _ in range(A_MINUTE + 2):
            lines.disconnected.take(f"user-{number}")
    lines.begin(lambda event, **fields: written.append(fields))
    assert len(written) == MOST_KINDS + 1
    assert written[-1] == {"of": "disconnected", "count": 14, "users": 7}
