import msgspec
import pytest

from herenow.gateway import encoding
from herenow.gateway.encoding import EncodedUsers
from herenow.model import Availability, UserPresence


def user(name: str, version: int, *, online: bool = True) -> UserPresence:
    availability = Availability.ONLINE if online else Availability.OFFLINE
    return UserPresence(name, online, availability, 1_500, None, None, version)


def told(encoded: msgspec.Raw) -> list[tuple[str, bool, int]]:
    return [(each["userId"], each["isOnline"], each["version"]) for each in msgspec.json.decode(encoded)]


def test_a_user_is_encoded_once_until_they_change() -> None:
    encoded = EncodedUsers()
    alice, bob = user("alice", 1), user("bob", 2)
    assert told(encoded.of([])) == []
    for users in ([alice, bob], [bob, alice]):
        assert told(encoded.of(users)) == [(each.user_id, True, each.version) for each in users]
    kept = encoded._kept["alice"]
    encoded.of([alice])
    assert encoded._kept["alice"] is kept
    assert told(encoded.of([user("alice", 3, online=False)])) == [("alice", False, 3)]


def test_a_user_who_is_seen_in_two_ways_is_never_mixed_up() -> None:
    """One who is invisible sees themselves as they are, at the same version as others see them offline."""
    encoded = EncodedUsers()
    others, own = user("alice", 1, online=False), user("alice", 1)
    for _ in range(3):
        assert told(encoded.of([others])) == [("alice", False, 1)]
        assert told(encoded.of([own])) == [("alice", True, 1)]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MOST_KEPT", 10)
    encoded = EncodedUsers()
    users = [user(str(number), 1) for number in range(35)]
    assert [name for name, _, _ in told(encoded.of(users))] == [str(number) for number in range(35)]
    assert len(encoded._kept) <= 10
