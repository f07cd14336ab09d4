"""The SQL store: SQLite, the embedded default.

What is SQLite's own stands in ``file``, ``thread``, ``lock``, ``wal``, ``glance`` and ``errors``, and in two statements
of ``users``; the rest is SQLAlchemy Core, so that PostgreSQL can follow.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from herenow.errors import StoreError, StoreInUse, StoreNotReady, StoreUnavailable
from herenow.logs import get_logger
from herenow.model import StoredUser
from herenow.store.base import PAGE_SIZE, Applied, Counts, Gaps, InitReport, Progress, RowPage, Spare, Succeeds
from herenow.store.fence import Fence
from herenow.store.liveness import Watch, find_living
from herenow.store.nodes import Node, Roll, Sighting, in_use, is_same
from herenow.store.resetting import reset_pages
from herenow.store.sqlite import fill, nodes, users
from herenow.store.sqlite import schema as tables
from herenow.store.sqlite.file import LOG_LIMIT, SqliteFile, parse_url
from herenow.store.sqlite.lock import LockFile
from herenow.store.sqlite.rows import Raw, canonical, from_cursor
from herenow.store.sqlite.schema import Affinity
from herenow.times import to_iso

T = TypeVar("T")

_WHENEVER: users.Active = (None, None)

_log = get_logger(__name__)


class SqlStore:
    """A ``Store`` in a SQLite file; ``herenow.store.base.Store`` says what its methods do.

    It creates users in a table that it made itself; in an application's own ``users`` table it only updates them.

    Args:
        url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.
        busy_timeout_ms: how long an operation waits for another program's lock before it raises ``StoreUnavailable``.
        timeout_s: how long an operation may take beside that before the database counts as unavailable. Those that go
            through all users (``init``, ``max_version``) may take minutes.
        log_limit: bytes of the log beside it (``-wal``) from which rows are refused for now while another program keeps
            it from being folded in.
        pragmas: further SQLite settings of each connection, such as ``{"mmap_size": 268435456}``.

    Raises:
        StoreUrlInvalid: the URL names no file.
    """

    def __init__(
        self,
        url: str,
        *,
        busy_timeout_ms: int = 1000,
        timeout_s: float = 2.0,
        log_limit: int = LOG_LIMIT,
        pragmas: Mapping[str, int | str] | None = None,
    ) -> None:
        path = parse_url(url)
        self._file = SqliteFile(
            path, busy_timeout_ms=busy_timeout_ms, timeout_s=timeout_s, log_limit=log_limit, pragmas=pragmas or {}
        )
        self._lock = LockFile(path)
        self._fence = Fence()
        self._name = str(path)
        self._creates_users = True
        self._prepared = False
        self._affinity = Affinity.TEXT  # of the ids

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

    def canonical(self, user_id: str) -> str:
        return canonical(user_id, self._affinity)

    # life

    async def open(self) -> None:
        if self._file.exists():
            await self._learn_schema()

    async def close(self) -> None:
        await self._file.close()
        self._fence.lift()
        self._lock.release()

    async def init(
        self,
        *,
        dry_run: bool = False,
        schema: bool = False,
        adopt_only: bool = False,
        values: bool = True,
        on_progress: Progress | None = None,
    ) -> InitReport:
        if adopt_only and not (self._file.exists() and await self._file.read(tables.has_users)):
            raise StoreNotReady(self._name, "it has no table users; is the path right?")
        if dry_run:
            return InitReport(dry_run=True, steps=tuple(await self._plan(values=values)))
        sentences = _say_created(self._file.create())
        known = self._creates_users if self._prepared else None
        work = partial(tables.carry_out, database=self._name, adopt_only=adopt_only, owns_users=known)
        sentences += await self._file.write(work, long=True)
        await self._learn_schema()
        if values:
            sentences += await self._fill(on_progress)
        return InitReport(dry_run=False, steps=tuple(sentences))

    async def _learn_schema(self) -> None:
        def work(connection: sa.Connection) -> tuple[tables.Schema | None, bool, Affinity]:
            schema = tables.read_schema(connection, self._name)
            is_prepared = schema is not None and not tables.plan(connection, self._name)
            return schema, is_prepared, tables.read_affinity(connection)

        schema, self._prepared, self._affinity = await self._file.read(work)
        self._creates_users = schema is None or schema.owns_users

    async def _plan(self, *, values: bool) -> list[str]:
        def work(connection: sa.Connection) -> list[str]:
            steps = [step.sentence for step in tables.plan(connection, self._name)]
            return steps + (fill.count_unfilled(connection).steps if values else [])

        if self._file.exists():
            return await self._file.read(work, long=True)
        nothing = sa.create_engine("sqlite://")
        try:
            with nothing.connect() as connection:
                return _say_created(True) + work(connection)
        finally:
            nothing.dispose()

    async def _fill(self, on_progress: Progress | None) -> list[str]:
        unfilled = await self._file.read(fill.count_unfilled, long=True)
        total = unfilled.missing + unfilled.odd + unfilled.no_times
        done = 0
        while total and (filled := await self._file.write(fill.fill, in_bulk=True, long=True)):
            done += filled
            if on_progress:
                on_progress(done, max(total, done))
        return unfilled.steps

    async def gaps(self) -> Gaps:
        return await self._file.read(partial(tables.find_gaps, database=self._name))

    # users

    async def objections(self) -> tuple[str, ...]:
        return ()  # its constraints and triggers are programs: what they refuse, they say when they are run

    async def apply(self, rows: Sequence[StoredUser]) -> Applied:
        return await self._write_fenced(partial(users.apply, rows=rows, create=self._creates_users))

    async def read(self, user_ids: Collection[str]) -> dict[str, StoredUser]:
        return await self._file.read(partial(users.read, user_ids=user_ids))

    async def missing(self, user_ids: Collection[str]) -> set[str]:
        if self._creates_users:
            return set()
        return set(await self._file.read(partial(users.find_unknown, user_ids=user_ids)))

    async def online(self, *, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        place = self._place(after, 2)
        return await self._file.read(partial(users.read_online_page, after=place, active=_WHENEVER, limit=limit))

    async def stale(
        self, before_ms: int, *, after_ms: int | None = None, after: str | None = None, limit: int = PAGE_SIZE
    ) -> RowPage:
        place, active = self._place(after, 2), _active(before_ms, after_ms)
        return await self._file.read(partial(users.read_online_page, after=place, active=active, limit=limit))

    async def sift(self, *, version: int, after_ms: int, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        place, late = self._place(after, 1), to_iso(after_ms)
        return await self._file.read(partial(users.sift, after=place, limit=limit, version=version, late=late))

    async def claimed(self, *, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        place = self._place(after, 1)
        return await self._file.read(partial(users.read_claimed_page, after=place, limit=limit))

    async def online_ids(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[list[str]]:
        async for user_ids in self._walk_not_offline_ids(_WHENEVER, page_size=page_size):
            yield user_ids

    async def odd_ids(self, *, after_ms: int) -> AsyncIterator[list[str]]:
        async for user_ids in self._walk_no_booleans(_WHENEVER):
            yield user_ids
        work = partial(users.read_no_times, late=to_iso(after_ms), limit=PAGE_SIZE)
        yield list(map(str, await self._file.read(work)))

    async def counts(self) -> Counts:
        return await self._file.read(users.count)

    async def reset(
        self,
        *,
        version: int,
        before_ms: int | None = None,
        after_ms: int | None = None,
        spare: Spare | None = None,
        on_progress: Progress | None = None,
    ) -> int:
        active = _active(before_ms, after_ms)
        total = await self._file.read(partial(users.count_not_offline, active=active))

        async def write(chosen: list[str]) -> tuple[int, dict[str, str]]:
            return await self._write_fenced(partial(users.reset, user_ids=chosen, version=version, active=active))

        return await reset_pages(
            self._walk_not_offline_ids(active, page_size=PAGE_SIZE),
            write,
            key=lambda user_id: user_id,
            database=self._name,
            total=total,
            spare=spare,
            on_progress=on_progress,
        )

    async def max_version(self) -> int:
        return await self._file.read(users.read_max_version, long=True)

    async def _walk_online_ids(self, *, active: users.Active, page_size: int) -> AsyncIterator[list[str]]:
        place: list[Raw] | None = None
        while True:
            work = partial(users.read_online_places, after=place, active=active, limit=page_size)
            places = await self._file.read(work)
            if not places:
                return
            yield [str(user_id) for _, user_id in places]
            place = places[-1]

    async def _walk_not_offline_ids(self, active: users.Active, *, page_size: int) -> AsyncIterator[list[str]]:
        """Walk through those online, and then those of whom the table says neither."""
        async for user_ids in self._walk_online_ids(active=active, page_size=page_size):
            yield user_ids
        async for user_ids in self._walk_no_booleans(active):
            yield user_ids

    async def _walk_no_booleans(self, active: users.Active) -> AsyncIterator[list[str]]:
        place: Raw = None
        while True:
            work = partial(users.read_no_booleans, after=place, active=active, limit=PAGE_SIZE)
            found = await self._file.read(work)
            if not found:
                return
            yield list(map(str, found))
            place = found[-1]

    def _place(self, cursor: str | None, length: int) -> list[Raw] | None:
        return None if cursor is None else from_cursor(cursor, length, self._name)

    async def _write_fenced(self, work: Callable[[sa.Connection], T]) -> T:
        """Write for the node that owns the store, if it still does: in the same transaction."""
        node = self._fence.holder()
        if node is None:
            return await self._file.write(work, in_bulk=True)
        if self._fence.is_over:
            await self.beat(node)

        def fenced(connection: sa.Connection) -> T:
            nodes.refuse_if_replaced(connection, node, database=self._name)
            return work(connection)

        return await self._file.write(fenced, in_bulk=True)

    # nodes

    async def claim_node(self, node: Node, *, succeeds: Succeeds | None = None) -> tuple[Node, ...]:
        if not self._lock.acquire(node, succeeds):
            raise await self._tell_owner()
        try:
            return await self._take_over(node, succeeds)
        except BaseException:
            self._lock.release()
            raise

    async def _take_over(self, node: Node, succeeds: Succeeds | None) -> tuple[Node, ...]:
        while True:
            watch = Watch(node.lease_ms / 1000, claimant=node, succeeds=succeeds, dead_hosts=self._dead_hosts(node))
            found = Roll()

            async def look() -> Roll:
                nonlocal found
                found = await self._file.read(nodes.read)
                # Whose rows are gone would have the lock, if they lived.
                return msgspec.structs.replace(found, is_removed=found.is_removed and not self._lock.proves)

            rival = await find_living(look, watch)
            if rival is not None:
                raise in_use(self._name, rival.node)
            sent_s = self._fence.now_s()
            try:
                beat_ms = await self._file.write(partial(nodes.take_over, node=node, judged=found))
            except StoreUnavailable as error:
                if not self._lock.proves:
                    raise
                # The disk is full, say. By the lock it is ours; the row, for the commands, follows with a beat.
                _log.warning("the store is ours, but cannot be written now", error=str(error))
                beat_ms = node.beat_ms
            if beat_ms is not None:
                self._fence.confirm(node, sent_s=sent_s, beat_ms=beat_ms)
                return tuple(each for each in found.nodes if not is_same(each, node))

    async def beat(self, node: Node) -> None:
        def work(connection: sa.Connection) -> int:
            if not self._lock.renew(node):
                raise in_use(self._name, self._lock.holder() or node)
            return nodes.beat(connection, node, database=self._name)

        sent_s = self._fence.now_s()
        try:
            try:
                beat_ms = await self._file.write(work)
            except StoreNotReady:
                await self._file.write(nodes.create)
                beat_ms = await self._file.write(work)
        except StoreInUse as error:
            self._fence.lose(error)
            raise
        self._fence.confirm(node, sent_s=sent_s, beat_ms=beat_ms)

    async def release_node(self, node: Node) -> None:
        try:
            await self._file.write(partial(nodes.release, node=node))
        finally:
            self._fence.lift()
            self._lock.release()

    async def roll(self) -> Roll:
        """Read the nodes. Where a row was removed or damaged, the lock tells whether its server lives, and which."""
        found = await self._file.read(nodes.read)
        if (found.nodes and not found.damaged) or self._lock.proves or not self._lock.is_held():
            return found
        holder = self._lock.holder()
        if holder is None:
            return found
        return Roll((Sighting(holder, 0, holder.beat_ms), *found.sightings), found.damaged, is_removed=not found.nodes)

    def _dead_hosts(self, node: Node) -> frozenset[str]:
        """Whoever holds the lock knows that no other server of this machine lives, whatever their beats say."""
        return frozenset({node.host}) if self._lock.proves else frozenset()

    async def _tell_owner(self) -> StoreError:
        """Say who holds the lock: with its last beat if the store can be read, else as the lock file has it."""
        holder = self._lock.holder()
        if holder is None:
            return StoreUnavailable(self._name, "another server is just starting on it")
        try:
            known = (await self._file.read(nodes.read)).nodes
        except StoreError:
            known = []  # not prepared yet, or locked: the holder is known all the same
        return in_use(self._name, next((node for node in known if is_same(node, holder)), holder))


def _say_created(created: bool) -> list[str]:
    return ["create the database file"] if created else []


def _active(before_ms: int | None, after_ms: int | None) -> users.Active:
    return None if before_ms is None else to_iso(before_ms), None if after_ms is None else to_iso(after_ms)
