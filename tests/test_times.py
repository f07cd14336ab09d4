import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herenow.times import LATEST_MS, from_iso, to_iso, to_nearest_iso

TIMES = st.integers(0, LATEST_MS)


@given(TIMES)
def test_a_time_is_read_as_it_was_written(time_ms: int) -> None:
    assert from_iso(to_iso(time_ms)) == time_ms


@given(TIMES, TIMES)
def test_times_sort_as_their_text(one_ms: int, other_ms: int) -> None:
    assert (one_ms < other_ms) == (to_iso(one_ms) < to_iso(other_ms))


@given(TIMES)
def test_the_form_is_the_one_of_the_wire(time_ms: int) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", to_iso(time_ms))


@pytest.mark.parametrize("time_ms", [-1, LATEST_MS + 1, 10**30])
def test_a_time_outside_four_digits_of_year_is_an_error(time_ms: int) -> None:
    with pytest.raises(ValueError, match="not between the years"):
        to_iso(time_ms)


@pytest.mark.parametrize(
    "text",
    [
        "2025-03-01T09:30:00.250Z",
        "2025-03-01T10:30:00.250+01:00",
        "2025-03-01 09:30:00.250",
        "2025-03-01T09:30:00.250999Z",
        "20250301T093000.250Z",
    ],
)
def test_any_iso_8601_is_read(text: str) -> None:
    assert from_iso(text) == datetime(2025, 3, 1, 9, 30, 0, 250_000, UTC).timestamp() * 1000


@pytest.mark.parametrize("text", ["", "yesterday", "1740821400250", "2025-13-01T00:00:00Z"])
def test_what_is_no_time_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        from_iso(text)


@pytest.mark.parametrize(("time_ms", "nearest"), [(-1, 0), (LATEST_MS + 1, LATEST_MS), (10**30, LATEST_MS), (7, 7)])
def test_what_no_text_can_say_is_written_as_the_nearest_that_it_can(time_ms: int, nearest: int) -> None:
    assert to_nearest_iso(time_ms) == to_iso(nearest)
