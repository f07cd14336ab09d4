"""The MongoDB store: the application's own collection of users, kept true.

Only ``isOnline``, ``lastActive`` and ``presence`` of a user's document are ever touched (``documents``). Users are not
created, unless a setting says so. The files beside this one: ``connection`` reaches the server, ``errors`` says what
its errors mean, ``writes`` and ``reads`` work on users, ``nodes`` on the servers, ``adoption`` prepares the collection,
``sift`` finds what others left in it.

A replica set, a sharded cluster or a single server will do; MongoDB 4.4 or later.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from herenow.errors import StoreInUse, StoreMismatch, StoreNotReady
from herenow.model import StoredUser
from herenow.store.base import PAGE_SIZE, Applied, Counts, Gaps, InitReport, Progress, RowPage, Spare, Succeeds
from herenow.store.fence import Fence
from herenow.store.liveness import Watch, find_living
from herenow.store.mongo import nodes, reads, rules, sift, writes
from herenow.store.mongo.adoption import plan as adoption
from herenow.store.mongo.adoption.plan import Target
from herenow.store.mongo.adoption.survey import learn_kind
from herenow.store.mongo.connection import Database, Document, MongoConnection
from herenow.store.mongo.documents import Fields, from_cursor
from herenow.store.mongo.ids import IdKind, canonical
from herenow.store.mongo.nodes import Hold, Look, Nodes
from herenow.store.mongo.url import parse_url
from herenow.store.mongo.writes import UsersCollection, Whose
from herenow.store.nodes import Node, Roll, in_use, is_same
from herenow.store.resetting import reset_pages
from herenow.times import unix_ms

T = TypeVar("T")


class MongoStore:
    """A ``Store`` in a MongoDB collection; ``herenow.store.base.Store`` says what its methods do.

    Args:
        url: ``mongodb://…/database`` or ``mongodb+srv://…/database``, with any options. Writes are confirmed by a
            majority unless it says otherwise; reads go to the primary whatever it says.
        collection: where the users are.
        fields: the names of the three fields.
        create_users: whether a user who is not there is created; else they are reported as unknown.
        timeout_s: how long an operation may take before the database counts as unavailable. Those that go through all
            users (``init``, ``max_version``) have no such limit.

    Raises:
        StoreUrlInvalid: the address is none, or names no database.
    """

    def __init__(
        self,
        url: str,
        *,
        collection: str = "users",
        fields: Fields = Fields(),  # noqa: B008  # it is frozen
        create_users: bool = False,
        timeout_s: float = 2.0,
    ) -> None:
        parsed = parse_url(url)
        self._connection = MongoConnection(parsed, timeout_s=timeout_s)
        self._target = Target(collection=collection, fields=fields, shown=parsed.name)
        self._create_users = create_users
        self._prepared = False
        self._adopted = False  # what it takes to work: the indexes may be missing
        self._kind: IdKind | None = None
        self._fence = Fence()

    @property
    def name(self) -> str:
        return self._target.shown

    @property
    def creates_users(self) -> bool:
        return self._create_users

    @property
    def keeps_tenants(self) -> bool:
        return self._target.fields.tenant is not None

    @property
    def prepared(self) -> bool:
        return self._prepared

    def canonical(self, user_id: str) -> str:
        return user_id if self._kind is None else canonical(user_id, self._kind)

    # life

    async def open(self) -> None:
        async def look(database: Database) -> bool:
            with contextlib.suppress(StoreMismatch):  # `init` and whoever reads users say it
                await self._learn_kind(database)
            return await adoption.is_prepared(database, self._target)

        try:
            self._prepared = await self._connection.run(look)
        except BaseException:
            await self.close()  # whoever could not open it will not close it
            raise

    async def close(self) -> None:
        self._fence.lift()
        await self._connection.close()

    async def init(
        self,
        *,
        dry_run: bool = False,
        schema: bool = False,
        adopt_only: bool = False,
        values: bool = True,
        on_progress: Progress | None = None,
    ) -> InitReport:
        async def work(database: Database) -> InitReport:
            plan = await adoption.plan(database, self._target, schema=schema, values=values, on_progress=on_progress)
            if adopt_only and not plan.survey.exists:
                raise StoreNotReady(self.name, f"it has no collection {self._target.collection}; is the name right?")
            done: list[str] = []
            for step in plan.steps:
                addition = None if dry_run else await step.execute(database)
                done.append(step.sentence if addition is None else f"{step.sentence}, {addition}")
            self._kind = self._kind or plan.survey.kind
            found = plan.survey.describe(self._target.collection, self._target.fields)
            return InitReport(dry_run=dry_run, steps=tuple(done), found=tuple(found))

        report = await self._connection.run_long(work)
        self._prepared = self._prepared or not dry_run
        self._kind = self._kind if dry_run else None  # the collection may be another than before
        return report

    async def gaps(self) -> Gaps:
        return await self._connection.run(partial(adoption.find_gaps, target=self._target))

    # users

    async def objections(self) -> tuple[str, ...]:
        find = partial(rules.find_objections, name=self._target.collection, fields=self._target.fields)
        return tuple(await self._connection.run(find))

    async def apply(self, rows: Sequence[StoredUser]) -> Applied:
        await self._beat_if_due()
        return await self._with_users(partial(writes.apply, rows=rows, create=self._create_users))

    async def read(self, user_ids: Collection[str]) -> dict[str, StoredUser]:
        return await self._with_users(partial(reads.read, user_ids=user_ids))

    async def missing(self, user_ids: Collection[str]) -> set[str]:
        if self._create_users:
            return set()
        missing = set(user_ids) - await self._with_users(partial(reads.read_present, user_ids=user_ids))
        if missing:  # or all of them are: to MongoDB, a collection that was dropped is an empty one
            await self._connection.run(self._require_collection)
        return missing

    async def online(self, *, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        return await self._online_page(after, before_ms=None, after_ms=None, limit=limit)

    async def stale(
        self, before_ms: int, *, after_ms: int | None = None, after: str | None = None, limit: int = PAGE_SIZE
    ) -> RowPage:
        return await self._online_page(after, before_ms=before_ms, after_ms=after_ms, limit=limit)

    async def claimed(self, *, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        place = self._place(after, reads.CLAIM_PLACE)
        return await self._with_users(partial(reads.read_claimed_page, after=place, limit=limit))

    async def sift(self, *, version: int, after_ms: int, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        place = self._place(after, reads.CLAIM_PLACE)
        work = partial(sift.sift, after=place, limit=limit, version=version, after_ms=after_ms)
        return await self._with_users(work)

    async def online_ids(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[list[str]]:
        async for page in self._walk_not_offline(before_ms=None, after_ms=None, page_size=page_size):
            yield [each.key for each in page]

    async def odd_ids(self, *, after_ms: int) -> AsyncIterator[list[str]]:
        async for page in self._walk_no_booleans(before_ms=None, after_ms=None):
            yield [each.key for each in page]
        misdated = await self._with_users(partial(reads.read_no_times, after_ms=after_ms, limit=PAGE_SIZE))
        yield [each.key for each in misdated]

    async def counts(self) -> Counts:
        return await self._with_users(reads.count)

    async def reset(
        self,
        *,
        version: int,
        before_ms: int | None = None,
        after_ms: int | None = None,
        spare: Spare | None = None,
        on_progress: Progress | None = None,
    ) -> int:
        count = partial(reads.count_not_offline, before_ms=before_ms, after_ms=after_ms)
        total = await self._with_users(count) if on_progress else 0

        async def write(chosen: list[Whose]) -> tuple[int, dict[str, str]]:
            await self._beat_if_due()
            return await self._with_users(
                partial(writes.reset, chosen=chosen, version=version, before_ms=before_ms, after_ms=after_ms)
            )

        return await reset_pages(
            self._walk_not_offline(before_ms=before_ms, after_ms=after_ms, page_size=PAGE_SIZE),
            write,
            key=lambda whose: whose.key,
            database=self.name,
            total=total,
            spare=spare,
            on_progress=on_progress,
        )

    async def max_version(self) -> int:
        return await self._with_users(reads.read_max_version, long=True)

    async def _online_page(
        self, after: str | None, *, before_ms: int | None, after_ms: int | None, limit: int
    ) -> RowPage:
        place = self._place(after, reads.PLACE)
        work = partial(reads.read_online_page, after=place, before_ms=before_ms, after_ms=after_ms, limit=limit)
        return await self._with_users(work)

    async def _walk_online(
        self, *, before_ms: int | None, after_ms: int | None, page_size: int
    ) -> AsyncIterator[list[Whose]]:
        place: Document | None = None
        while True:
            work = partial(
                reads.read_online_places, after=place, before_ms=before_ms, after_ms=after_ms, limit=page_size
            )
            found = await self._with_users(work)
            if not found:
                return
            yield [whose for _, whose in found]
            place = found[-1][0]

    async def _walk_not_offline(
        self, *, before_ms: int | None, after_ms: int | None, page_size: int
    ) -> AsyncIterator[list[Whose]]:
        """Walk through those online, and then those of whom the collection says neither."""
        async for page in self._walk_online(before_ms=before_ms, after_ms=after_ms, page_size=page_size):
            yield page
        async for page in self._walk_no_booleans(before_ms=before_ms, after_ms=after_ms):
            yield page

    async def _walk_no_booleans(self, *, before_ms: int | None, after_ms: int | None) -> AsyncIterator[list[Whose]]:
        place: object = None
        while True:
            work = partial(reads.read_no_booleans, after=place, before_ms=before_ms, after_ms=after_ms, limit=PAGE_SIZE)
            found = await self._with_users(work)
            if not found:
                return
            yield found
            place = found[-1].raw_id

    def _place(self, cursor: str | None, names: Sequence[str]) -> Document | None:
        return None if cursor is None else from_cursor(cursor, names, self.name)

    # nodes

    async def claim_node(self, node: Node, *, succeeds: Succeeds | None = None) -> tuple[Node, ...]:
        while True:
            found = Look(None, Roll())

            async def look() -> Roll:
                nonlocal found
                found = await self._look()
                return found.roll

            watch = Watch(node.lease_ms / 1000, claimant=node, succeeds=succeeds)
            rival = await find_living(look, watch)
            if rival is not None:
                raise in_use(self.name, rival.node)
            sent_s = self._fence.now_s()
            beat_ms = await self._with_nodes(partial(nodes.take_over, node=node, found=found.row))
            if beat_ms is not None:
                self._fence.confirm(node, sent_s=sent_s, beat_ms=beat_ms)
                return tuple(each for each in found.roll.nodes if not is_same(each, node))

    async def beat(self, node: Node) -> None:
        sent_s = self._fence.now_s()
        work = partial(nodes.beat, node=node, here_ms=_here_ms(), database=self.name)
        try:
            beat_ms = await self._with_nodes(work)
        except StoreInUse as error:
            self._fence.lose(error)
            raise
        self._fence.confirm(node, sent_s=sent_s, beat_ms=beat_ms)

    async def release_node(self, node: Node) -> None:
        try:
            await self._with_nodes(partial(nodes.release, node=node))
        finally:
            self._fence.lift()

    async def roll(self) -> Roll:
        return (await self._look()).roll

    async def _look(self) -> Look:
        return await self._with_nodes(partial(nodes.look, here_ms=_here_ms()))

    async def _beat_if_due(self) -> None:
        """Beat before a write whose lease has ended: the node may have been replaced, and learns it so."""
        node = self._fence.holder()
        if node is not None and self._fence.is_over:
            await self.beat(node)

    def _hold(self, database: Database) -> Hold | None:
        node = self._fence.holder()
        if node is None:
            return None
        return Hold(self._nodes_in(database), node, self._fence, self._fence.ends_ms, self.name)

    def _nodes_in(self, database: Database) -> Nodes:
        return Nodes(database[nodes.COLLECTION], self._target.collection)

    # what each of them needs

    async def _with_users(self, work: Callable[[UsersCollection], Awaitable[T]], *, long: bool = False) -> T:
        async def run(database: Database) -> T:
            await self._require_prepared(database)
            collection = database[self._target.collection]
            kind = await self._learn_kind(database)
            return await work(UsersCollection(collection, self._target.fields, kind, self._hold(database)))

        return await (self._connection.run_long(run) if long else self._connection.run(run))

    async def _with_nodes(self, work: Callable[[Nodes], Awaitable[T]]) -> T:
        async def run(database: Database) -> T:
            await self._require_prepared(database)
            return await work(self._nodes_in(database))

        return await self._connection.run(run)

    async def _require_prepared(self, database: Database) -> None:
        """A wrong name must not look like an empty database: MongoDB would create whatever is written to."""
        if not self._adopted:
            self._adopted = await adoption.read_schema_version(database, self._target) is not None
        if not self._adopted:
            raise StoreNotReady(self.name, f"its collection {self._target.collection} has no presence in it")

    async def _require_collection(self, database: Database) -> None:
        if not await database.list_collection_names(filter={"name": self._target.collection}):
            raise StoreNotReady(self.name, f"its collection {self._target.collection} is gone")

    async def _learn_kind(self, database: Database) -> IdKind:
        """Look what the ids are; in an empty collection they are what is written first: strings, if that is us."""
        if self._kind is None:
            self._kind = await learn_kind(database, self._target.collection, shown=self.name)
        return self._kind or IdKind.STRING


def _here_ms() -> int:
    return unix_ms()
