import pytest
from hypothesis import given
from hypothesis import strategies as st

from herenow.errors import CursorInvalid
from herenow.model import MAX_USER_ID_LENGTH, Availability, Claim, Claimed, StoredUser
from herenow.store.rows import UnstorableRow, read_time
from herenow.store.sqlite.rows import Raw, from_columns, from_cursor, to_columns, to_cursor
from herenow.times import LATEST_MS
from store.rows import NOW_MS, online

texts = st.text(st.characters(exclude_categories=["Cs"]))
times = st.none() | st.integers(0, LATEST_MS)
claims = st.builds(Claim, st.none() | st.sampled_from(Claimed), st.none() | texts, times)


@st.composite
def rows(draw: st.DrawFn) -> StoredUser:
    availability = draw(st.sampled_from(Availability))
    return StoredUser(
        user_id=draw(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)),
        is_online=availability is not Availability.OFFLINE,
        availability=availability,
        last_active_ms=draw(times),
        claim=draw(st.none() | claims),
        version=draw(st.integers(1, 2**52 - 1)),
    )


@given(rows())
def test_a_row_is_read_as_it_was_written(row: StoredUser) -> None:
    assert from_columns(to_columns(row)) == row


def test_columns_are_what_an_application_can_read() -> None:
    row = StoredUser("alice", True, Availability.BUSY, NOW_MS, Claim(Claimed.BUSY, "in a call", NOW_MS + 1), 7)
    assert to_columns(row) == (
        "alice",
        True,
        "2025-02-19T21:20:00.000Z",
        "busy",
        '{"availability":"busy","text":"in a call","until":"2025-02-19T21:20:00.001Z"}',
        7,
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (online(""), "id"),
        (online("a\0b"), "null character"),
        (online("\ud800"), "lone surrogate"),
        (online("a", version=0), "version 0"),
        (online("a", version=2**53), "version"),
        (online("a", last_active_ms=-1), "1970"),
        (online("a", last_active_ms=LATEST_MS + 1), "9999"),
        (StoredUser("a", True, Availability.ONLINE, 0, Claim(text="\udfff"), 1), "surrogates"),
        (StoredUser("a", True, Availability.ONLINE, 0, Claim(until_ms=-1), 1), "1970"),
    ],
)
def test_what_could_not_be_read_back_is_refused_with_its_reason(row: StoredUser, reason: str) -> None:
    with pytest.raises(UnstorableRow, match=reason):
        to_columns(row)


@pytest.mark.parametrize("user_id", ["x" * MAX_USER_ID_LENGTH, "x" * 10_000])
def test_the_length_of_an_id_is_not_the_stores_business(user_id: str) -> None:
    assert to_columns(online(user_id))[0] == user_id


@pytest.mark.parametrize(
    ("is_online", "availability", "read"),
    [
        (1, "offline", Availability.ONLINE),  # the application set isOnline alone
        (1, "away", Availability.AWAY),
        (1, "busy", Availability.BUSY),
        (1, "from a newer version", Availability.ONLINE),
        (0, "busy", Availability.OFFLINE),
        (None, "offline", Availability.OFFLINE),
    ],
)
def test_is_online_decides_what_the_availability_means(
    is_online: int | None, availability: str, read: Availability
) -> None:
    row = from_columns(("alice", is_online, None, availability, None, 1))
    assert (row.is_online, row.availability) == (bool(is_online), read)


@pytest.mark.parametrize("claim", ["", "null", "[]", '{"availability":"asleep"}', '{"until":"tomorrow"}', "{"])
def test_a_claim_that_cannot_be_understood_is_none(claim: str) -> None:
    assert from_columns(("alice", 1, None, "online", claim, 1)).claim is None


@pytest.mark.parametrize(
    ("value", "time_ms"),
    [
        (None, None),
        ("2025-02-19T21:20:00.000Z", NOW_MS),
        ("2025-02-19 21:20:00", NOW_MS),
        (NOW_MS, NOW_MS),
        (float(NOW_MS), NOW_MS),
        ("", None),
        ("long ago", None),
        (float("inf"), None),
    ],
)
def test_a_time_may_be_the_applications_own(value: Raw, time_ms: int | None) -> None:
    assert read_time(value) == time_ms


raw = st.none() | texts | st.integers(-(2**63), 2**63 - 1) | st.binary() | st.floats(allow_nan=False)


@given(st.lists(raw, min_size=2, max_size=2))
def test_a_cursor_is_read_as_it_was_written(position: list[Raw]) -> None:
    cursor = to_cursor(position)
    assert from_cursor(cursor, 2, "db") == position
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&? "), "it goes into a URL as it is"


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_anything_else_is_an_error_of_its_own(cursor: str) -> None:
    try:
        assert len(from_cursor(cursor, 2, "db")) == 2
    except CursorInvalid:
        pass


def test_a_number_that_sqlite_cannot_hold_is_no_cursor() -> None:
    with pytest.raises(CursorInvalid):
        from_cursor(to_cursor([2**63, "a"]), 2, "db")
