import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from herenow.errors import StoreCorrupt, StoreError, StoreNotReady, StoreNotWritable, StoreUnavailable, StoreUnforeseen
from herenow.store.sqlite.errors import is_of_row, translate


def error(code: int | None, text: str = "what SQLite says") -> sa.exc.DBAPIError:
    said = sqlite3.OperationalError(text)
    if code is not None:
        said.sqlite_errorcode = code
    return sa.exc.DBAPIError("SELECT 1", {}, said)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY, StoreUnavailable),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreUnavailable),
        (sqlite3.SQLITE_LOCKED, StoreUnavailable),
        (sqlite3.SQLITE_FULL, StoreUnavailable),
        (sqlite3.SQLITE_IOERR_WRITE, StoreUnavailable),
        (sqlite3.SQLITE_NOMEM, StoreUnavailable),
        (sqlite3.SQLITE_CANTOPEN, StoreUnavailable),  # too many open files: the file itself is in order
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreCorrupt),
        (sqlite3.SQLITE_NOTADB, StoreCorrupt),
        (sqlite3.SQLITE_READONLY, StoreNotWritable),
        (sqlite3.SQLITE_PERM, StoreNotWritable),
    ],
)
def test_each_code_has_its_error(tmp_path: Path, code: int, kind: type[StoreError]) -> None:
    path = tmp_path / "herenow.db"
    path.touch()
    translated = translate(error(code), path)
    assert type(translated) is kind
    assert str(path) in str(translated)


@pytest.mark.parametrize(
    "text",
    [
        "no such table: users",
        "no such table: main.herenow_nodes",
        "no such column: users.isOnline",
        "table users has no column named presenceClaim",
    ],
)
def test_a_missing_table_or_column_means_that_nothing_is_prepared(tmp_path: Path, text: str) -> None:
    assert isinstance(translate(error(sqlite3.SQLITE_ERROR, text), tmp_path), StoreNotReady)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "Cannot operate on a closed database"),
        (sqlite3.SQLITE_ERROR, "no such function: notify"),
        (sqlite3.SQLITE_ERROR, "no such table: main.audit_log"),  # a trigger's
        (sqlite3.SQLITE_ERROR, "no such column: NEW.email"),
        (sqlite3.SQLITE_MISUSE, "bad parameter or other API misuse"),
        (sqlite3.SQLITE_RANGE, "column index out of range"),
        (99, "a code of the year 2040"),
    ],
)
def test_what_nobody_foresaw_is_an_error_of_the_store_too(tmp_path: Path, code: int | None, text: str) -> None:
    translated = translate(error(code, text), tmp_path)
    assert type(translated) is StoreUnforeseen
    assert text in str(translated)


@pytest.mark.parametrize(
    ("code", "of_row"),
    [
        (sqlite3.SQLITE_CONSTRAINT_CHECK, True),
        (sqlite3.SQLITE_CONSTRAINT_TRIGGER, True),
        (sqlite3.SQLITE_MISMATCH, True),
        (sqlite3.SQLITE_TOOBIG, True),
        (sqlite3.SQLITE_FULL, False),
        (sqlite3.SQLITE_ERROR, False),
        (None, False),
    ],
)
def test_the_errors_of_a_single_row(code: int | None, of_row: bool) -> None:
    assert is_of_row(error(code)) == of_row
