"""How the log reads, for people and for programs."""

import json
import logging
import sys
from typing import Any

import pytest

from herenow.cli.logs import _renderer
from herenow.logs import Line


def record(message: Any, *, args: tuple[object, ...] = (), fault: bool = False) -> logging.LogRecord:
    given = None
    if fault:
        try:
            raise ZeroDivisionError("a fault\nof two lines")
        except ZeroDivisionError:
            given = sys.exc_info()
    made = logging.LogRecord("herenow.test", logging.WARNING, "", 0, message, args, given)
    made.created = 1_700_000_000.5
    return made


def test_for_programs_a_line_is_json_with_the_time_when_it_was_logged() -> None:
    line = json.loads(_renderer(for_people=False, in_full=False)(record(Line("refused", {"user": "ali\nce", "n": 3}))))
    assert line == {
        "event": "refused",
        "user": "ali\nce",
        "n": 3,
        "level": "warning",
        "timestamp": "2023-11-14T22:13:20.500000Z",
    }


def test_lines_of_libraries_look_like_ours() -> None:
    line = json.loads(_renderer(for_people=False, in_full=False)(record("%s of %s", args=(1, 2))))
    assert (line["event"], line["level"]) == ("1 of 2", "warning")


def test_a_fault_is_one_line_for_people_and_has_its_traceback_for_programs_and_at_level_debug() -> None:
    fault = record(Line("event failed", {}), fault=True)
    for_people = _renderer(for_people=True, in_full=False)(fault)
    assert "\n" not in for_people
    assert "ZeroDivisionError: a fault (" in for_people
    assert "test_logs, line " in for_people
    for in_full in (_renderer(for_people=True, in_full=True)(fault), _renderer(for_people=False, in_full=False)(fault)):
        assert "Traceback" in in_full
        assert "of two lines" in in_full


@pytest.mark.parametrize("for_people", [True, False])
def test_what_an_event_says_cannot_look_like_another_line(for_people: bool) -> None:
    assert "\n" not in _renderer(for_people=for_people, in_full=False)(record(Line("refused", {"user": "a\nb"})))
