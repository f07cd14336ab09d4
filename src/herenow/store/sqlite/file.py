"""One SQLite file: where it is, one thread that writes to it and one that reads, and what its errors mean.

The whole of a transaction runs as one function on a thread, not as a sequence of awaits. So a transaction is never left
half-way by a cancelled task, never held open while the event loop is busy with something else, and costs one change of
threads. SQLite has one writer at a time in any case, and in WAL mode readers do not wait for it.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import sqlalchemy as sa

from herenow.errors import StoreNotWritable, StoreUnavailable, StoreUrlInvalid
from herenow.store.address import without_secrets
from herenow.store.sqlite.errors import describe, lacks_room, translate, wrong_path
from herenow.store.sqlite.thread import Hangs, Thread
from herenow.store.sqlite.wal import KEPT, fold, see_to_log

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
"""The inside of one transaction. It runs on a thread, and must not wait for anything but the connection."""

Before = Callable[[Callable[[], None]], None]
"""What is done before a transaction; it is given what folds the log into the file."""

LOG_LIMIT = 256 * 2**20
"""Bytes of the log, unless told."""

LONG_S = 300.0
"""How long may take what goes through all users, or builds an index over them."""

_CLOSE_S = 0.5

_OLDEST_SQLITE = (3, 33, 0)  # the first with UPDATE … FROM

_PRAGMAS: dict[str, int | str] = {
    # WAL: readers and the writer do not wait for each other. It stays with the file.
    "journal_mode": "WAL",
    # What was committed survives the death of the process; a power failure may take the last moments, never the file.
    "synchronous": "NORMAL",
    # A checkpoint copies each page once, however often it changed: at the default, 1,000, bursts are a third slower.
    "wal_autocheckpoint": 8000,
    "journal_size_limit": KEPT,
    "cache_size": -16_000,  # KiB; the default of 2 MB does not hold the upper levels of the trees at 100,000 users
    # Without it, each multi-row statement keeps its undo journal in a file: twice the system time.
    "temp_store": "MEMORY",
}
_READ_PRAGMAS: dict[str, int | str] = {"query_only": "ON"}


def parse_url(url: str) -> Path:
    """Find the file that a URL names: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.

    Raises:
        StoreUrlInvalid: it names none that herenow can use.
    """
    shown = without_secrets(url)
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise StoreUrlInvalid(shown, f"write {_meant(shown)}") from error
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreUrlInvalid(shown, f"this Python has SQLite {sqlite3.sqlite_version}, but it must be 3.33 or later")
    if parsed.drivername != "sqlite":
        raise StoreUrlInvalid(
            shown, f"herenow knows sqlite:///file.db and mongodb://host/name, not {parsed.drivername}"
        )
    if parsed.host:
        raise StoreUrlInvalid(
            shown, "a path needs three slashes, or four if it is absolute: sqlite:///app.db, sqlite:////var/lib/app.db"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise StoreUrlInvalid(
            shown, "a database in memory is seen by no command and no restart: name a file, as in sqlite:///app.db"
        )
    if parsed.database.startswith("file:") or parsed.query:
        raise StoreUrlInvalid(shown, "it must name a plain file, without options, as in sqlite:///app.db")
    return Path(parsed.database).absolute()


def _meant(shown: str) -> str:
    """Say what an address without a scheme most likely means."""
    if "/" in shown or "." in shown:
        return f"sqlite:///{shown} for a file, or mongodb://host/name"
    return "sqlite:///app.db for a file, or mongodb://host/name"


class SqliteFile:
    """The file and its two threads.

    Args:
        path: where it is.
        busy_timeout_ms: how long a statement waits for another program's lock before it fails as unavailable.
        timeout_s: how long a transaction may take beside that; its disk may be frozen.
        log_limit: bytes of the log from which rows wait while another program keeps it from being folded in.
        pragmas: further settings of each connection, such as ``{"mmap_size": 268435456}``.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout_ms: int,
        timeout_s: float,
        log_limit: int = LOG_LIMIT,
        pragmas: Mapping[str, int | str],
    ) -> None:
        self.path = path
        self._log_limit = log_limit
        self._within_s = timeout_s + busy_timeout_ms / 1000
        common: dict[str, int | str] = {"busy_timeout": busy_timeout_ms}
        self._writer = _Lane(path, begin="BEGIN IMMEDIATE", pragmas=common | _PRAGMAS | dict(pragmas))
        self._reader = _Lane(path, begin="BEGIN", pragmas=common | _READ_PRAGMAS | dict(pragmas), only_reads=True)

    def exists(self) -> bool:
        """Say whether there is a file, whatever it holds."""
        return self.path.exists()

    def create(self) -> bool:
        """Make sure that the file exists; returns whether it was made: empty, to SQLite a database without tables.

        Raises:
            StoreNotWritable: it cannot be made.
        """
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
        except FileExistsError as error:
            if self.path.is_dir():
                raise wrong_path(self.path) or error from error
            if not self.path.exists():
                raise StoreNotWritable(
                    str(self.path), f"it is a link to {self.path.readlink()}, which is not there"
                ) from error
            return False
        except OSError as error:
            raise wrong_path(self.path) or StoreNotWritable(str(self.path), describe(error)) from error
        return True

    async def write(self, work: Work[T], *, in_bulk: bool = False, long: bool = False) -> T:
        """Run one writing transaction: all of it, or nothing. Writers take their turn.

        Args:
            work: the inside of it.
            in_bulk: it may write many rows, which then wait where the log has grown too long.
            long: it takes as long as there are users.

        Raises:
            StoreError: nothing was written, or not in time; then it may still be.
        """

        def before(fold: Callable[[], None]) -> None:
            see_to_log(self.path, self._log_limit, fold, in_bulk=in_bulk)

        return await self._writer.run(work, within_s=LONG_S if long else self._within_s, before=before)

    async def read(self, work: Work[T], *, long: bool = False) -> T:
        """Run one reading transaction on one snapshot; ``long`` as above.

        Raises:
            StoreError: it could not be read.
        """
        return await self._reader.run(work, within_s=LONG_S if long else self._within_s)

    async def close(self) -> None:
        """Close both connections, once what was asked of them is done; what hangs is left. Idempotent."""
        await self._reader.close()
        await self._writer.close()  # last: SQLite folds the WAL into the file as its last connection closes


