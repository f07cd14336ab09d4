"""The contract of ``herenow.store.base.Store``: what every store keeps, whatever it stands on."""

import asyncio
import random
from collections.abc import Container, Sequence
from itertools import count

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from contract.backends import Backend
from herenow.errors import CursorInvalid
from herenow.model import Availability, Claim, Claimed, StoredUser
from herenow.store.base import Counts, RowPage, Store

NOW_MS = 1_740_000_000_000


def online(user_id: str, *, version: int = 1, last_active_ms: int | None = NOW_MS) -> StoredUser:
    return StoredUser(user_id, True, Availability.ONLINE, last_active_ms, None, version)


def offline(user_id: str, *, version: int = 1, last_active_ms: int | None = NOW_MS) -> StoredUser:
    return StoredUser(user_id, False, Availability.OFFLINE, last_active_ms, None, version)


async def put(backend: Backend, store: Store, *rows: StoredUser) -> None:
    await backend.add_users({row.user_id for row in rows})
    await store.apply(rows)


def ids(page: RowPage) -> list[str]:
    return [row.user_id for row in page.users]


async def walk_online(store: Store, limit: int) -> list[list[str]]:
    pages = []
    cursor = None
    while True:
        page = await store.online(after=cursor, limit=limit)
        pages.append(ids(page))
        cursor = page.cursor
        if cursor is None:
            return pages


# init


async def test_init_twice_changes_nothing(store: Store) -> None:
    assert (await store.init()).steps == ()


async def test_init_says_beforehand_what_it_will_do(backend: Backend) -> None:
    store = backend.store()
    await store.open()
    would = await store.init(dry_run=True)
    assert would.dry_run
    assert would.steps
    assert (await store.init(dry_run=True)).steps == would.steps, "the first dry run changed something"
    assert (await store.init()).steps == would.steps
    await store.close()


async def test_what_was_written_is_there_after_a_restart(backend: Backend, store: Store) -> None:
    await put(backend, store, online("alice"))
    await store.close()
    again = backend.store()
    await again.open()
    assert await again.read(["alice"]) == {"alice": online("alice")}
    assert again.creates_users == store.creates_users
    await again.close()


async def test_close_may_be_repeated(store: Store) -> None:
    await store.close()
    await store.close()


# apply and read


@pytest.mark.parametrize(
    "row",
    [
        online("alice"),
        offline("alice", last_active_ms=None),
        StoredUser("alice", True, Availability.AWAY, NOW_MS + 1, Claim(Claimed.AWAY), 2**52 - 1),
        StoredUser("alice", True, Availability.BUSY, 0, Claim(Claimed.BUSY, "déjeuner 🍜\n\0'\"", NOW_MS), 7),
        StoredUser("alice", True, Availability.ONLINE, NOW_MS, Claim(text="only words"), 7),
        StoredUser("alice", False, Availability.OFFLINE, NOW_MS, Claim(Claimed.INVISIBLE, None, NOW_MS + 1), 7),
    ],
)
async def test_a_row_is_read_as_it_was_written(backend: Backend, store: Store, row: StoredUser) -> None:
    await put(backend, store, row)
    assert await store.read(["alice"]) == {"alice": row}


STRANGE_IDS = ["é", "用户", "🍜", "a b", "'; DROP TABLE users; --", "%", "0042", "x" * 128, "\x01"]


@pytest.mark.parametrize("user_id", STRANGE_IDS)
async def test_any_id_is_an_id(backend: Backend, store: Store, user_id: str) -> None:
    await put(backend, store, online(user_id))
    assert await store.read([user_id]) == {user_id: online(user_id)}
    assert [page async for page in store.online_ids()] == [[user_id]]


async def test_a_user_who_is_not_there_is_left_out(backend: Backend, store: Store) -> None:
    await put(backend, store, online("alice"))
    assert set(await store.read(["alice", "nobody"])) == {"alice"}
    assert await store.read([]) == {}


