"""The audit, on a real file and a real writer; the registry is a dictionary that a test sets as it likes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from captured import capture_logs
from herenow.errors import StoreNotReady
from herenow.keeper.audit import TRACKED_DRIFTS, Audit, AuditReport, Stamps
from herenow.keeper.judgement import Difference, DriftKind, Moment, judge, plan
from herenow.keeper.writer import Writer
from herenow.model import Availability, Claim, Claimed, StoredUser, UserPresence
from herenow.registry.state import presence, shown_in
from herenow.store.sqlite.store import SqlStore
from store.clock import TurnedClock
from store.databases import execute
from store.rows import NOW_MS, offline, online


class Registry:
    """The truth of a test. ``before_views`` runs once, in the middle of a round."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.users: dict[str, StoredUser] = {}
        self.version = 100
        self.before_views: Callable[[], Awaitable[None]] | None = None

    def next_version(self) -> int:
        self.version += 1
        return self.version

    async def stamps(self) -> Stamps:
        version = self.next_version()
        return lambda _: version

    async def views(self, user_ids: Sequence[str]) -> Mapping[str, UserPresence]:
        if self.before_views is not None:
            hook, self.before_views = self.before_views, None
            await hook()
        return {
            user_id: presence(user_id, shown_in(row), row.version)
            for user_id in user_ids
            if (row := self.users.get(user_id)) is not None
        }

    async def repair(self, rows: Sequence[StoredUser]) -> None:
        self.version = max(self.version, *(row.version for row in rows))
        for row in rows:
            gone = replace(row, is_online=False, availability=Availability.OFFLINE)
            self.writer.submit([replace(self.users.get(row.user_id, gone), version=self.next_version())])

    async def rows(self, user_ids: Sequence[str]) -> Mapping[str, StoredUser]:
        if self.before_views is not None:
            hook, self.before_views = self.before_views, None
            await hook()
        return {user_id: self.users[user_id] for user_id in user_ids if user_id in self.users}

    async def known(self) -> AsyncIterator[Sequence[str]]:
        for start in range(0, len(self.users), 1000):
            yield list(self.users)[start : start + 1000]


class Bench:
    def __init__(self, path: Path, store: SqlStore) -> None:
        self.path = path
        self.store = store
        self.writer = Writer(store, window_s=0.001)
        self.registry = Registry(self.writer)
        self.clock = TurnedClock()
        self.audit = Audit(store, self.registry, self.writer, clock=self.clock, sleep=self.clock.sleep)

    def change(self, row: StoredUser) -> None:
        """What the registry does for each change: it decides, and tells the writer."""
        row = replace(row, version=self.registry.next_version())
        self.registry.users[row.user_id] = row
        self.writer.submit([row])

    def overwrite(self, user_id: str, *, is_online: bool) -> None:
        """What another program does."""
        execute(self.path, f"UPDATE users SET isOnline = {is_online:d} WHERE id = '{user_id}'")

    async def round(self) -> AuditReport:
        report = await self.audit.round()
        await self.writer.drain(5)
        return report

    async def is_online(self, user_id: str) -> bool:
        return (await self.store.read([user_id]))[user_id].is_online


@pytest.fixture
async def bench(path: Path, store: SqlStore) -> AsyncIterator[Bench]:
    bench = Bench(path, store)
    task = asyncio.create_task(bench.writer.run())
    yield bench
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def found(report: AuditReport) -> tuple[int, int, int]:
    return report.ghosts, report.missing, report.repaired


async def test_where_both_agree_nothing_is_found_or_written(bench: Bench) -> None:
    bench.change(online("alice"))
    bench.change(offline("bob"))
    await bench.writer.drain(5)
    before = await bench.store.read(["alice", "bob"])
    for _ in range(3):
        report = await bench.round()
        assert found(report) == (0, 0, 0)
        assert report.checked == 2
    assert await bench.store.read(["alice", "bob"]) == before


