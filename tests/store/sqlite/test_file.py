import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from herenow.errors import (
    StoreCorrupt,
    StoreError,
    StoreNotReady,
    StoreNotWritable,
    StoreTooNew,
    StoreUnavailable,
    StoreUnforeseen,
    StoreUrlInvalid,
)
from herenow.store.sqlite.file import SqliteFile, parse_url
from herenow.store.sqlite.store import SqlStore
from store.databases import execute, files_of, link, put_file, read_file
from store.processes import child
from store.rows import offline, online


def say(error: pytest.ExceptionInfo[StoreError], path: Path) -> str:
    """What the operator reads: one sentence that names the file."""
    text = str(error.value)
    assert str(path) in text
    assert text.endswith(".")
    assert "\n" not in text
    return text


# addresses


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///herenow.db", Path.cwd() / "herenow.db"),
        ("sqlite:///data/a b.db", Path.cwd() / "data" / "a b.db"),
        ("sqlite:////var/lib/herenow.db", Path("/var/lib/herenow.db")),
    ],
)
def test_a_url_names_a_file(url: str, path: Path) -> None:
    assert parse_url(url) == path


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:a.db", "plain file"),
        ("sqlite:///a.db?mode=ro", "plain file"),
        ("sqlite://a.db", "three slashes"),
        ("postgresql://user:secret@host/db", "not postgresql"),
        ("postgresql://user:se/cret@secret@host/db?password=secret", "not postgresql"),
        ("mongodb:/user:secret@host/db", "mongodb://host/name"),
        ("mongo://user:secret@host/db", "not mongo"),
        ("user:secret@host/db", "mongodb://host/name"),
        ("sqlite://user:secret@host/app.db", "three slashes"),
        ("herenow.db", "write sqlite:///herenow.db for a file"),
        ("", "write sqlite:///app.db for a file"),
    ],
)
def test_an_address_that_cannot_serve_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(StoreUrlInvalid, match=reason) as refused:
        SqlStore(url)
    assert "secret" not in str(refused.value)


def test_a_sqlite_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 26, 0))
    with pytest.raises(StoreUrlInvalid, match=r"must be 3\.33 or later"):
        SqlStore("sqlite:///herenow.db")


async def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/50% of é #1.db")
    assert store.name == f"{tmp_path}/50% of é #1.db"
    await store.init()
    assert (tmp_path / "50% of é #1.db").exists()
    await store.close()


# what may be wrong with a file


async def test_a_file_that_is_not_there_is_not_prepared(path: Path) -> None:
    store = SqlStore(f"sqlite:///{path}")
    await store.open()
    with pytest.raises(StoreNotReady, match="herenow init") as refused:
        await store.counts()
    say(refused, path)
    assert files_of(path) == [], "only init creates"
    await store.close()


async def test_an_empty_file_is_not_prepared(path: Path) -> None:
    put_file(path, b"")
    store = SqlStore(f"sqlite:///{path}")
    await store.open()
    with pytest.raises(StoreNotReady, match="no such table"):
        await store.counts()
    await store.init()
    assert (await store.counts()).users == 0
    await store.close()


async def test_a_file_that_is_no_database_is_corrupt(path: Path) -> None:
    prose = b"This is not a database, and has never been one. " * 99
    put_file(path, prose)
    store = SqlStore(f"sqlite:///{path}")
    with pytest.raises(StoreCorrupt, match="file is not a database") as refused:
        await store.open()
    say(refused, path)
    with pytest.raises(StoreCorrupt):
        await store.init()
    await store.close()
    assert read_file(path) == prose, "it is left as it is"


async def test_a_damaged_database_is_corrupt(path: Path) -> None:
    first = SqlStore(f"sqlite:///{path}")
    await first.init()
    await first.apply([online(f"user-{i:05}") for i in range(2000)])
    await first.close()
    whole = read_file(path)
    put_file(path, whole[:4096] + bytes(len(whole) - 4096))  # all pages but the schema's
    store = SqlStore(f"sqlite:///{path}")
    with pytest.raises(StoreCorrupt) as refused:
        await store.open()
        await store.online()
    say(refused, path)
    with pytest.raises(StoreCorrupt):
        await store.apply([offline("user-00001", version=2)])
    await store.close()


async def test_a_newer_schema_is_refused_before_anything_is_touched(path: Path, store: SqlStore) -> None:
    await store.close()
    execute(path, "UPDATE herenow_schema SET version = 99")
    newer = SqlStore(f"sqlite:///{path}")
    for attempt in (newer.open, newer.init):
        with pytest.raises(StoreTooNew, match="version 99 and this one knows up to 1") as refused:
            await attempt()
        say(refused, path)
    assert (refused.value.found, refused.value.known) == (99, 1)
    await newer.close()


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/missing/herenow.db")
    await store.open()
    with pytest.raises(StoreUrlInvalid, match=f"there is no directory {tmp_path}/missing: make it"):
        await store.init()
    with pytest.raises(StoreUrlInvalid, match=f"there is no directory {tmp_path}/missing"):
        await store.counts()
    await store.close()