async def test_what_can_be_no_id_is_nobodys(backend: Backend, store: Store) -> None:
    """A client may ask for anything; "a", cut at the null character, would be somebody else."""
    await put(backend, store, online("a"))
    assert await store.read(["", "a\0b", "\ud800", "a"]) == {"a": online("a")}


async def test_a_user_whom_the_application_created_reads_as_never_seen(backend: Backend, store: Store) -> None:
    await backend.add_users(["alice"])
    assert await store.read(["alice"]) == {"alice": offline("alice", version=0, last_active_ms=None)}


async def test_a_row_that_does_not_know_when_its_user_was_active_leaves_what_is_stored(
    backend: Backend, store: Store
) -> None:
    """A claim on behalf of a user who is not here wiped out when she had last been."""
    await put(backend, store, online("alice", version=1, last_active_ms=NOW_MS))
    busy = StoredUser("alice", False, Availability.OFFLINE, None, Claim(Claimed.BUSY), 2)
    assert (await store.apply([busy])).written == 1
    known = msgspec.structs.replace(busy, last_active_ms=NOW_MS)
    assert await store.read(["alice"]) == {"alice": known}


@pytest.mark.parametrize("differ", ["in nothing", "in lastActive", "in claims"])
async def test_a_crowd_is_written_each_with_its_own(backend: Backend, store: Store, differ: str) -> None:
    """Whatever way a store groups its writes: who is newer there is left alone, and who is not there is told."""
    rows = [
        StoredUser(
            f"user-{n:03}",
            True,
            Availability.ONLINE,
            NOW_MS + (n if differ == "in lastActive" else 0),
            Claim(text=f"number {n}") if differ == "in claims" else None,
            7,
        )
        for n in range(60)
    ]
    await put(backend, store, *[msgspec.structs.replace(row, is_online=False, version=1) for row in rows])
    newer = offline("user-030", version=8)
    await store.apply([newer])
    applied = await store.apply([*rows, *([] if store.creates_users else [online("stranger", version=7)])])
    assert (applied.written, applied.skipped) == (59, 1)
    assert applied.unknown == (() if store.creates_users else ("stranger",))
    expected = {row.user_id: row for row in rows} | {"user-030": newer}
    assert await store.read(list(expected)) == expected


async def test_only_what_is_newer_is_written(backend: Backend, store: Store) -> None:
    await put(backend, store, online("alice", version=5))
    applied = await store.apply([offline("alice", version=4)])
    assert (applied.written, applied.skipped) == (0, 1)
    applied = await store.apply([offline("alice", version=5)])
    assert (applied.written, applied.skipped) == (0, 1), "an equal version is a repetition"
    assert await store.read(["alice"]) == {"alice": online("alice", version=5)}
    applied = await store.apply([offline("alice", version=6)])
    assert (applied.written, applied.skipped) == (1, 0)
    assert await store.read(["alice"]) == {"alice": offline("alice", version=6)}


async def test_a_batch_counts_what_became_of_each_row(backend: Backend, store: Store) -> None:
    await put(backend, store, online("old", version=9))
    await backend.add_users(["new", "twice"])
    batch = [online("new"), online("old"), online("twice", version=2), offline("twice", version=1)]
    applied = await store.apply(batch)
    assert (applied.written, applied.skipped, applied.unknown, applied.refused) == (2, 2, (), {})
    assert (await store.read(["twice"]))["twice"].is_online, "of two rows of a user the newer counts"


async def test_an_empty_batch_is_no_work(store: Store) -> None:
    applied = await store.apply([])
    assert (applied.written, applied.skipped, applied.unknown, applied.refused) == (0, 0, (), {})


async def test_an_unknown_user_is_created_or_reported(store: Store) -> None:
    applied = await store.apply([online("stranger")])
    if store.creates_users:
        assert (applied.written, applied.unknown) == (1, ())
        assert await store.read(["stranger"]) == {"stranger": online("stranger")}
    else:
        assert (applied.written, applied.unknown) == (0, ("stranger",))
        assert await store.read(["stranger"]) == {}


