"""The SQL store: SQLite, the embedded default.

What is SQLite's own stands in the ``sqlite_*`` files and in two statements of ``sql_users``; the rest is SQLAlchemy
Core, so that PostgreSQL can follow.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import partial

import msgspec
import sqlalchemy as sa

from herenow.errors import StoreError, StoreInUse, StoreUnavailable
from herenow.logs import get_logger
from herenow.model import StoredUser
from herenow.store import sql_nodes, sql_schema, sql_users
from herenow.store.base import PAGE_SIZE, Applied, Counts, InitReport, Page, Progress, Spare
from herenow.store.nodes import Node
from herenow.store.sql_rows import Raw, from_cursor
from herenow.store.sqlite_file import SqliteFile, parse_url
from herenow.store.sqlite_lock import LockFile
from herenow.times import to_iso

_log = get_logger(__name__)


class SqlStore:
    """A ``Store`` in a SQLite file; ``herenow.store.base.Store`` says what its methods do.

    It creates users in a table that it made itself; in an application's own ``users`` table it only updates them.

    Args:
        url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.
        busy_timeout_ms: how long an operation waits for another program's lock before it raises ``StoreUnavailable``.
        pragmas: further SQLite settings of each connection, such as ``{"mmap_size": 268435456}``.

    Raises:
        StoreUrlInvalid: the URL names no file.
    """

    def __init__(
        self, url: str, *, busy_timeout_ms: int = 1000, pragmas: Mapping[str, int | str] | None = None
    ) -> None:
        path = parse_url(url)
        self._file = SqliteFile(path, busy_timeout_ms=busy_timeout_ms, pragmas=pragmas or {})
        self._lock = LockFile(path)
        self._name = str(path)
        self._creates_users = True
        self._prepared = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def creates_users(self) -> bool:
        return self._creates_users

    @property
    def keeps_tenants(self) -> bool:
        return True

    @property
    def prepared(self) -> bool:
        return self._prepared

    # life

    async def open(self) -> None:
        if self._file.exists():
            await self._learn_schema()

    async def close(self) -> None:
        await self._file.close()
        self._lock.release()

    async def init(
        self,
        *,
        dry_run: bool = False,
        schema: bool = False,
        adopt_only: bool = False,
        on_progress: Progress | None = None,
    ) -> InitReport:
        if dry_run:
            return InitReport(dry_run=True, steps=tuple(await self._plan()))
        sentences = _say_created(self._file.create())
        sentences += await self._file.write(partial(sql_schema.carry_out, database=self._name))
        await self._learn_schema()
        sentences += _say_filled(await self._fill(on_progress))
        return InitReport(dry_run=False, steps=tuple(sentences))

    async def _learn_schema(self) -> None:
        def work(connection: sa.Connection) -> tuple[sql_schema.Schema | None, bool]:
            schema = sql_schema.read_schema(connection, self._name)
            return schema, schema is not None and not sql_schema.plan(connection, self._name)

        schema, self._prepared = await self._file.read(work)
        self._creates_users = schema is None or schema.owns_users

    async def _plan(self) -> list[str]:
        def work(connection: sa.Connection) -> list[str]:
            steps = [step.sentence for step in sql_schema.plan(connection, self._name)]
            return steps + _say_filled(sql_schema.count_unfilled(connection))

        if self._file.exists():
            return await self._file.read(work)
        nothing = sa.create_engine("sqlite://")
        try:
            with nothing.connect() as connection:
                return _say_created(True) + work(connection)
        finally:
            nothing.dispose()

    async def _fill(self, on_progress: Progress | None) -> int:
        total = await self._file.read(sql_schema.count_unfilled)
        done = 0
        while filled := await self._file.write(sql_schema.fill):
            done += filled
            if on_progress:
                on_progress(done, max(total, done))
        return done

    # users

    async def apply(self, rows: Sequence[StoredUser]) -> Applied:
        return await self._file.write(partial(sql_users.apply, rows=rows, create=self._creates_users))

    async def read(self, user_ids: Collection[str]) -> dict[str, StoredUser]:
        return await self._file.read(partial(sql_users.read, user_ids=user_ids))

    async def online(self, *, after: str | None = None, limit: int = PAGE_SIZE) -> Page:
        place = self._place(after, 2)
        return await self._file.read(partial(sql_users.read_online_page, after=place, before=None, limit=limit))

    async def stale(self, before_ms: int, *, after: str | None = None, limit: int = PAGE_SIZE) -> Page:
        place, before = self._place(after, 2), to_iso(before_ms)
        return await self._file.read(partial(sql_users.read_online_page, after=place, before=before, limit=limit))

    async def claimed(self, *, after: str | None = None, limit: int = PAGE_SIZE) -> Page:
        place = self._place(after, 1)
        return await self._file.read(partial(sql_users.read_claimed_page, after=place, limit=limit))

    async def online_ids(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[list[str]]:
        async for user_ids in self._walk_online_ids(before=None, page_size=page_size):
            yield user_ids

    async def counts(self) -> Counts:
        return await self._file.read(sql_users.count)

    async def reset(
        self,
        *,
        version: int,
        before_ms: int | None = None,
        spare: Spare | None = None,
        on_progress: Progress | None = None,
    ) -> int:
        before = None if before_ms is None else to_iso(before_ms)
        total = await self._file.read(partial(sql_users.count_online, before=before))
        done = changed = 0
        async for user_ids in self._walk_online_ids(before=before, page_size=PAGE_SIZE):
            spared = await spare(user_ids) if spare else ()
            chosen = [user_id for user_id in user_ids if user_id not in spared]
            changed += await self._file.write(partial(sql_users.reset, user_ids=chosen, version=version, before=before))
            done += len(user_ids)
            if on_progress:
                on_progress(done, max(total, done))
        return changed

    async def max_version(self) -> int:
        return await self._file.read(sql_users.read_max_version)

    async def _walk_online_ids(self, *, before: str | None, page_size: int) -> AsyncIterator[list[str]]:
        place: list[Raw] | None = None
        while True:
            work = partial(sql_users.read_online_places, after=place, before=before, limit=page_size)
            places = await self._file.read(work)
            if not places:
                return
            yield [str(user_id) for _, user_id in places]
            place = places[-1]

    def _place(self, cursor: str | None, length: int) -> list[Raw] | None:
        return None if cursor is None else from_cursor(cursor, length, self._name)

    # nodes

    async def claim_node(self, node: Node) -> tuple[Node, ...]:
        if not self._lock.acquire(node):
            raise await self._tell_owner()
        hosts = self._dead_hosts(node)
        try:
            try:
                return await self._file.write(
                    partial(sql_nodes.take_over, node=node, database=self._name, dead_hosts=hosts)
                )
            except StoreUnavailable as error:
                if not self._lock.proves:
                    raise
                # The disk is full, say. By the lock it is ours; the row, for the commands, follows with a beat.
                _log.warning("the store is ours, but cannot be written now", error=str(error))
                return await self._file.read(
                    partial(sql_nodes.find_dead, node=node, database=self._name, dead_hosts=hosts)
                )
        except BaseException:
            self._lock.release()
            raise

    async def beat(self, node: Node, now_ms: int) -> None:
        node = msgspec.structs.replace(node, beat_ms=now_ms)
        work = partial(sql_nodes.beat, node=node, database=self._name, dead_hosts=self._dead_hosts(node))
        await self._file.write(work)

    async def release_node(self, node: Node) -> None:
        try:
            await self._file.write(partial(sql_nodes.release, node=node))
        finally:
            self._lock.release()

    async def nodes(self) -> list[Node]:
        return await self._file.read(sql_nodes.read_nodes)

    def _dead_hosts(self, node: Node) -> frozenset[str]:
        """Whoever holds the lock knows that no other server of this machine lives, whatever their beats say."""
        return frozenset({node.host}) if self._lock.proves else frozenset()

    async def _tell_owner(self) -> StoreError:
        """Say who holds the lock: with its last beat if the store can be read, else as the lock file has it."""
        holder = self._lock.holder()
        if holder is None:
            return StoreUnavailable(self._name, "another server is just starting on it")
        try:
            known = await self.nodes()
        except StoreError:
            known = []  # not prepared yet, or locked: the holder is known all the same
        owner = next((node for node in known if (node.name, node.epoch) == (holder.name, holder.epoch)), holder)
        return StoreInUse(self._name, host=owner.host, pid=owner.pid, beat_ms=owner.beat_ms)


def _say_created(created: bool) -> list[str]:
    return ["create the database file"] if created else []


def _say_filled(filled: int) -> list[str]:
    return [f"set isOnline to false where it is null: {filled} users"] if filled else []