async def test_a_directory_is_not_a_database(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}")
    with pytest.raises(StoreUrlInvalid, match="it is a directory: name a file in it"):
        await store.open()
    with pytest.raises(StoreUrlInvalid, match="it is a directory"):
        await store.init()
    await store.close()


async def test_a_path_through_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUrlInvalid, match=f"{tmp_path}/file is a file, not a directory"):
        await SqlStore(f"sqlite:///{tmp_path}/file/app.db").init()


async def test_a_directory_without_the_right_to_write(somebody: Path) -> None:
    path = somebody / "herenow.db"
    with read_only(somebody):
        store = SqlStore(f"sqlite:///{path}")
        await store.open()
        with pytest.raises(StoreNotWritable, match="permission denied") as refused:
            await store.init()
        say(refused, path)
        await store.close()


async def test_a_database_in_a_directory_without_the_right_to_write(somebody: Path) -> None:
    path = somebody / "herenow.db"
    first = SqlStore(f"sqlite:///{path}")
    await first.init()
    await first.close()
    with read_only(somebody):
        store = SqlStore(f"sqlite:///{path}")
        with pytest.raises(StoreNotWritable, match="may not write") as refused:
            await store.init()
        say(refused, path)
        await store.close()


async def test_a_database_without_the_right_to_write_to_it(somebody: Path) -> None:
    path = somebody / "herenow.db"
    first = SqlStore(f"sqlite:///{path}")
    await first.init()
    await first.close()
    path.chmod(0o444)
    with unprivileged():
        store = SqlStore(f"sqlite:///{path}")
        with pytest.raises(StoreNotWritable, match="may not write") as refused:
            await store.apply([online("alice")])
        say(refused, path)
        await store.close()


# what may be wrong with the moment


async def test_a_lock_of_another_program_is_temporary(path: Path, store: SqlStore) -> None:
    await store.apply([online("alice")])
    with child("lock", path) as other:
        assert other.read_line() == "locked"
        with pytest.raises(StoreUnavailable, match="another program keeps it locked") as refused:
            await store.apply([online("bob")])
        assert refused.value.temporary
        say(refused, path)
        assert set(await store.read(["alice", "bob"])) == {"alice"}, "one may read all the while"
        other.let_go()
        assert (await store.apply([online("bob")])).written == 1


async def test_a_link_to_nothing_is_named(path: Path) -> None:
    link(path, to=path.with_name("nowhere.db"))
    with pytest.raises(StoreNotWritable, match=r"a link to .*/nowhere\.db, which is not there"):
        await SqlStore(f"sqlite:///{path}").init()


async def test_a_full_disk_is_temporary_and_loses_nothing_that_was_written(path: Path) -> None:
    store = SqlStore(f"sqlite:///{path}", pragmas={"max_page_count": 100})
    await store.init()
    with pytest.raises(StoreUnavailable, match="full") as refused:
        for batch in range(100):
            rows = [online(f"user-{batch}-{i}") for i in range(100)]
            await store.apply(rows)
    say(refused, path)
    before = await store.counts()
    assert before.users == batch * 100, "a batch that failed left something behind"
    execute(path, "DELETE FROM users WHERE id LIKE 'user-0-%' OR id LIKE 'user-1-%'")
    assert (await store.apply(rows)).written == 100
    await store.close()


async def test_what_sqlite_does_not_understand_is_told_in_its_own_words(path: Path) -> None:
    file = SqliteFile(path, busy_timeout_ms=50, timeout_s=2, pragmas={})
    file.create()
    with pytest.raises(StoreUnforeseen, match="syntax error"):
        await file.read(lambda connection: connection.exec_driver_sql("SELEC 1"))
    await file.close()


async def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path, path: Path, store: SqlStore) -> None:
    """An operator restores a backup under a running server, and SQLite would write on into the file that is gone."""
    await store.apply([online("before")])
    await store.read(["before"])
    other = SqlStore(f"sqlite:///{tmp_path}/backup.db")
    await other.init()
    await other.apply([online("of the backup")])
    await other.close()
    (tmp_path / "backup.db").rename(path)
    for file in files_of(path):
        if file != path:
            file.unlink()
    await store.apply([online("after")])
    assert set(await store.read(["before", "of the backup", "after"])) == {"of the backup", "after"}


async def test_a_file_that_was_removed_is_missed(path: Path, store: SqlStore) -> None:
    await store.apply([online("alice")])
    for file in files_of(path):
        file.unlink()
    for operation in (store.apply([online("alice", version=2)]), store.counts()):
        with pytest.raises(StoreNotReady, match="there is no such file"):
            await operation
    await store.init()
    assert (await store.apply([online("alice", version=2)])).written == 1


NOBODY = 65534


@pytest.fixture
def somebody() -> Iterator[Path]:
    """A directory that belongs to an ordinary user, where root's children may be nobody."""
    with TemporaryDirectory() as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        with unprivileged():
            yield Path(name)


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    directory.chmod(0o555)
    try:
        with unprivileged():
            yield
    finally:
        directory.chmod(0o755)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Give up root's right to do anything, in all threads of this process."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