@pytest.mark.parametrize(
    "bad",
    [
        StoredUser("bad", True, Availability.ONLINE, NOW_MS, Claim(text="\ud800"), 1),
        online("bad", last_active_ms=-1),
        online("bad", last_active_ms=10**17),
        online("bad", version=0),
        online("bad", version=2**53),
    ],
    ids=["lone surrogate", "before 1970", "after 9999", "no version", "version beyond 2^53"],
)
async def test_a_row_that_cannot_be_stored_does_not_hold_up_the_others(
    backend: Backend, store: Store, bad: StoredUser
) -> None:
    await backend.add_users(["alice", "bad", "bob"])
    applied = await store.apply([online("alice"), bad, online("bob")])
    assert applied.written == 2
    assert set(applied.refused) == {"bad"}
    assert applied.refused["bad"]
    stored = await store.read(["alice", "bad", "bob"])
    assert [stored[user_id].is_online for user_id in ("alice", "bad", "bob")] == [True, False, True]


_examples = count()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 12), st.booleans()), max_size=6), max_size=6
    )
)
async def test_the_newest_version_wins_over_any_history(
    backend: Backend, store: Store, batches: list[list[tuple[str, int, bool]]]
) -> None:
    """Against the most naive model: a dictionary that takes a row only if its version is greater."""
    prefix = f"{next(_examples)}-"  # each example has its own users in the one database
    await backend.add_users([prefix + name for name in "abcd"])
    model: dict[str, StoredUser] = {}
    for batch in batches:
        rows = [
            (online if is_online else offline)(prefix + name, version=version, last_active_ms=NOW_MS + version)
            for name, version, is_online in dict.fromkeys(batch)
        ]
        # two rows of one user and version would leave the winner to chance
        rows = list({(row.user_id, row.version): row for row in rows}.values())
        applied = await store.apply(rows)
        before = dict(model)
        for row in rows:
            if row.user_id not in model or model[row.user_id].version < row.version:
                model[row.user_id] = row
        assert applied.written == sum(model[user_id] != before.get(user_id) for user_id in model)
        assert applied.written + applied.skipped == len(rows)
    assert await store.read(model) == model


async def test_racing_writers_leave_the_newest_version(backend: Backend, store: Store, second: Store) -> None:
    await backend.add_users(["alice"])
    rows = [(online if version % 2 else offline)("alice", version=version) for version in range(1, 41)]
    random.Random(4).shuffle(rows)
    await asyncio.gather(*(random.choice([store, second]).apply([row]) for row in rows))
    assert await store.read(["alice"]) == {"alice": offline("alice", version=40)}


# who is online


async def test_online_pages_give_the_most_recently_active_first(backend: Backend, store: Store) -> None:
    times = {"ann": 3, "ben": 1, "cleo": 2, "dan": 2, "eve": 2}
    await put(backend, store, *(online(name, last_active_ms=NOW_MS + ms) for name, ms in times.items()))
    never = [online(name, last_active_ms=None) for name in ("never", "not yet")]
    await put(backend, store, offline("gone"), *never)
    for limit in range(1, 9):
        pages = await walk_online(store, limit)
        found = [user_id for page in pages for user_id in page]
        assert all(len(page) == limit for page in pages[:-1])
        assert found[0] == "ann"
        assert set(found[1:4]) == {"cleo", "dan", "eve"}
        assert found[4] == "ben"
        assert set(found[5:]) == {"never", "not yet"}, "who was never active comes last, and once"


async def test_a_page_holds_whole_rows(backend: Backend, store: Store) -> None:
    row = StoredUser("alice", True, Availability.BUSY, NOW_MS, Claim(Claimed.BUSY, "in a call", NOW_MS + 1), 3)
    await put(backend, store, row)
    assert await store.online() == RowPage(users=(row,), cursor=None)


async def test_nobody_online_is_an_empty_page(store: Store) -> None:
    assert await store.online() == RowPage(users=(), cursor=None)
    assert [page async for page in store.online_ids()] == []


