"""The store: what the application's database says of its users. The contract that every store keeps.

The store follows the registry, and is asked on the connect path only where ``unknown_users`` is ``refuse``. It holds
one row a user and one row a server.

What every store guarantees:

- **Order.** A row is written only where its version is newer than the stored one, and the write itself holds that
  guard, so that late, repeated and racing writes do no harm: the newest version always wins.
- **Idempotence.** Every operation may be repeated after a failure whose outcome is unknown.
- **Atomicity.** A row is written whole or not at all. A batch is not atomic: where ``apply`` raises, any part of it may
  have been written; repeat it. A claim of a node is atomic among all processes.
- **Restraint.** Only the fields of presence are touched; the application's other fields never are.
- **Bounds.** No operation holds more than one page of users in memory, or the rows that it was given.
- **Errors.** Whatever goes wrong outside is a ``StoreError``. Where nothing was prepared, all but ``open`` and ``init``
  may raise ``StoreNotReady``; all may raise ``StoreUnavailable``, and work again as soon as the database does. What
  nobody foresaw is a ``StoreUnforeseen``, which may lie in a single row.
- **Time.** A database that does not answer is unavailable after some seconds; the operation may still be done later.

Operations may be called concurrently, from one event loop.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Container, Mapping, Sequence
from typing import Protocol

import msgspec

from herenow.model import StoredUser
from herenow.store.nodes import Node, Roll

PAGE_SIZE = 1000
"""Users in one page or batch, unless told."""

Progress = Callable[[int, int], None]
"""Told after each batch of a long operation: how many users are done, and of how many."""

Spare = Callable[[Sequence[str]], Awaitable[Container[str]]]
"""Asked for each batch of user ids: which of them to leave alone."""


class Applied(msgspec.Struct, frozen=True):
    """What became of a batch. Every row counts once.

    Attributes:
        written: rows that the store now holds.
        skipped: rows not newer than what was stored; nothing was lost.
        unknown: ids of users that the store does not have and does not create.
        refused: rows that the store would not take for their own sake, by id, each with the reason; the others of the
            batch were written. Where it refuses one after the other, and has written none, it may count the rest as
            refused without a look at each.
    """

    written: int
    skipped: int
    unknown: tuple[str, ...] = ()
    refused: Mapping[str, str] = msgspec.field(default_factory=dict)


class RowPage(msgspec.Struct, frozen=True):
    """Some users, and the cursor of those that follow; ``None`` after the last."""

    users: tuple[StoredUser, ...]
    cursor: str | None


class Counts(msgspec.Struct, frozen=True):
    """How many users the store has, and how many it shows online: ``away`` and ``busy`` are among ``online``.

    ``odd`` are those of whom it says neither, as another program left something else there, which that program, or the
    next, may take for true.
    """

    users: int
    online: int
    away: int
    busy: int
    odd: int = 0


class Gaps(msgspec.Struct, frozen=True):
    """What is not there of that which ``init`` makes or adopts, as a sentence each; empty where all is.

    Attributes:
        users: that the table or collection of the users is gone; ``None`` if it is there.
        parts: what is missing beside it, with what that costs.
        is_empty: it is there, and nobody is in it.
    """

    users: str | None = None
    parts: tuple[str, ...] = ()
    is_empty: bool = False

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of it."""
        return self.parts if self.users is None else (self.users, *self.parts)


class InitReport(msgspec.Struct, frozen=True):
    """What ``init`` did, or would do: one sentence a step, in order. No steps: all was there.

    ``found`` says what a person should know of the users that were there before; it may be long known.
    """

    dry_run: bool
    steps: tuple[str, ...]
    found: tuple[str, ...] = ()


Succeeds = Callable[[Node], bool]
"""Says whether the claimant of a store follows a node, be it dead or not."""


