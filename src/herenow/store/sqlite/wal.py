"""The log beside a SQLite file (``-wal``), which must not take the disk.

SQLite folds the log into the file from time to time, and begins it anew. While another program reads an old state (a
shell left in a transaction, a backup that hangs) it cannot, and each write makes the log longer. So from a limit on, or
once the log is as large as what its disk has left, rows wait in memory, one a user, until the reader is gone.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from herenow.errors import StoreUnavailable

KEPT = 32 * 2**20
"""Bytes that the log may keep on the disk once it begins anew; as many as it has between two foldings in a storm."""

SMALL = 2**20
"""A log of so many bytes is in nobody's way."""

_PATIENCE_MS = 100
"""How long a folding waits for readers that are just at work: ours, above all."""


def may_grow(log_bytes: int, free_bytes: int, limit: int, *, in_bulk: bool) -> bool:
    """Say whether a write may make the log longer. The few bytes of a sign of life may when the rows no longer do."""
    if log_bytes <= SMALL:
        return True
    if in_bulk:
        return log_bytes <= min(limit, free_bytes)
    return log_bytes <= min(2 * limit, 4 * free_bytes)


def see_to_log(path: Path, limit: int, fold: Callable[[], None], *, in_bulk: bool) -> None:
    """Before a write: make sure that the log may grow; where it has grown too long, have it folded into the file.

    Raises:
        StoreUnavailable: that was not possible.
    """
    if _may_grow(path, limit, in_bulk=in_bulk):
        return
    fold()
    if not _may_grow(path, limit, in_bulk=in_bulk):
        size = round(_size(path) / 2**20)
        raise StoreUnavailable(
            str(path),
            f"another program keeps reading an old state of it, so that its log ({path.name}-wal, {size} MB) cannot be "
            "folded in and would fill the disk: end that program's transaction",
        )


def fold(connection: sqlite3.Connection) -> None:
    """Fold the log into the file, as far as readers let us."""
    (patience_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout={_PATIENCE_MS}")
    with contextlib.suppress(sqlite3.OperationalError):  # a full disk: the write that follows, or does not, says so
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute(f"PRAGMA busy_timeout={patience_ms}")


def _may_grow(path: Path, limit: int, *, in_bulk: bool) -> bool:
    size = _size(path)
    return size <= SMALL or may_grow(size, shutil.disk_usage(path.parent).free, limit, in_bulk=in_bulk)


def _size(path: Path) -> int:
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except OSError:
        return 0