async def test_a_ghost_is_repaired_when_it_is_seen_twice(bench: Bench) -> None:
    claim = Claim(Claimed.BUSY, "in a call", None)
    await bench.store.apply([replace(online("ghost"), claim=claim)])
    assert found(await bench.round()) == (1, 0, 0)
    assert await bench.is_online("ghost"), "a single sighting is no proof"
    assert found(await bench.round()) == (1, 0, 1)
    assert (await bench.store.read(["ghost"]))["ghost"] == StoredUser(
        "ghost", False, Availability.OFFLINE, NOW_MS, claim, bench.registry.version
    ), "only what was wrong has changed"
    assert found(await bench.round()) == (0, 0, 0)


async def test_a_ghost_whom_the_registry_knows_gets_the_registrys_row(bench: Bench) -> None:
    """An invisible user is present, and offline to others."""
    invisible = replace(offline("alice", last_active_ms=NOW_MS + 5), claim=Claim(Claimed.INVISIBLE))
    bench.change(invisible)
    await bench.writer.drain(5)
    bench.overwrite("alice", is_online=True)
    await bench.round()
    assert found(await bench.round()) == (1, 0, 1)
    stored = (await bench.store.read(["alice"]))["alice"]
    assert replace(stored, version=1) == invisible


async def test_a_missing_user_is_repaired_when_seen_twice(bench: Bench) -> None:
    bench.change(replace(online("alice"), availability=Availability.AWAY))
    bench.change(online("bob"))
    await bench.writer.drain(5)
    bench.overwrite("alice", is_online=False)
    execute(bench.path, "DELETE FROM users WHERE id = 'bob'")
    assert found(await bench.round()) == (0, 2, 0)
    assert found(await bench.round()) == (0, 2, 2)
    stored = await bench.store.read(["alice", "bob"])
    assert [(row.is_online, row.availability.value) for row in stored.values()] == [(True, "away"), (True, "online")]


@pytest.mark.parametrize("is_online", [True, False], ids=["ghost", "missing"])
async def test_a_row_ahead_of_the_registry_is_repaired_like_any_other(bench: Bench, *, is_online: bool) -> None:
    """The clock was an hour ahead, or another program wrote the version."""
    bench.change(offline("alice") if is_online else online("alice"))
    await bench.writer.drain(5)
    execute(bench.path, f"UPDATE users SET isOnline = {is_online:d}, presenceVersion = {2**51}")
    assert [found(await bench.round())[2] for _ in range(3)] == [0, 1, 0]
    assert await bench.is_online("alice") is not is_online
    bench.change(online("alice", last_active_ms=NOW_MS + 9))
    await bench.writer.drain(5)
    assert (await bench.store.read(["alice"]))["alice"].last_active_ms == NOW_MS + 9, "what comes after it is written"


async def test_another_program_that_keeps_writing_meets_at_most_one_write_a_round(bench: Bench) -> None:
    bench.change(online("alice"))
    await bench.writer.drain(5)
    repaired = []
    for _ in range(6):
        bench.overwrite("alice", is_online=False)
        repaired.append((await bench.round()).repaired)
    assert repaired == [0, 1, 0, 1, 0, 1]
    assert bench.audit.totals.missing == 6


async def test_rows_on_their_way_are_no_drift(bench: Bench) -> None:
    bench.change(online("bob"))
    await bench.writer.drain(5)
    bench.change(offline("bob"))
    bench.change(online("alice"))
    assert (await bench.audit.round()).ghosts == 0
    assert (await bench.audit.round()).missing == 0


async def test_who_connects_in_the_middle_of_a_repair_stays_online(bench: Bench) -> None:
    await bench.store.apply([online("alice")])
    await bench.round()

    async def connect() -> None:
        bench.change(online("alice", last_active_ms=NOW_MS + 9))

    bench.registry.before_views = connect
    await bench.round()
    assert (await bench.store.read(["alice"]))["alice"].last_active_ms == NOW_MS + 9
    assert await bench.is_online("alice")


async def test_who_leaves_in_the_middle_of_a_repair_stays_offline(bench: Bench) -> None:
    bench.change(online("alice"))
    await bench.writer.drain(5)
    bench.overwrite("alice", is_online=False)
    await bench.round()

    async def leave() -> None:
        bench.change(offline("alice"))

    bench.registry.before_views = leave
    await bench.round()
    await bench.round()
    assert not await bench.is_online("alice")