class _Lane:
    """One thread with one connection, opened at need and opened anew after any failure."""

    def __init__(self, path: Path, *, begin: str, pragmas: Mapping[str, int | str], only_reads: bool = False) -> None:
        self._path = path
        self._only_reads = only_reads
        self._pragmas = pragmas
        self._inode: tuple[int, int] | None = None
        self._thread = Thread("herenow sqlite")
        # hide_parameters: the text of an error would hold the whole batch.
        self._engine = sa.create_engine(
            "sqlite://", creator=self._connect, poolclass=sa.StaticPool, hide_parameters=True
        )
        sa.event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql(begin))

    async def run(self, work: Work[T], *, within_s: float, before: Before | None = None) -> T:
        try:
            return await self._thread.do(partial(self._transact, work, before), within_s=within_s)
        except Hangs as error:
            raise StoreUnavailable(str(self._path), "it did not answer in time") from error

    async def close(self) -> None:
        with contextlib.suppress(Hangs):
            await self._thread.do(self._engine.dispose, within_s=_CLOSE_S)  # behind all work
        self._thread.end()

    def _transact(self, work: Work[T], before: Before | None) -> T:
        if self._was_moved():
            self._engine.dispose()
        try:
            if before is not None:
                before(self._fold_log)
            with self._engine.begin() as connection:
                return work(connection)
        except sa.exc.DBAPIError as error:
            self._engine.dispose()
            if self._only_reads and lacks_room(error) and self._is_whole():
                return self._transact_still(work)
            raise translate(error, self._path) from error

    def _fold_log(self) -> None:
        with self._engine.connect() as connection:  # no transaction is begun yet: one would be in the way
            plain = connection.connection.driver_connection
            assert isinstance(plain, sqlite3.Connection)
            fold(plain)

    def _transact_still(self, work: Work[T]) -> T:
        """Read the file as one that does not change.

        On a disk that is full already, SQLite cannot make the index of the log that a first reader needs, be there a
        log or not. Nor can a writer, so the file stands still. One transaction long: there may be room the next moment.
        """
        address = f"file:{quote(str(self._path))}?immutable=1"
        still = sa.create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(address, uri=True, isolation_level=None),
            poolclass=sa.StaticPool,
            hide_parameters=True,
        )
        try:
            with still.begin() as connection:
                return work(connection)
        except sa.exc.DBAPIError as error:
            raise translate(error, self._path) from error
        finally:
            still.dispose()

    def _is_whole(self) -> bool:
        """Say whether all that was committed is in the file, and nothing in the log beside it."""
        try:
            return self._path.with_name(f"{self._path.name}-wal").stat().st_size == 0
        except FileNotFoundError:
            return True

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: a missing file is an error, not a new database. Transactions are ours alone (isolation_level).
        address = f"file:{quote(str(self._path))}?mode=rw"
        connection = sqlite3.connect(address, uri=True, isolation_level=None)
        # A text that is no UTF-8, in one row, would else be an error of everybody who is read with it.
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        try:
            for name, value in self._pragmas.items():
                connection.execute(f"PRAGMA {name}={value}")
            self._inode = self._read_inode()
        except BaseException:
            connection.close()
            raise
        return connection

    def _was_moved(self) -> bool:
        """Say whether the file was removed or replaced since it was opened, as when an operator restores a backup.

        SQLite would go on to write into the file that nobody sees any more.
        """
        return self._inode is not None and self._read_inode() != self._inode

    def _read_inode(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino
