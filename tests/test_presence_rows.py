"""What another program does to the rows, the table and the indexes under a running server, on each real database."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from applications import APPLICATIONS, Application
from captured import capture_logs
from cli_support import herenow
from herenow.cli.init import SERVED
from herenow.errors import StoreInUse, StoreNotReady
from herenow.http.access import Access
from herenow.http.api import Api
from herenow.http.maintenance import Maintenance
from herenow.http.models import Readiness
from herenow.keeper.audit import AuditReport
from herenow.model import Claim, Claimed, Closing, StoredUser
from herenow.presence import Presence
from herenow.times import unix_ms
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
    await presence.registry.disconnect("ben", "of-ben", Closing.LEFT)
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
    assert sorted([key async for page in presence.store.odd_ids(after_ms=unix_ms()) for key in page]) == [
        "alice",
        "ben",
    ]
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
    began_ms = unix_ms()
    await presence.start()
    users = [user async for user in presence.online()]
    assert {user.user_id for user in users} == set(USERS)
    assert [user_to_wire(user)["userId"] for user in users]
    assert all(user.last_active_ms is None or user.last_active_ms <= unix_ms() for user in users)
    told: list[str] = []
    presence.on_change(lambda change: told.append(user_to_wire(change)["userId"]))
    await presence.evict(None, disconnect=True)
    await written(presence)
    assert set(told) == set(USERS)
    await rounds(presence)
    for user_id in USERS:
        is_online, last_active = application.two_fields(user_id)
        assert not is_online
        assert last_active is None or (isinstance(last_active, int) and began_ms - 1 <= last_active <= unix_ms())
    assert (await rounds(presence, 1)).repaired == 0
    await presence.stop()


async def test_odd_values_of_who_never_returns_are_mended_at_the_start_and_by_the_audit(
    application: Application, presence: Presence
) -> None:
    assert await presence.audit.mend_all() == 0
    times = odd_times(application)
    for user_id, time in zip(USERS, times, strict=True):
        application.overwrite(user_id, lastActive=time, version=3.5, isOnline="no")
    kept_ms = unix_ms() - HOUR_MS
    application.add("gwen")
    application.overwrite("gwen", lastActive=datetime.fromtimestamp(kept_ms / 1000, UTC), isOnline="yes")
    assert await presence.audit.mend_all() == len(USERS) + 1, "which is the first that a server does"
    await written(presence)
    assert application.two_fields("gwen") == (False, kept_ms)
    for user_id in USERS:
        is_online, last_active = application.two_fields(user_id)
        assert not is_online
        assert last_active is None or (isinstance(last_active, int) and last_active <= unix_ms())
        assert not (await row(presence, user_id)).odd
    application.overwrite("alice", lastActive="yesterday")
    assert (await rounds(presence)).repaired == 1
    assert (await rounds(presence)).wrong == 0, "and not again and again"


async def test_a_time_that_is_none_is_found_along_the_index_however_many_users_there_are(
    application: Application, presence: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To go through a million users takes twenty minutes of rounds; what the index shows is mended within two."""
    monkeypatch.setattr("herenow.keeper.audit.SIFTED_A_ROUND", 0)
    for user_id, time in zip(USERS, odd_times(application), strict=True):
        application.overwrite(user_id, lastActive=time)
    assert (await rounds(presence)).repaired == len(USERS)
    for user_id in USERS:
        last_active = application.two_fields(user_id)[1]
        assert last_active is None or (isinstance(last_active, int) and last_active <= unix_ms())
    assert (await rounds(presence)).wrong == 0


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
    page = await store.sift(version=2**50, after_ms=unix_ms() + 1000)
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
    pages = [(await presence.store.stale(unix_ms() - HOUR_MS, after_ms=unix_ms() + HOUR_MS, limit=1))]
    while pages[-1].cursor is not None:
        more = await presence.store.stale(
            unix_ms() - HOUR_MS, after_ms=unix_ms() + HOUR_MS, limit=1, after=pages[-1].cursor
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
    await presence.registry.disconnect("ben", "of-ben", Closing.LEFT)
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


async def test_an_index_that_is_made_anew_puts_nobody_offline_who_is_connected(
    application: Application, presence: Presence
) -> None:
    """`init` takes an odd `isOnline` for false; who makes an index anew under a server has no say in it."""
    await connect(presence, "alice", "ben")
    application.overwrite("alice", isOnline="true", lastActive="soon")
    application.overwrite("ben", isOnline=2)
    application.drop_indexes()
    await rounds(presence, 1)
    odd = [application.two_fields(name)[0] for name in ("alice", "ben")]
    assert odd == ["true", 2], "seen once: this round does not decide yet who is online"
    await rounds(presence, 1)
    assert [application.two_fields(name)[0] for name in ("alice", "ben")] == [True, True]


async def test_neither_init_nor_a_second_server_puts_anybody_offline_who_is_connected(
    application: Application, presence: Presence, tmp_path: Path
) -> None:
    await connect(presence, "alice")
    application.overwrite("alice", isOnline="true")
    application.drop_indexes()  # so that a start prepares the store
    with pytest.raises(StoreInUse):
        await Presence(application.url, dev=True).start()
    application.drop_indexes()
    ended = await asyncio.to_thread(herenow, "init", "--database", application.url, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert SERVED in ended.stdout
    assert "create the index herenow_online" in ended.stdout
    assert application.two_fields("alice")[0] == "true"
    await rounds(presence)
    assert application.two_fields("alice")[0] in (True, 1)


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


# what has no effect


def readiness(presence: Presence) -> Readiness:
    heartbeats: Any = None
    return Api(presence, Access(presence.settings, "", lambda *_: True), heartbeats)._readiness(in_full=True)


@pytest.mark.parametrize(
    "trigger",
    [
        "BEFORE INSERT ON users BEGIN SELECT RAISE(IGNORE); END",
        "AFTER INSERT ON users BEGIN UPDATE users SET isOnline = 0 WHERE id = new.id; END",
    ],
    ids=["refuses without a word", "undoes"],
)
async def test_a_trigger_that_refuses_or_undoes_all_rows_without_an_error_is_told_and_not_repaired_in_silence(
    tmp_path: Path, trigger: str
) -> None:
    """All was counted as written, or skipped, and ``/readyz`` was content."""
    presence = Presence(f"sqlite:///{tmp_path}/app.db", dev=True, audit_every_s=3600.0)
    await presence.start()
    with sqlite3.connect(tmp_path / "app.db") as database:
        database.execute(f"CREATE TRIGGER theirs {trigger}")
        database.execute(f"CREATE TRIGGER again {trigger.replace('INSERT', 'UPDATE', 1)}")
    await connect(presence, *USERS)
    with capture_logs() as logs:
        for _ in range(8):
            await rounds(presence, 1)
    assert [line["log_level"] for line in logs if line["event"] == "repairs have no effect"] == ["error"]
    (trouble,) = presence.audit.troubles
    assert "6 users are wrong in the database again each time that they are put right" in trouble
    assert "wrong again" in str(readiness(presence).reason)
    with sqlite3.connect(tmp_path / "app.db") as database:
        for name in ("theirs", "again"):
            database.execute(f"DROP TRIGGER {name}")
    for _ in range(5):
        await rounds(presence, 1)
    assert presence.audit.troubles == ()
    assert readiness(presence).ready
    assert (await presence.store.counts()).online == len(USERS)
    await presence.stop()


@pytest.mark.parametrize(
    "zero", ["0001-01-01T00:00:00Z", "0001-01-01 00:00:00", "1899-12-30", "1969-12-31T23:59:59.000Z", "2026-02-30"]
)
async def test_the_zero_of_other_programs_is_no_time_and_mended(tmp_path: Path, zero: str) -> None:
    """Of a user who never returns it was found, and repaired, in every other round for ever."""
    presence = Presence(f"sqlite:///{tmp_path}/app.db", dev=True, audit_every_s=3600.0)
    await presence.start()
    await connect(presence, "alice")
    with sqlite3.connect(tmp_path / "app.db") as database:
        database.execute("INSERT INTO users (id, isOnline, lastActive) VALUES ('zoe', 0, ?)", (zero,))
    await rounds(presence, 3)
    assert (await rounds(presence, 1)).wrong == 0
    assert (await row(presence, "zoe")).last_active_ms is None
    await presence.stop()


async def test_our_own_table_renamed_under_a_server_is_made_anew_with_its_indexes(tmp_path: Path) -> None:
    """SQLite's indexes go with a renamed table, and their names are given once in a database."""
    presence = Presence(f"sqlite:///{tmp_path}/app.db", dev=True, audit_every_s=3600.0)
    await presence.start()
    await connect(presence, "alice")
    with sqlite3.connect(tmp_path / "app.db") as database:
        database.execute("ALTER TABLE users RENAME TO people")
    await rounds(presence)
    await rounds(presence, 1)  # once the row is written
    assert (await row(presence, "alice")).is_online
    assert not presence.audit.troubles
    with sqlite3.connect(tmp_path / "app.db") as database:
        found = database.execute("SELECT tbl_name FROM sqlite_master WHERE name LIKE 'herenow_%' AND type = 'index'")
        assert {of for (of,) in found} == {"users"}
    await presence.stop()