class Store(Protocol):
    """What the application's database says of its users. The guarantees are in the module's docstring."""

    @property
    def name(self) -> str:
        """Which database it is, as a person would name it; without a password."""
        ...

    @property
    def creates_users(self) -> bool:
        """Whether ``apply`` creates a user whom the store does not have, or reports it as unknown.

        Known after ``open`` or ``init``.
        """
        ...

    @property
    def keeps_tenants(self) -> bool:
        """Whether it can hold users of tenants, by their keys (``herenow.tenancy``), apart from all others.

        Where it cannot, nobody may give it such a row; if somebody does, it is of an unknown user.
        """
        ...

    @property
    def prepared(self) -> bool:
        """Whether the schema and its indexes were there, so that a server need not call ``init`` before it serves.

        Known after ``open`` or ``init``. Without the indexes all operations work, and take longer.
        """
        ...

    def canonical(self, user_id: str) -> str:
        """Write a user's id in the one way in which this store has it: one row is one user, whatever the spelling.

        Pure, and idempotent. Where ids are numbers, ``007`` is ``7``; where they are ObjectIds or UUIDs, capitals are
        small letters; where they are text, an id is what it is. One that no row can have stays as it is. All other
        operations want ids so.

        Known after ``open`` or ``init``; while a MongoDB collection is empty nobody can know it, and an id is text.
        """
        ...

    async def open(self) -> None:
        """Look at what is there and make ready to work. Creates nothing; that it is unprepared is no error yet.

        Raises:
            StoreTooNew: a newer herenow made its schema.
            StoreCorrupt: it is damaged, or is not a database.
        """
        ...

    async def close(self) -> None:
        """Let go of everything, once the operations under way have ended. Idempotent. A claim ends with it."""
        ...

    async def init(
        self,
        *,
        dry_run: bool = False,
        schema: bool = False,
        adopt_only: bool = False,
        values: bool = True,
        on_progress: Progress | None = None,
    ) -> InitReport:
        """Create what is missing, or adopt what the application has: fields with their defaults, and the indexes.

        Idempotent, and may be repeated after an interruption.

        Args:
            dry_run: change nothing, say what would be done.
            schema: let the database itself demand the fields, with their types, of every user that the application
                writes. A database whose tables do so in any case has nothing to add.
            values: also put right what users have in the fields; whoever is not known to be online is offline then. A
                server under way leaves that to its audit, which knows who is online.
            adopt_only: where there is no place for users yet, change nothing: it is another database than was meant.
            on_progress: told while existing users are given their defaults.

        Raises:
            StoreNotReady: there was nothing to adopt.
            StoreMismatch: the users that are there cannot be adopted.
            StoreNotWritable, StoreTooNew, StoreCorrupt: as their names say.
        """
        ...

    async def objections(self) -> tuple[str, ...]:
        """Say which of the database's own rules would refuse the rows of a server: a sentence each, with the change."""
        ...

    async def gaps(self) -> Gaps:
        """Say what is missing of that which ``init`` made: somebody may have dropped or renamed it since.

        Raises:
            StoreTooNew: a newer herenow made its schema meanwhile.
        """
        ...

    async def apply(self, rows: Sequence[StoredUser]) -> Applied:
        """Write a batch of rows, each only if it is newer than what is stored.

        Two rows of one user in a batch count as if the older were written first. A row whose ``last_active_ms`` is
        ``None`` leaves the stored one as it is.
        """
        ...

    async def read(self, user_ids: Collection[str]) -> dict[str, StoredUser]:
        """Read some users by id. A user that the store does not have is left out."""
        ...

    async def missing(self, user_ids: Collection[str]) -> set[str]:
        """Say whom of these users the store does not have, and would not create.

        Raises:
            StoreNotReady: their collection, or table, is gone. Nobody was deleted then.
        """
        ...

    async def online(self, *, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        """Read who is online, most recently active first.

        The cursor is stable: a user who stays online with the same ``last_active_ms`` is on exactly one page, whatever
        happens to others meanwhile.

        Args:
            after: the cursor of the page before.
            limit: users on the page, at least 1.

        Raises:
            CursorInvalid: ``after`` is not a cursor of this store.
        """
        ...

    def online_ids(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[list[str]]:
        """Walk through the ids of all who are online, page by page, and then of those of ``Counts.odd``.

        A user who turns online, offline or active during the walk may be left out, or come twice: whoever acts on an
        id reads its row first.
        """
        ...

    def odd_ids(self, *, after_ms: int) -> AsyncIterator[list[str]]:
        """Walk through the ids of those of ``Counts.odd``, page by page; then of who is offline and has no such time.

        A `lastActive` is no time if it is none of the past: not a time at all, before 1970, or after ``after_ms``.
        Where the index of those online does not show it, or is not there, it is not found here, but by ``sift``. Of
        these only some are given, a few thousand at most: whoever has them mended finds others the next time.
        """
        ...

    async def claimed(self, *, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        """Read the users who have a claim, online or not, in the order of their ids.

        Claims outlive restarts, and the registry must know them before their users connect. A claim may have expired.

        Raises:
            CursorInvalid: ``after`` is not a cursor of this store.
        """
        ...

    async def sift(self, *, version: int, after_ms: int, after: str | None = None, limit: int = PAGE_SIZE) -> RowPage:
        """Look at the next users, in the order of their ids, and read those of whom something may be wrong.

        Those are whoever has a claim, fields that hold what no store of ours would have written (``StoredUser.odd``), a
        version of at least ``version``, or a ``last_active_ms`` after a moment. The page may hold nobody and still have
        a cursor; it may hold users of whom nothing is wrong.

        Args:
            version: one above all that were given out.
            after_ms: the moment.
            after: the cursor of the page before.
            limit: users to look at, at least 1.

        Raises:
            CursorInvalid: ``after`` is not a cursor of this store.
        """
        ...

    async def counts(self) -> Counts:
        """Count the users, and those online."""
        ...

    async def stale(
        self, before_ms: int, *, after_ms: int | None = None, after: str | None = None, limit: int = PAGE_SIZE
    ) -> RowPage:
        """Read who is online but was last active before a moment, or never; most recently active first.

        Args:
            before_ms: the moment.
            after_ms: who was last active after this is read too, and first: no clock can have given it.
            after: the cursor of the page before.
            limit: users on the page, at least 1.

        Raises:
            CursorInvalid: ``after`` is not a cursor of this store.
        """
        ...

    async def reset(
        self,
        *,
        version: int,
        before_ms: int | None = None,
        after_ms: int | None = None,
        spare: Spare | None = None,
        on_progress: Progress | None = None,
    ) -> int:
        """Set users offline, in batches, with ``last_active_ms`` and the claim left as they are.

        Those count as online, too, of whom the store says neither (``Counts.odd``).

        Each write repeats the whole condition, so that a user who came online meanwhile stays so.

        Args:
            version: the version of the written rows; rows that are as new or newer are left alone.
            before_ms: only users last active before this moment, or never. Default: everyone online.
            after_ms: with ``before_ms``: and those last active after this moment, which no clock can have given.
            spare: asked for each batch: users to leave alone, such as those with a live connection.
            on_progress: told after each batch.

        Returns:
            How many users were set offline.

        Raises:
            StoreRefused: all were, but for some whom the database refuses; one of them is named, with the reason.
        """
        ...

    async def max_version(self) -> int:
        """Read the newest version that any user's row has; 0 without users.

        A registry starts its versions above it, so that a clock set back cannot make new rows look old. Reads all rows
        once, as a scan inside the database.
        """
        ...

    async def claim_node(self, node: Node, *, succeeds: Succeeds | None = None) -> tuple[Node, ...]:
        """Own the store with this node, or learn who does. Rows of dead nodes are replaced in the same step.

        At once where it is clear who lives; else it watches them, for as long as a lease (``liveness.py``).

        Args:
            node: the claimant; this is its first beat. To claim again with the same epoch is no error.
            succeeds: says of a node that this one follows it, be it dead or not.

        Returns:
            The dead nodes that it replaced, the latest beat first, told by our clock: their users are the ones to
            reconcile. A node that was released leaves none.

        Raises:
            StoreInUse: another node lives.
        """
        ...

    async def beat(self, node: Node) -> None:
        """Say that the node lives. One write, once a second, which makes the row whole, whatever somebody made of it.

        Raises:
            StoreInUse: another node took over while this one was silent for longer than its lease: stop serving.
        """
        ...

    async def release_node(self, node: Node) -> None:
        """Give the store up. Where the node does not own it, nothing happens."""
        ...

    async def roll(self) -> Roll:
        """Read which nodes there are; ``liveness.py`` says which of them live."""
        ...
