"""The verdicts of ``explain``: each rule, from facts to words."""

from typing import Any

import msgspec
import pytest

from herenow.http.explaining import Facts, explain, explain_without_server
from herenow.http.models import Explained
from herenow.model import Availability, Cause, Change, Claim, Claimed, Connection, StoredUser, UserPresence
from herenow.registry.base import Explanation
from herenow.settings import Settings
from herenow.store.nodes import Node
from herenow.times import to_iso

NOW_MS = 1_750_000_000_000
SETTINGS = Settings.load()


def view(availability: Availability) -> UserPresence:
    return UserPresence("alice", availability is not Availability.OFFLINE, availability, NOW_MS, None, None, 5)


def connection(number: int = 1, **changes: Any) -> Connection:
    made = Connection(f"c{number}", "alice", "local", NOW_MS - 60_000, NOW_MS - 1000, False, "websocket", "10.0.0.1")
    return msgspec.structs.replace(made, **changes)


def row(*, online: bool) -> StoredUser:
    shown = Availability.ONLINE if online else Availability.OFFLINE
    return StoredUser("alice", online, shown, NOW_MS, None, 5)


def explained(
    shown: Availability,
    *,
    connections: tuple[Connection, ...] = (),
    claim: Claim | None = None,
    lingers_ms: int | None = None,
    linger_cause: Cause | None = None,
    own: Availability | None = None,
    stored: StoredUser | None = None,
    is_pending: bool = False,
    settings: Settings = SETTINGS,
) -> Explained:
    live = Explanation(view(shown), view(own or shown), claim, connections, lingers_ms, linger_cause)
    stored = stored or row(online=shown is not Availability.OFFLINE)
    return explain(Facts("alice", NOW_MS, live, {"c1": NOW_MS - 4000}, stored, is_pending, settings))


def test_connected_is_online_until_the_last_heartbeat_is_missed() -> None:
    found = explained(Availability.ONLINE, connections=(connection(1), connection(2)))
    assert found.verdict == "alice is shown online: 2 connections."
    assert found.connections[0].last_heard == to_iso(NOW_MS - 4000)
    assert found.connections[0].deadline == to_iso(NOW_MS + 11_000)
    assert found.connections[1].last_heard is None
    assert found.next is not None and found.next.at == to_iso(NOW_MS + 11_000)


def test_all_devices_idle_is_away() -> None:
    found = explained(Availability.AWAY, connections=(connection(is_idle=True),))
    assert found.verdict == "alice is shown away: 1 connection, all idle."
    assert found.rule.startswith("Away: every device is idle.")


def test_what_was_asked_for_beats_idleness_until_it_expires() -> None:
    claim = Claim(Claimed.BUSY, None, NOW_MS + 5000)
    found = explained(Availability.BUSY, connections=(connection(is_idle=True),), claim=claim)
    assert "asked to be busy until" in found.rule
    assert found.next is not None and found.next.what == "what the user asked to be expires"


def test_invisible_looks_offline_and_nothing_changes_by_itself() -> None:
    found = explained(
        Availability.OFFLINE,
        own=Availability.ONLINE,
        connections=(connection(),),
        claim=Claim(Claimed.INVISIBLE),
    )
    assert found.verdict == "alice is shown offline: asked to be invisible (1 connection)."
    assert found.next is None
    assert found.agrees


@pytest.mark.parametrize(
    ("cause", "words"),
    [(Cause.CLOSED, "without a goodbye (closed)"), (Cause.RESTART, "when the last server died")],
)
def test_a_lingering_user_has_a_grace_that_ends(cause: Cause, words: str) -> None:
    found = explained(Availability.ONLINE, lingers_ms=700, linger_cause=cause)
    assert found.verdict == "alice is shown online: no connection, but 0.7 s of grace are left."
    assert words in found.rule
    assert found.next is not None and found.next.at == to_iso(NOW_MS + 700)


def test_a_device_in_use_that_dropped_has_a_grace_before_away() -> None:
    idle = connection(is_idle=True)
    found = explained(Availability.ONLINE, connections=(idle,), lingers_ms=700, linger_cause=Cause.CLOSED)
    assert "the others are idle, so away comes next" in found.rule
    assert found.next is not None and found.next.what == "the grace ends: away, unless the device comes back"


def test_idleness_by_the_server_is_the_next_moment() -> None:
    settings = Settings.load(idle_after_s=60)
    found = explained(Availability.ONLINE, connections=(connection(),), settings=settings)
    assert found.next is not None
    assert (found.next.at, found.next.what) == (to_iso(NOW_MS + 59_000), "the last device counts as idle: away")


def test_an_absent_user_with_a_claim_is_offline() -> None:
    found = explained(Availability.OFFLINE, claim=Claim(Claimed.BUSY))
    assert found.verdict == "alice is shown offline: no connection."


@pytest.mark.parametrize(
    ("shown", "stored", "is_pending", "words", "agrees"),
    [
        (Availability.ONLINE, row(online=True), False, "it agrees", True),
        (Availability.ONLINE, row(online=False), True, "the row is on its way", True),
        (Availability.ONLINE, row(online=False), False, "missing, repaired within 60 s", False),
        (Availability.OFFLINE, row(online=True), False, "a ghost, repaired within 60 s", False),
    ],
)
def test_the_store_is_compared(
    shown: Availability, stored: StoredUser, is_pending: bool, words: str, agrees: bool
) -> None:
    connections = (connection(),) if shown is Availability.ONLINE else ()
    found = explained(shown, connections=connections, stored=stored, is_pending=is_pending)
    assert words in found.agreement
    assert found.agrees is agrees


def test_one_who_is_not_known_here_is_offline() -> None:
    found = explain(Facts("alice", NOW_MS, None, {}, None, False, SETTINGS))
    assert (found.verdict, found.agrees, found.stored) == ("alice is shown offline: never seen here.", True, None)
    ghost = explain(Facts("alice", NOW_MS, None, {}, row(online=True), False, SETTINGS))
    assert (ghost.verdict, ghost.agrees) == ("alice is shown offline: no connection.", False)


def test_without_a_server_whoever_is_online_is_a_ghost() -> None:
    last = Node("local", 1, "host", 7, "", "", NOW_MS - 9000, NOW_MS - 5000, 5000)
    ghost = explain_without_server("alice", now_ms=NOW_MS, stored=row(online=True), last=last, settings=SETTINGS)
    assert ghost.verdict.startswith("alice is a ghost")
    assert to_iso(NOW_MS - 5000) in ghost.rule
    assert not ghost.agrees
    offline = explain_without_server("alice", now_ms=NOW_MS, stored=row(online=False), last=None, settings=SETTINGS)
    assert (offline.agrees, offline.agreement) == (True, "that is right")
    unknown = explain_without_server("alice", now_ms=NOW_MS, stored=None, last=None, settings=SETTINGS)
    assert (unknown.agrees, unknown.stored) == (True, None)


def test_the_last_changes_are_told_with_their_causes() -> None:
    change = Change("alice", False, Availability.OFFLINE, NOW_MS, None, None, (NOW_MS - 5000) * 1000, Cause.TIMEOUT)
    found = explain(Facts("alice", NOW_MS, None, {}, row(online=False), False, SETTINGS, (change,)))
    [past] = found.changes
    assert (past.at, past.availability, past.cause) == (to_iso(NOW_MS - 5000), "offline", "timeout")