async def test_a_cursor_is_stable_while_others_come_and_go(backend: Backend, store: Store) -> None:
    await put(backend, store, *(online(f"user-{i}", last_active_ms=NOW_MS + i) for i in range(9)))
    first = await store.online(limit=3)
    assert ids(first) == ["user-8", "user-7", "user-6"]
    await put(backend, store, offline("user-6", version=2), online("late", last_active_ms=NOW_MS + 99))
    rest = await store.online(after=first.cursor, limit=100)
    assert ids(rest) == ["user-5", "user-4", "user-3", "user-2", "user-1", "user-0"]


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "bnVsbA", "W10", "WzEsMiwzXQ", "é", "eyJhIjoxfQ", "A" * 1000])
async def test_a_cursor_of_somebody_else_is_an_error_of_its_own(store: Store, cursor: str) -> None:
    for read in (store.online, store.claimed):
        with pytest.raises(CursorInvalid):
            await read(after=cursor)
    with pytest.raises(CursorInvalid):
        await store.stale(NOW_MS, after=cursor)


async def test_the_walk_through_the_ids_gives_each_once(backend: Backend, store: Store) -> None:
    names = [f"user-{i}" for i in range(10)]
    await put(
        backend, store, offline("gone"), *(online(name, last_active_ms=NOW_MS + i % 3) for i, name in enumerate(names))
    )
    pages = [page async for page in store.online_ids(page_size=4)]
    assert [len(page) for page in pages] == [4, 4, 2]
    assert sorted(user_id for page in pages for user_id in page) == names


async def test_counts(backend: Backend, store: Store) -> None:
    assert await store.counts() == Counts(users=0, online=0, away=0, busy=0)
    await put(
        backend,
        store,
        online("a"),
        StoredUser("b", True, Availability.AWAY, NOW_MS, None, 1),
        StoredUser("c", True, Availability.BUSY, NOW_MS, None, 1),
        offline("d"),
    )
    await backend.add_users(["e"])
    assert await store.counts() == Counts(users=5, online=3, away=1, busy=1)


async def test_what_another_program_sets_is_seen(backend: Backend, store: Store) -> None:
    """The audit depends on it."""
    await put(backend, store, online("alice", version=5), offline("bob", version=5))
    await backend.overwrite("alice", is_online=False)
    await backend.overwrite("bob", is_online=True)
    stored = await store.read(["alice", "bob"])
    assert (stored["alice"].is_online, stored["alice"].availability) == (False, Availability.OFFLINE)
    assert (stored["bob"].is_online, stored["bob"].availability) == (True, Availability.ONLINE)
    assert [page async for page in store.online_ids()] == [["bob"]]
    await store.apply([online("alice", version=6), offline("bob", version=6)])
    assert ids(await store.online()) == ["alice"]


async def test_the_greatest_version_is_known(backend: Backend, store: Store) -> None:
    assert await store.max_version() == 0
    await put(backend, store, online("a", version=2**51), offline("b", version=2**52 - 1), online("c"))
    assert await store.max_version() == 2**52 - 1


async def test_claims_are_found_of_users_online_and_offline(backend: Backend, store: Store) -> None:
    claim = Claim(Claimed.BUSY, "in a call", NOW_MS)
    rows = [replace(offline(f"user-{i}"), claim=claim) for i in range(5)]
    await put(backend, store, *rows, online("without"), replace(online("zoe"), claim=Claim(text="hello")))
    first = await store.claimed(limit=3)
    rest = await store.claimed(after=first.cursor, limit=3)
    assert [*first.users, *rest.users] == [*rows, replace(online("zoe"), claim=Claim(text="hello"))]
    assert rest.cursor is None
    await store.apply([offline("user-0", version=2)])
    assert ids(await store.claimed(limit=1)) == ["user-1"], "a claim that was given up is not one"


# stale and reset


