"""What SQLite's errors mean (https://www.sqlite.org/rescode.html)."""

import os
import re
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from herenow.errors import (
    StoreCorrupt,
    StoreError,
    StoreNotReady,
    StoreNotWritable,
    StoreUnavailable,
    StoreUnforeseen,
    StoreUrlInvalid,
)

_ROW_CODES = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})

_PASSING_CODES = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL})

# A trigger of the application's may miss a table of its own: that is not ours to prepare.
_OURS = r"(?:main\.)?(?:users|herenow_\w+)"
_MISSING = re.compile(
    rf"no such table: {_OURS}|table {_OURS} has no column named|"
    r"no such column: (?:users\.)?(?:id|isOnline|lastActive|presence\w+)$"
)


def _primary_code(error: sa.exc.DBAPIError) -> int | None:
    """Read SQLite's primary result code off an error; ``None`` if it did not come from SQLite."""
    code = getattr(error.orig, "sqlite_errorcode", None)  # set by the sqlite3 module on what SQLite itself reported
    return None if code is None else code & 0xFF


def is_of_row(error: sa.exc.DBAPIError) -> bool:
    """Say whether the error is about the values of a row, not about the database."""
    return _primary_code(error) in _ROW_CODES


def lacks_room(error: sa.exc.DBAPIError) -> bool:
    """Say whether the disk is full, be it only for the index of the log, without which no reader can begin."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_IOERR_SHMSIZE or _primary_code(error) == sqlite3.SQLITE_FULL


def is_of_statement(error: sa.exc.DBAPIError) -> bool:
    """Say whether the statement itself does not fit the tables that are there."""
    return _primary_code(error) == sqlite3.SQLITE_ERROR


def translate(error: sa.exc.DBAPIError, path: Path) -> StoreError:
    """Turn an error of SQLite into one of ours. What is not known may lie in anything, and counts as what may pass."""
    said = str(error.orig)
    database = str(path)
    if lacks_room(error):
        return StoreUnavailable(database, "the disk, or the space it may use, is full")
    match _primary_code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnavailable(database, "another program keeps it locked")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreCorrupt(database, said)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return StoreNotWritable(database, said if _may_write(path) else _no_right(path))
        case sqlite3.SQLITE_CANTOPEN:
            return _cannot_open(path, said)
        case sqlite3.SQLITE_ERROR if _MISSING.match(said):
            return StoreNotReady(database, said)
        case code if code in _PASSING_CODES:
            return StoreUnavailable(database, said)
        case _:  # a trigger that calls a function which only the application has, or a mistake of ours
            return StoreUnforeseen(database, said)


def describe(error: OSError) -> str:
    """Say in a clause what the operating system objected to."""
    return (error.strerror or str(error)).lower()


def _cannot_open(path: Path, said: str) -> StoreError:
    """SQLite gives one code for many causes; the file system tells them apart."""
    database = str(path)
    wrong = wrong_path(path)
    if wrong is not None:
        return wrong
    if not path.exists():
        return StoreNotReady(database, "there is no such file")
    if not _may_write(path):
        return StoreNotWritable(database, _no_right(path))
    return StoreUnavailable(database, said)


def wrong_path(path: Path) -> StoreUrlInvalid | None:
    """Say what is wrong with a path at which there can be no database file, whoever asks."""
    if path.is_dir():
        return StoreUrlInvalid(str(path), "it is a directory: name a file in it")
    if path.parent.is_dir():
        return None
    nearest = next(each for each in path.parents if each.exists())
    if not nearest.is_dir():
        return StoreUrlInvalid(str(path), f"{nearest} is a file, not a directory")
    return StoreUrlInvalid(str(path), f"there is no directory {path.parent}: make it, or name another path")


def _may_write(path: Path) -> bool:
    """Say whether this user has the right to write to the file, and beside it, where SQLite keeps its log."""
    effective = os.access in os.supports_effective_ids
    may_file = os.access(path, os.R_OK | os.W_OK, effective_ids=effective)
    return may_file and os.access(path.parent, os.W_OK | os.X_OK, effective_ids=effective)


def _no_right(path: Path) -> str:
    return f"this user may not write to it or to its directory {path.parent}"
