"""One SQLite file: where it is, one thread that writes to it and one that reads, and what its errors mean.

The whole of a transaction runs as one function on a thread, not as a sequence of awaits. So a transaction is never left
half-way by a cancelled task, never held open while the event loop is busy with something else, and costs one change of
threads. SQLite has one writer at a time in any case, and in WAL mode readers do not wait for it.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import sqlalchemy as sa

from herenow.errors import StoreNotWritable, StoreUrlInvalid
from herenow.store.sqlite_errors import describe, lacks_room, translate

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
"""The inside of one transaction. It runs on a thread, and must not wait for anything but the connection."""

_OLDEST_SQLITE = (3, 33, 0)  # the first with UPDATE … FROM

_PRAGMAS: dict[str, int | str] = {
    # WAL: readers and the writer do not wait for each other. It stays with the file.
    "journal_mode": "WAL",
    # What was committed survives the death of the process; a power failure may take the last moments, never the file.
    "synchronous": "NORMAL",
    # A checkpoint copies each page once, however often it changed: at the default, 1,000, bursts are a third slower.
    "wal_autocheckpoint": 8000,
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
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise StoreUrlInvalid(url, "it is not a URL like sqlite:///herenow.db") from error
    shown = parsed.render_as_string(hide_password=True)
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreUrlInvalid(shown, f"this Python has SQLite {sqlite3.sqlite_version}, but it must be 3.33 or later")
    if parsed.drivername != "sqlite":
        raise StoreUrlInvalid(shown, f"herenow knows sqlite:///… and mongodb://…, not {parsed.drivername}")
    if parsed.host:
        raise StoreUrlInvalid(shown, "a path needs three slashes, or four if it is absolute: sqlite:///herenow.db")
    if not parsed.database or parsed.database == ":memory:":
        raise StoreUrlInvalid(shown, "a database in memory is seen by no command and no restart; name a file")
    if parsed.database.startswith("file:") or parsed.query:
        raise StoreUrlInvalid(shown, "it must name a plain file, without options")
    return Path(parsed.database).absolute()


class SqliteFile:
    """The file and its two threads.

    Args:
        path: where it is.
        busy_timeout_ms: how long a statement waits for another program's lock before it fails as unavailable.
        pragmas: further settings of each connection, such as ``{"mmap_size": 268435456}``.
    """

    def __init__(self, path: Path, *, busy_timeout_ms: int, pragmas: Mapping[str, int | str]) -> None:
        self.path = path
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
            if not self.path.exists():
                raise StoreNotWritable(str(self.path), "it is a link to a file that is not there") from error
            return False
        except OSError as error:
            raise StoreNotWritable(str(self.path), describe(error)) from error
        return True

    async def write(self, work: Work[T]) -> T:
        """Run one writing transaction: all of it, or nothing. Writers take their turn.

        Raises:
            StoreError: nothing was written.
        """
        return await self._writer.run(work)

    async def read(self, work: Work[T]) -> T:
        """Run one reading transaction on one snapshot.

        Raises:
            StoreError: it could not be read.
        """
        return await self._reader.run(work)

    async def close(self) -> None:
        """Close both connections, once what was asked of them is done. Idempotent."""
        await self._reader.close()
        await self._writer.close()  # last: SQLite folds the WAL into the file as its last connection closes


class _Lane:
    """One thread with one connection, opened at need and opened anew after any failure."""

    def __init__(self, path: Path, *, begin: str, pragmas: Mapping[str, int | str], only_reads: bool = False) -> None:
        self._path = path
        self._only_reads = only_reads
        self._pragmas = pragmas
        self._inode: tuple[int, int] | None = None
        self._thread: ThreadPoolExecutor | None = None
        # hide_parameters: the text of an error would hold the whole batch.
        self._engine = sa.create_engine(
            "sqlite://", creator=self._connect, poolclass=sa.StaticPool, hide_parameters=True
        )
        sa.event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql(begin))

    async def run(self, work: Work[T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="herenow-sqlite")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    async def close(self) -> None:
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._engine.dispose)  # behind all work
            thread.shutdown(wait=False)

    def _transact(self, work: Work[T]) -> T:
        if self._was_moved():
            self._engine.dispose()
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except sa.exc.DBAPIError as error:
            self._engine.dispose()
            if self._only_reads and lacks_room(error) and self._is_whole():
                return self._transact_still(work)
            translated = translate(error, self._path)
            if translated is None:
                raise
            raise translated from error

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
            translated = translate(error, self._path)
            if translated is None:
                raise
            raise translated from error
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