async def test_a_drift_that_went_away_in_between_starts_anew(bench: Bench) -> None:
    bench.change(online("alice"))
    await bench.writer.drain(5)
    for expected in ((0, 1, 0), (0, 0, 0), (0, 1, 0)):
        bench.overwrite("alice", is_online=expected == (0, 0, 0))
        assert found(await bench.round()) == expected


async def test_users_whom_the_store_does_not_create_are_not_missing(path: Path) -> None:
    execute(path, "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT NOT NULL)")
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    writer = Writer(store)
    audit = Audit(store, registry := Registry(writer), writer)
    registry.users["stranger"] = online("stranger")
    for _ in range(3):
        assert found(await audit.round()) == (0, 0, 0)
    await store.close()


async def test_each_repair_and_each_finding_is_logged(bench: Bench) -> None:
    await bench.store.apply([online("ghost")])
    with capture_logs() as logs:
        await bench.round()
        await bench.round()
        await bench.round()
    said = [line for line in logs if line["event"] in ("audited", "drift repaired")]
    assert [(line["event"], line["log_level"]) for line in said] == [
        ("audited", "info"),
        ("drift repaired", "warning"),
        ("audited", "info"),
        ("audited", "debug"),
    ]
    assert (said[1]["user"], said[1]["kind"]) == ("ghost", "ghost")


async def test_it_goes_round_at_its_interval_and_survives_a_store_that_fails(bench: Bench) -> None:
    running = asyncio.create_task(bench.audit.run())
    await bench.clock.advance_until_asleep(0)  # it has looked over all
    await bench.clock.advance(29.9)
    assert bench.audit.totals.rounds == 0
    await bench.clock.advance_until_asleep(0.2)
    assert bench.audit.totals.rounds == 1
    bench.store._creates_users = False  # the table is an application's: it is waited for
    execute(bench.path, "ALTER TABLE users RENAME TO elsewhere")
    await bench.clock.advance_until_asleep(30)
    assert (bench.audit.totals.rounds, bench.audit.totals.failures) == (1, 1)
    assert isinstance(bench.audit.last_error, StoreNotReady)
    execute(bench.path, "ALTER TABLE elsewhere RENAME TO users")
    await bench.clock.advance_until_asleep(30)
    assert (bench.audit.totals.rounds, bench.audit.totals.failures) == (2, 1)
    assert bench.audit.last_error is None
    running.cancel()


async def test_a_flood_of_drift_is_counted_whole_and_repaired_in_turns(bench: Bench) -> None:
    ghosts = TRACKED_DRIFTS + 500
    await bench.store.apply([online(f"ghost-{i:06}") for i in range(ghosts)])
    reports = [found(await bench.round()) for _ in range(4)]
    assert reports == [(ghosts, 0, 0), (ghosts, 0, TRACKED_DRIFTS), (500, 0, 500), (0, 0, 0)]


# the pure parts


@pytest.mark.parametrize(
    ("said", "stored", "drift"),
    [
        (None, None, None),
        (None, offline("a"), None),
        (online("a"), online("a"), None),
        (offline("a"), offline("a"), None),
        (offline("a"), None, None),
        (None, online("a"), DriftKind.GHOST),
        (offline("a"), online("a"), DriftKind.GHOST),
        (online("a"), offline("a"), DriftKind.MISSING),
        (online("a"), None, DriftKind.MISSING),
        # decided during the round: what the other side says may be older
        (online("a", version=50), offline("a"), None),
        (offline("a"), online("a", version=51), None),
        # newer than all that was decided: not the registry's own
        (offline("a"), online("a", version=60), DriftKind.GHOST),
        (online("a"), offline("a", version=60), DriftKind.MISSING),
    ],
)
def test_judgement(said: StoredUser | None, stored: StoredUser | None, drift: DriftKind | None) -> None:
    found = judge(said, stored, Moment(range(50, 60), NOW_MS), creates_users=True)
    assert (None if found is None else found.kind) is drift


def test_only_the_same_drift_seen_twice_is_planned_for_repair() -> None:
    drifts = [Difference(name, DriftKind.GHOST, None) for name in ("new", "same", "other")]
    seen = {"same": DriftKind.GHOST, "other": DriftKind.MISSING}
    assert [drift.user_id for drift in plan(drifts, seen)] == ["same"]
