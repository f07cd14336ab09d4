"""What a node says of whom others were told, where the Redis that answers now knows nothing of it."""

from herenow.model import Availability, Cause, Change
from herenow.registry.changelog import ChangeLog
from herenow.registry.commands import Adopt, Connect, Now, Retell
from herenow.registry.redis.blob import Held
from herenow.registry.redis.serving import as_told, lost_changes, to_retell
from herenow.registry.rules import Policy, decide
from herenow.registry.state import HeldUser

POLICY = Policy(grace_ms=2_000)
KNOWN, TOLD = 1_000_000, 5_000_000
"""Versions, which are times in µs: of what Redis knows, and of what it has lost."""


def change(user: str, availability: Availability, version: int = TOLD) -> Change:
    is_online = availability is not Availability.OFFLINE
    return Change(user, is_online, availability, None, None, None, version, Cause.LEFT)


def held(user: str, *, at_ms: int) -> Held:
    """A user who has connected at a time, and was not told of since, as far as Redis knows."""
    state = HeldUser(user)
    decide(state, Connect(user, "c", "n"), Now(at_ms * 1000, at_ms), POLICY)
    return Held(state, b"revision", KNOWN, b"")


def nobody(user: str) -> Held:
    return Held(HeldUser(user), b"", 0, b"")


def test_of_whom_others_were_told_what_is_lost_it_is_told_anew_but_not_of_who_is_nowhere() -> None:
    told = {
        user: change(user, availability)
        for user, availability in (
            ("here", Availability.AWAY), ("lost", Availability.ONLINE), ("left", Availability.OFFLINE),
            ("back", Availability.OFFLINE), ("gone", Availability.OFFLINE),
        )
    }  # fmt: skip
    there = {
        "here": held("here", at_ms=900),
        "lost": nobody("lost"),
        "left": held("left", at_ms=900),
        "back": held("back", at_ms=6_000),
        "gone": nobody("gone"),
    }
    again = to_retell(told, there, now_ms=6_000, grace_ms=2_000)
    assert {user: [type(each) for each in said] for user, said in again.items()} == {
        "here": [Retell], "lost": [Adopt, Retell], "left": [Retell], "back": [Retell]
    }  # fmt: skip
    known = {user: each._replace(version=TOLD) for user, each in there.items()}
    assert set(to_retell(told, known, now_ms=6_000, grace_ms=2_000)) == set()


def test_who_comes_back_whom_redis_never_heard_to_leave_is_told_to_have_come() -> None:
    for base, steps in (
        (held("u", at_ms=900), 0),
        (as_told(held("u", at_ms=900), change("u", Availability.OFFLINE)), 1),
    ):
        decision = decide(base.user, Connect("u", "c2", "n"), Now(6_000_000, 6_000), POLICY)
        assert [each.shown.look[0] for each in decision.changes] == [Availability.ONLINE] * steps
    assert as_told(held("u", at_ms=900), change("u", Availability.OFFLINE, KNOWN)).version == KNOWN
    assert as_told(nobody("u"), change("u", Availability.OFFLINE)).version == 0


def test_what_is_lost_is_what_was_told_since_or_all_that_is_remembered_where_that_cannot_be_told() -> None:
    log = ChangeLog(2, 10)
    for number, user in enumerate(("alice", "bob", "carol"), 11):
        log.append(change(user, Availability.ONLINE, number))
    assert set(lost_changes(log, 12)) == {"carol"}
    assert set(lost_changes(log, 0)) == {"bob", "carol"}
    assert lost_changes(log, 99) == {}
