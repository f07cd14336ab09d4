"""The wire contract: what is taken, and what is refused with which sentence."""

from typing import Any

import pytest

from herenow.gateway import events
from herenow.gateway.events import ClaimPayload, Empty, Unwatch, UsersPayload, WatchPayload, WireError, decode
from herenow.model import Availability, Claimed, UserPresence
from herenow.wire import claim_of, user_to_wire


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (WatchPayload, {"users": []}),
        (WatchPayload, {"users": ["a", "é☃", "x" * 128, "a b", "<script>"], "since": 5}),
        (WatchPayload, {"all": True, "cursor": "c"}),
        (Unwatch, {"all": True}),
        (UsersPayload, {"users": ["a"] * 1_000}),
        (ClaimPayload, {}),
        (ClaimPayload, {"availability": None}),
        (ClaimPayload, {"availability": "busy", "text": "", "until": "2030-01-01T00:00:00Z"}),
        (Empty, {}),
    ],
)
def test_what_the_contract_allows_is_taken(kind: Any, payload: Any) -> None:
    assert isinstance(decode(kind, (payload,)), kind)


@pytest.mark.parametrize(
    ("kind", "args", "names"),
    [
        (WatchPayload, (5,), "object"),
        (WatchPayload, (None,), "object"),
        (WatchPayload, ([],), "object"),
        (WatchPayload, ("users",), "object"),
        (WatchPayload, ({"users": "a"},), "users"),
        (WatchPayload, ({"users": [5]},), "users[0]"),
        (WatchPayload, ({"users": [""]},), "users[0]"),
        (WatchPayload, ({"users": ["x" * 129]},), "users[0]"),
        (WatchPayload, ({"users": ["a", "b\n"]},), "users[1]"),
        (WatchPayload, ({"users": ["\x00"]},), "users[0]"),
        (WatchPayload, ({"users": ["\x85"]},), "users[0]"),
        (WatchPayload, ({"users": ["\u2028"]},), "users[0]"),
        (WatchPayload, ({"all": 1},), "all"),
        (WatchPayload, ({"all": True, "since": -1},), "since"),
        (WatchPayload, ({"all": True, "since": 2**53},), "since"),
        (WatchPayload, ({"all": True, "since": 1.5},), "since"),
        (WatchPayload, ({"users": [], "more": 1},), "more"),
        (UsersPayload, ({},), "users"),
        (UsersPayload, ({"users": ["a"]}, 2), "one payload"),
        (ClaimPayload, ({"availability": "online"},), "availability"),
        (ClaimPayload, ({"text": 5},), "text"),
        (ClaimPayload, ({"text": "\x07"},), "text"),
        (Empty, ({"x": 1},), "x"),
    ],
)
def test_what_it_does_not_is_refused_with_a_sentence_that_names_it(
    kind: Any, args: tuple[Any, ...], names: str
) -> None:
    with pytest.raises(WireError, match=r".") as refused:
        decode(kind, args)
    assert refused.value.code == "bad_request"
    assert names in refused.value.message
    assert len(refused.value.message) <= 200


@pytest.mark.parametrize(
    ("kind", "payload", "names"),
    [
        (WatchPayload, {"users": ["x" * 1_000_000]}, "users[0]"),
        (WatchPayload, {"users": ["a"] * 1_001}, "users"),
        (WatchPayload, {"users": "x" * 1_000_000}, "users"),
        (WatchPayload, {"all": True, "cursor": "x" * 1_001}, "cursor"),
        (UsersPayload, {"users": ["a"], "x" * 10: "x" * 1_000_000}, "unknown field"),
        (ClaimPayload, {"availability": "x" * 1_000_000}, "availability"),
        (ClaimPayload, {"until": "x" * 1_000_000}, "until"),
    ],
)
def test_what_is_too_much_is_called_so(kind: Any, payload: Any, names: str) -> None:
    with pytest.raises(WireError, match=r".") as refused:
        decode(kind, (payload,))
    assert refused.value.code == "too_large"
    assert names in refused.value.message
    assert len(refused.value.message) <= 200


def test_no_payload_is_an_empty_one() -> None:
    assert decode(Empty, ()) == Empty()
    with pytest.raises(WireError):
        decode(UsersPayload, ())


@pytest.mark.parametrize(
    "until",
    ["9999-12-31T23:59:59.999-10:00", "1969-12-31T23:59:59Z", "soon", "", "2030-13-01", "99999-01-01T00:00:00Z"],
)
def test_an_expiry_must_be_a_time(until: str) -> None:
    with pytest.raises(ValueError, match="until"):
        claim_of(Claimed.BUSY, None, until, longest_text=140, now_ms=0)


@pytest.mark.parametrize("until", ["2030-01-01T00:00:00", "2030-01-01 00:00", "2030-01-01"])
def test_an_expiry_without_a_zone_is_refused(until: str) -> None:
    with pytest.raises(ValueError, match="until has no zone"):
        claim_of(Claimed.BUSY, None, until, longest_text=140, now_ms=0)


def test_an_expiry_that_has_passed_is_refused() -> None:
    assert claim_of(Claimed.BUSY, None, "1970-01-01T00:00:02Z", longest_text=140, now_ms=1_999).until_ms == 2_000
    with pytest.raises(ValueError, match="until has passed: here it is 1970-01-01T00:00:02"):
        claim_of(Claimed.BUSY, None, "1970-01-01T00:00:02Z", longest_text=140, now_ms=2_000)


@pytest.mark.parametrize("text", [None, ""])
def test_an_expiry_of_nothing_is_refused(text: str | None) -> None:
    with pytest.raises(ValueError, match="until ends nothing"):
        claim_of(None, text, "2030-01-01T00:00:00Z", longest_text=140, now_ms=0)
    assert claim_of(None, "in a call", "2030-01-01T00:00:00Z", longest_text=140, now_ms=0).until_ms


def test_an_expiry_is_read_in_any_zone() -> None:
    assert claim_of(Claimed.BUSY, None, "1970-01-01T01:00:01+01:00", longest_text=140, now_ms=0).until_ms == 1_000
    assert claim_of(Claimed.BUSY, None, None, longest_text=140, now_ms=0).until_ms is None


def test_a_user_goes_out_as_the_contract_says() -> None:
    user = UserPresence("a", True, Availability.BUSY, 1_500, "in a call", 2_000, 7)
    assert user_to_wire(user) == {
        "userId": "a",
        "isOnline": True,
        "availability": "busy",
        "lastActive": "1970-01-01T00:00:01.500Z",
        "statusText": "in a call",
        "statusUntil": "1970-01-01T00:00:02.000Z",
        "version": 7,
    }
    assert user_to_wire(UserPresence("a", False, Availability.OFFLINE, None, None, None, 0)) == {
        "userId": "a",
        "isOnline": False,
        "availability": "offline",
        "lastActive": None,
        "version": 0,
    }


@pytest.mark.parametrize(
    ("code", "temporary"),
    [
        ("unauthorized", False),
        ("token_expired", False),
        ("forbidden", False),
        ("bad_request", False),
        ("unknown_event", False),
        ("too_large", False),
        ("rate_limited", True),
        ("too_many_connections", True),
        ("too_many_watches", False),
        ("slow_reader", True),
        ("shutting_down", True),
        ("internal", True),
    ],
)
def test_every_code_says_whether_it_is_temporary(code: events.Code, temporary: bool) -> None:
    assert WireError(code, "why").body() == {"code": code, "message": "why", "temporary": temporary}
