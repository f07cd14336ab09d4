"""What another program does to the rows, the table and the indexes under a running server, on each real database."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from applications import APPLICATIONS, Application
from captured import capture_logs
from herenow.errors import StoreNotReady
from herenow.http.maintenance import Maintenance, now_ms
from herenow.model import Claim, Claimed, Closing, StoredUser
from herenow.presence import Presence
from herenow.store.audit import AuditReport
from herenow.wire import user_to_wire
from support import until

HOUR_MS = 3_600_000
USERS = ("alice", "ben", "cleo", "dan", "eve", "finn")


@pytest.fixture(params=APPLICATIONS)
def application(request: pytest.FixtureRequest, tmp_path: Path) -> Application:
    application = APPLICATIONS[request.param](tmp_path)
    application.add(*USERS)
    return application


@pytest.fixture
async def presence(application: Application) -> AsyncIterator[Presence]:
    presence = Presence(application.url, dev=True, audit_every_s=3600.0)  # rounds are called by hand
    await presence.start()
    await until(lambda: presence.audit.mended_at_start is not None)
    yield presence
    await presence.stop()


async def connect(presence: Presence, *user_ids: str) -> None:
    for user_id in user_ids:
        await presence.registry.connect(user_id, f"of-{user_id}", node="n")
    await written(presence)


async def written(presence: Presence) -> None:
    await until(lambda: presence.writer.state().pending == 0)


async def rounds(presence: Presence, count: int = 2) -> AuditReport:
    for _ in range(count):
        report = await presence.audit.round()
    await written(presence)
    return report


async def row(presence: Presence, user_id: str) -> StoredUser:
    return (await presence.store.read([user_id]))[user_id]


# every field that is ours, in everybody's rows


async def test_the_claim_of_an_invisible_user_outlives_an_application_that_saves_whole_documents(
    application: Application, presence: Presence
) -> None:
    """A crash then exposed her: the next server knew of no claim."""
    await connect(presence, "alice", "ben")
    invisible = Claim(Claimed.INVISIBLE, "writing")
    await presence.registry.claim("alice", invisible)
    await presence.registry.claim("cleo", Claim(Claimed.BUSY))  # who is not here at all
    await written(presence)
    before = {name: await row(presence, name) for name in ("alice", "ben", "cleo")}
    for user_id in before:
        application.save_whole(user_id, isOnline=user_id != "alice")
    drift = await Maintenance(presence).drift(None)
    assert (drift.ghosts, drift.missing + drift.wrong) == (1, 2), "cleo, who is not here, and two more"
    await rounds(presence)
    for user_id, was in before.items():
        now = await row(presence, user_id)
        assert (now.is_online, now.claim) == (was.is_online, was.claim)
        assert now.version > was.version
    assert (await rounds(presence, 1)).wrong == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lastActive", datetime(2020, 1, 1, tzinfo=UTC)),
        ("version", 0),
        ("version", 2**51),
        ("availability", "away"),
        ("claim", None),
    ],
    ids=["lastActive", "no version", "a version that nobody gave out", "availability", "claim"],
)
async def test_each_field_is_compared_for_who_is_here_and_for_who_has_gone(
    application: Application, presence: Presence, field: str, value: Any
) -> None:
    await connect(presence, "alice", "ben")
    await presence.registry.claim("alice", Claim(Claimed.BUSY, "in a call"))
    await presence.registry.disconnect("of-ben", Closing.LEFT)
    await written(presence)
    before = {name: await row(presence, name) for name in ("alice", "ben")}
    names = ["alice"] if field in ("claim", "availability") else ["alice", "ben"]
    for user_id in names:
        application.overwrite(user_id, **{field: value})
    assert (await rounds(presence, 1)).wrong == len(names)
    assert (await rounds(presence, 1)).repaired == len(names)
    for user_id in names:
        now, was = await row(presence, user_id), before[user_id]
        assert (now.is_online, now.availability, now.last_active_ms, now.claim, now.odd) == (
            (was.is_online, was.availability, was.last_active_ms, was.claim, ())
        )
    await connect(presence, "ben")
    assert (await row(presence, "ben")).is_online, "and what comes next is written"
    assert (await rounds(presence, 1)).wrong == 0


# values that are none


def odd_times(application: Application) -> list[Any]:
    late = datetime.now(UTC) + timedelta(hours=3)
    return [1_740_000_000_000_000, -5, "yesterday", "9999-12-31T23:59:59-10:00", float("inf"), late]


@pytest.mark.parametrize("flag", ["true", 2, "yes", b"\xff", 0.5])
async def test_who_looks_online_to_whoever_reads_what_is_no_boolean_is_a_ghost_and_is_mended(
    application: Application, presence: Presence, flag: Any
) -> None:
    application.overwrite("alice", isOnline=flag)  # she never comes back
    await connect(presence, "ben")
    application.overwrite("ben", isOnline=flag)
    status = await Maintenance(presence).status(None)
    assert status.stored.odd == 2
    assert sorted([key async for page in presence.store.odd_ids() for key in page]) == ["alice", "ben"]
    assert [(each.user_id, each.kind) for each in status.drift.examples] == [("alice", "ghost"), ("ben", "missing")]
    await rounds(presence)
    assert [bool(application.two_fields(name)[0]) for name in ("alice", "ben")] == [False, True]
    assert application.two_fields("alice")[0] in (False, 0)
    assert (await Maintenance(presence).drift(None)).is_none


async def test_one_odd_row_fails_no_list_no_start_and_no_later_change(application: Application) -> None:
    """A `lastActive` in microseconds made `watch {all}` answer `internal`, and lost the diffs of everybody else."""
    presence = Presence(application.url, dev=True, audit_every_s=3600.0)
    await presence.store.init()
    for user_id, time in zip(USERS, odd_times(application), strict=True):
        application.overwrite(user_id, isOnline=True, lastActive=time, version=7)
    began_ms = now_ms()
    await presence.start()
    users = [user async for user in presence.online()]
    assert {user.user_id for user in users} == set(USERS)
    assert [user_to_wire(user)["userId"] for user in users]
    assert all(user.last_active_ms is None or user.last_active_ms <= now_ms() for user in users)
    told: list[str] = []
    presence.on_change(lambda change: told.append(user_to_wire(change)["userId"]))
    await presence.evict(None, disconnect=True)
    await written(presence)
    assert set(told) == set(USERS)
    await rounds(presence)
    for user_id in USERS:
        is_online, last_active = application.two_fields(user_id)
        assert not is_online
        assert last_active is None or (isinstance(last_active, int) and began_ms - 1 <= last_active <= now_ms())
    assert (await rounds(presence, 1)).repaired == 0
    await presence.stop()


async def test_odd_values_of_who_never_returns_are_mended_at_the_start_and_by_the_audit(
    application: Application, presence: Presence
) -> None:
    assert await presence.audit.mend_all() == 0
    times = odd_times(application)
    for user_id, time in zip(USERS, times, strict=True):
        application.overwrite(user_id, lastActive=time, version=3.5, isOnline="no")
    kept_ms = now_ms() - HOUR_MS
    application.add("gwen")
    application.overwrite("gwen", lastActive=datetime.fromtimestamp(kept_ms / 1000, UTC), isOnline="yes")
    assert await presence.audit.mend_all() == len(USERS) + 1, "which is the first that a server does"
    await written(presence)
    assert application.two_fields("gwen") == (False, kept_ms)
    for user_id in USERS:
        is_online, last_active = application.two_fields(user_id)
        assert not is_online
        assert last_active is None or (isinstance(last_active, int) and last_active <= now_ms())
        assert not (await row(presence, user_id)).odd
    application.overwrite("alice", lastActive="yesterday")
    assert (await rounds(presence)).repaired == 1
    assert (await rounds(presence)).wrong == 0, "and not again and again"


async def test_init_counts_and_mends_odd_values(application: Application) -> None:
    presence = Presence(application.url, dev=True)
    store = presence.store
    await store.init()
    for user_id, time in zip(USERS, odd_times(application), strict=True):
        application.overwrite(user_id, lastActive=time, isOnline="true")
    would = await store.init(dry_run=True)
    report = await store.init()
    assert report.steps == would.steps
    assert "isOnline to false where it is neither true nor false: 6 users" in " ".join(report.steps)
    assert (await store.init()).steps == ()
    page = await store.sift(version=2**50, after_ms=now_ms() + 1000)
    assert (page.users, (await store.counts()).odd) == ((), 0)
    await store.close()


async def test_stale_and_cleanup_spare_no_ghost_with_a_time_to_come_or_a_flag_that_is_none(
    application: Application, presence: Presence
) -> None:
    late = datetime.now(UTC) + timedelta(days=300)
    application.overwrite("alice", isOnline=True, lastActive=late)
    application.overwrite("ben", isOnline=True, lastActive=datetime(2020, 1, 1, tzinfo=UTC))
    application.overwrite("cleo", isOnline=True, lastActive=datetime.now(UTC))
    application.overwrite("dan", isOnline="true")
    maintenance = Maintenance(presence)
    pages = [(await presence.store.stale(now_ms() - HOUR_MS, after_ms=now_ms() + HOUR_MS, limit=1))]
    while pages[-1].cursor is not None:
        more = await presence.store.stale(
            now_ms() - HOUR_MS, after_ms=now_ms() + HOUR_MS, limit=1, after=pages[-1].cursor
        )
        pages.append(more)
    assert [user.user_id for page in pages for user in page.users] == ["alice", "ben"]
    done = await maintenance.stale(older_than_ms=HOUR_MS, dry_run=False, tenant=None)
    assert done.offline == 3, "and dan, who has no lastActive at all"
    assert (await maintenance.cleanup(disconnect=False, dry_run=False, tenant=None)).offline == 1
    assert [bool(application.two_fields(name)[0]) for name in USERS] == [False] * 6


# the table, the collection and their indexes


GONE: dict[str, Callable[[Application], None]] = {
    "dropped": lambda application: application.drop(),
    "renamed": lambda application: application.rename("users", "users_before"),
    "emptied": lambda application: application.empty(),
}


@pytest.mark.parametrize("how", GONE)
async def test_users_that_are_gone_are_said_and_written_once_they_are_back(
    application: Application, presence: Presence, how: str
) -> None:
    await presence.audit.round()
    await connect(presence, "alice", "ben")
    GONE[how](application)
    with capture_logs() as logs:
        if how == "emptied":
            await presence.audit.round()
        else:
            with pytest.raises(StoreNotReady, match="is gone"):
                await presence.audit.round()
    assert [line["log_level"] for line in logs if line["event"] == "store incomplete"] == ["error"]
    assert len(presence.audit.upkeep.troubles) == 1
    await presence.registry.connect("cleo", "of-cleo", node="n")  # while there is nothing to write to
    await presence.registry.disconnect("of-ben", Closing.LEFT)
    if how == "renamed":
        application.rename("users_before", "users")
    elif how == "dropped":
        application.restore(*USERS)
    else:
        application.add(*USERS)
    await rounds(presence, 1)  # what is missing there is not late: the first look is enough
    assert [(await row(presence, name)).is_online for name in ("alice", "ben", "cleo")] == [True, False, True]
    assert {"herenow_online", "herenow_claims"} <= application.indexes()
    await rounds(presence, 1)
    assert not presence.audit.upkeep.troubles


async def test_an_index_that_is_dropped_is_said_with_its_cost_and_made_anew(
    application: Application, presence: Presence
) -> None:
    before = application.indexes()
    await connect(presence, "alice")
    application.drop_indexes()
    with capture_logs() as logs:
        await rounds(presence, 1)
    assert application.indexes() == before
    said = [line["trouble"] for line in logs if line["event"] == "store incomplete"]
    assert len(said) == len(before)
    assert any("herenow_online on users is missing: whoever asks who is online" in trouble for trouble in said)
    assert {line["log_level"] for line in logs if line["event"] == "store incomplete"} == {"warning"}
    assert presence.audit.upkeep.troubles == tuple(said), "so /readyz has it until the next round"
    await rounds(presence, 1)
    assert not presence.audit.upkeep.troubles


async def test_a_table_of_our_own_that_is_dropped_or_emptied_is_made_and_filled_anew(tmp_path: Path) -> None:
    presence = Presence(f"sqlite:///{tmp_path}/app.db", dev=True, audit_every_s=3600.0)
    await presence.start()
    await until(lambda: presence.audit.mended_at_start is not None)
    await connect(presence, "alice", "ben")
    await presence.audit.round()
    statements = ("DROP TABLE users", "DELETE FROM users", "DROP TABLE herenow_schema")
    for statement in statements:
        connection = sqlite3.connect(tmp_path / "app.db")
        connection.execute(statement)
        connection.commit()
        connection.close()
        await rounds(presence, 1)
        assert presence.store.creates_users
        assert presence.audit.upkeep.troubles
        assert [(await row(presence, name)).is_online for name in ("alice", "ben")] == [True, True]
    await presence.stop()