async def test_stale_are_those_online_who_were_active_before(backend: Backend, store: Store) -> None:
    rows = [online(f"user-{i}", last_active_ms=NOW_MS + i) for i in range(6)]
    await put(backend, store, *rows, online("never", last_active_ms=None), offline("gone", last_active_ms=NOW_MS))
    first = await store.stale(NOW_MS + 3, limit=2)
    assert ids(first) == ["user-2", "user-1"]
    rest = await store.stale(NOW_MS + 3, after=first.cursor, limit=2)
    assert ids(rest) == ["user-0", "never"]
    assert rest.cursor is None
    assert ids(await store.stale(NOW_MS - 1)) == ["never"]


async def test_reset_sets_everyone_offline_and_touches_nothing_else(backend: Backend, store: Store) -> None:
    claim = Claim(Claimed.AWAY, "lunch", NOW_MS)
    await put(backend, store, StoredUser("a", True, Availability.AWAY, NOW_MS, claim, 1), online("b"), offline("c"))
    assert await store.reset(version=50) == 2
    assert await store.read("abc") == {
        "a": StoredUser("a", False, Availability.OFFLINE, NOW_MS, claim, 50),
        "b": offline("b", version=50),
        "c": offline("c", version=1),
    }
    assert await store.reset(version=51) == 0, "a second time there is nothing to do"


async def test_reset_leaves_newer_rows_alone(backend: Backend, store: Store) -> None:
    await put(backend, store, online("older", version=9), online("same", version=10), online("newer", version=11))
    assert await store.reset(version=10) == 1
    assert set(ids(await store.online())) == {"same", "newer"}


async def test_reset_may_be_limited_to_the_silent(backend: Backend, store: Store) -> None:
    await put(
        backend, store, online("old", last_active_ms=NOW_MS - 1), online("now"), online("never", last_active_ms=None)
    )
    assert await store.reset(version=10, before_ms=NOW_MS) == 2
    assert ids(await store.online()) == ["now"]


async def test_reset_goes_in_batches_and_says_how_far_it_is(backend: Backend, store: Store) -> None:
    names = [f"user-{i:04}" for i in range(2_300)]
    await put(backend, store, *(online(name, last_active_ms=NOW_MS + i % 7) for i, name in enumerate(names)))
    progress: list[tuple[int, int]] = []
    asked: list[int] = []

    async def spare(user_ids: Sequence[str]) -> Container[str]:
        asked.append(len(user_ids))
        return {user_id for user_id in user_ids if user_id.endswith("7")}

    done = await store.reset(version=10, spare=spare, on_progress=lambda done, total: progress.append((done, total)))
    assert done == 2_070
    assert asked == [1000, 1000, 300]
    assert progress == [(1000, 2300), (2000, 2300), (2300, 2300)]
    assert (await store.counts()).online == 230


async def test_who_comes_online_while_a_reset_is_planned_stays_online(
    backend: Backend, store: Store, second: Store
) -> None:
    await put(backend, store, online("back", last_active_ms=NOW_MS - 9), online("gone", last_active_ms=NOW_MS - 9))

    async def meanwhile(user_ids: Sequence[str]) -> Container[str]:
        await second.apply([online("back", version=11)])
        return ()

    assert await store.reset(version=10, before_ms=NOW_MS, spare=meanwhile) == 1
    assert ids(await store.online()) == ["back"]


async def test_who_is_missing_is_whom_it_does_not_have_and_would_not_create(store: Store, backend: Backend) -> None:
    await backend.add_users(["alice", "bob"])
    asked = ["alice", "carol", "bob", "no\0id", "acme\x1falice"]
    missing = {"carol", "no\0id", "acme\x1falice"}
    assert await store.missing(asked) == (set() if store.creates_users else missing)
    many = [f"nobody {number}" for number in range(1_500)]
    assert len(await store.missing([*many, "bob"])) == (0 if store.creates_users else 1_500)
    assert await store.missing([]) == set()


async def test_an_id_that_is_text_has_no_other_way_to_be_written(store: Store, backend: Backend) -> None:
    await backend.add_users(["007"])
    await store.read(["007"])
    for user_id in ("007", "7", "Alice", "E\u0301", " a "):
        assert store.canonical(user_id) == user_id
    assert list(await store.read(["7", "007"])) == ["007"]
