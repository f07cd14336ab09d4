"""What SQLite's errors mean (https://www.sqlite.org/rescode.html)."""

import os
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from herenow.errors import StoreCorrupt, StoreError, StoreNotReady, StoreNotWritable, StoreUnavailable

_ROW_CODES = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})


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


def translate(error: sa.exc.DBAPIError, path: Path) -> StoreError | None:
    """Turn an error of SQLite into one of ours; ``None`` for one that is our own mistake."""
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
        case sqlite3.SQLITE_ERROR if said.startswith(("no such table", "no such column")):
            return StoreNotReady(database, said)
        case None | sqlite3.SQLITE_ERROR | sqlite3.SQLITE_MISUSE | sqlite3.SQLITE_RANGE:
            return None
        case _:
            return StoreUnavailable(database, said)  # an input/output error, no memory: what may pass


def describe(error: OSError) -> str:
    """Say in a clause what the operating system objected to."""
    return (error.strerror or str(error)).lower()


def _cannot_open(path: Path, said: str) -> StoreError:
    """SQLite gives one code for many causes; the file system tells them apart."""
    database = str(path)
    if not path.parent.is_dir():
        return StoreNotWritable(database, f"there is no directory {path.parent}")
    if path.is_dir():
        return StoreNotWritable(database, "it is a directory")
    if not path.exists():
        return StoreNotReady(database, "there is no such file")
    if not _may_write(path):
        return StoreNotWritable(database, _no_right(path))
    return StoreUnavailable(database, said)


def _may_write(path: Path) -> bool:
    """Say whether this user has the right to write to the file, and beside it, where SQLite keeps its log."""
    effective = os.access in os.supports_effective_ids
    may_file = os.access(path, os.R_OK | os.W_OK, effective_ids=effective)
    return may_file and os.access(path.parent, os.W_OK | os.X_OK, effective_ids=effective)


def _no_right(path: Path) -> str:
    return f"this user may not write to it or to its directory {path.parent}"
