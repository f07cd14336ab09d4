"""The contract that every registry keeps: in one process today, in Redis for a cluster later.

``tests/contract/test_registry.py`` holds each of these sentences against every implementation:

Order. A command takes its place at the call, not at the ``await``: commands of one caller apply in the order in which
  they were issued, awaited or not. Those of one tick of the event loop may travel as one batch.
Atomicity. What is done to one user applies whole or not at all. A command for a crowd (``evict``, ``node_lost``,
  ``leave``, ``adopt``, ``repair``) is done to one user after the other.
Idempotence. A command that is repeated right away changes nothing the second time, so it may be sent again after doubt.
  Only a repair is answered again, as long as it is told of a wrong row.
Reads. A read sees every command that this process issued before it. What it returns is immutable or the reader's own.
Expiry. Lingers, claims and idleness end by themselves, at their time and without any call.
Delivery. Every subscriber gets every batch once, in the order of versions, in the event loop, before the commands that
  caused it resolve. Changes and reads fit together without a gap: a :class:`Snapshot` holds all changes up to its
  version at least; one that it already has may come again, told by its version. Those after it reach whoever had
  subscribed before the read.
Isolation. A subscriber that raises is reported (by default to the event loop's exception handler), and harms nobody:
  neither the other subscribers, nor the commands, nor its own later batches.
Failure. A command resolves when it is applied. Where the registry cannot be reached, it raises, and the command may or
  may not have applied: send it again.

All times are Unix milliseconds unless the name says otherwise. All methods belong to the event loop of the registry.
"""

from asyncio import Future
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from herenow.model import Cause, Change, Claim, Closing, Connection, Evicted, StoredUser, UserPresence
from herenow.registry.commands import Now


class Batch(msgspec.Struct, frozen=True):
    """What happened in one go.

    ``changes`` are all that others can see, oldest first. ``rows`` are for the store: the net row of each user of whom
    it must know something new, visible or not; a change never comes without one. A row whose ``last_active_ms`` is
    ``None`` leaves the stored one as it is. ``evicted`` are the connections that the registry has dropped, and that
    whoever serves them must close.
    """

    changes: tuple[Change, ...]
    rows: tuple[StoredUser, ...]
    evicted: tuple[Evicted, ...]


class Snapshot(msgspec.Struct, frozen=True):
    """Users as others see them, at one version. One who is missing is not known here: the store has the last word."""

    version: int
    users: dict[str, UserPresence]


class Page(msgspec.Struct, frozen=True):
    """A part of those who are online, most recently active first. Without a ``cursor`` it is the last one."""

    version: int
    users: tuple[UserPresence, ...]
    cursor: str | None


class RegistryStats(msgspec.Struct, frozen=True):
    """How many there are.

    ``online``, ``away`` and ``busy`` are users as others see them, ``users`` their sum. ``held`` are the users in
    memory: these, the invisible ones, and absent ones with a claim. ``lingers_saved`` counts, since the start, the
    connects that found their user lingering: what nobody saw.
    """

    version: int
    online: int
    away: int
    busy: int
    users: int
    connections: int
    held: int
    lingers_saved: int


class Explanation(msgspec.Struct, frozen=True):
    """Why a user is shown as they are.

    ``view`` is what others see (``None``: nothing that is known here), ``own_view`` what the user sees. ``lingers_ms``
    is how much of the grace is left, ``linger_cause`` how it began; both are ``None`` for one who does not linger. The
    next moments that can change it are the end of the linger and the claim's ``until_ms``.
    """

    view: UserPresence | None
    own_view: UserPresence
    claim: Claim | None
    connections: tuple[Connection, ...]
    lingers_ms: int | None
    linger_cause: Cause | None


Subscriber = Callable[[Batch], None]


class Registry(Protocol):
    """Who is connected right now. ``rules.py`` says what each command means, and the module what all of them guarantee.

    Ids of users and connections are opaque, and were checked where they came in.
    """

    @property
    def version(self) -> int:
        """The version of the latest change that subscribers of this process have got."""
        ...

    def now(self) -> Now:
        """Return the time by which all here is stamped and judged: what is told of it goes by no other clock."""
        ...

    def connect(
        self, user_id: str, connection_id: str, *, node: str, transport: str | None = None, address: str | None = None
    ) -> Future[None]:
        """Add a connection of a user, served by ``node``; one of the same user with the same id is replaced.

        Args:
            transport: how it speaks (``websocket``, ``polling``), for ``explain`` only.
            address: where it comes from, for ``explain`` only.
        """
        ...

    def disconnect(self, user_id: str, connection_id: str, closing: Closing) -> Future[None]:
        """Remove a user's connection that ended so. After the last one, unless it ``LEFT``, the user lingers."""
        ...

    def active(self, user_id: str, connection_id: str) -> Future[None]:
        """Note that the device behind a user's connection was just used."""
        ...

    def idle(self, user_id: str, connection_id: str) -> Future[None]:
        """Note that the device behind a user's connection has not been used for a while."""
        ...

    def claim(self, user_id: str, claim: Claim | None) -> Future[None]:
        """Put a user's claim in place of the one before; ``None`` gives it up. One that has expired is none."""
        ...

    def evict(
        self, user_ids: Iterable[str] | None, *, disconnect: bool, cause: Cause = Cause.CLEANUP
    ) -> Future[tuple[Evicted, ...]]:
        """Take users (``None``: all) offline at once, without grace.

        Args:
            disconnect: remove their connections too. Without it, users who have a connection are left alone.
            cause: what the changes say.

        Returns:
            The connections that were removed. They are strangers to the registry now; each batch brings its own to
            whoever must close them.
        """
        ...

    def node_lost(
        self,
        node: str,
        *,
        last_beat_ms: int,
        grace_ms: int | None = None,
        cause: Cause = Cause.NODE_LOST,
        may_return: bool = False,
    ) -> Future[None]:
        """Remove all connections of a node that is gone since ``last_beat_ms``, as if each had been closed then.

        Args:
            node: of which nothing comes any more.
            last_beat_ms: when it was last known to live.
            grace_ms: how long its users linger; ``None``: as always.
            cause: what the changes say.
            may_return: it may only stand still, and its connections live on meanwhile.
        """
        ...

    def leave(self, node: str) -> Future[None]:
        """End a node on purpose: its connections are over. With the last node, all are offline at once."""
        ...

    def adopt(self, rows: Iterable[StoredUser], *, last_beat_ms: int, grace_ms: int) -> Future[None]:
        """Take over the users of a dead process from the store, before the first connection is let in.

        Whoever is online in ``rows`` lingers for ``grace_ms``, and shows no change if they come back in time. Claims
        live on, those of offline users too. A user whom the registry holds already is left alone.

        Args:
            rows: as many as fit in memory; call it again for more.
            last_beat_ms: when that process was last known to live: the `lastActive` of those who do not come back.
        """
        ...

    def repair(self, rows: Iterable[StoredUser], *, cause: Cause = Cause.REPAIR) -> Future[None]:
        """Answer rows of the store that are wrong, each with a newer one that is true.

        A ghost becomes offline, with a change; another row is written again, without one. What is not known here is
        taken over from the row: the claim of somebody who is not held, and when they were last active, but for a time
        to come.
        """
        ...

    @property
    def as_of_ms(self) -> int | None:
        """As of when (Unix time) :meth:`get` and :meth:`online` answer, where they cannot know what is now.

        ``None``: they know. Else a user who is absent from a snapshot may be online all the same.
        """
        ...

    def get(self, user_ids: Iterable[str]) -> Future[Snapshot]:
        """Return these users as others see them. Those whom the registry does not hold are absent from the result."""
        ...

    def rows(self, user_ids: Iterable[str]) -> Future[dict[str, StoredUser]]:
        """Return what the store is to say of these users, with the version of their latest change, or 0.

        Of those who are not held, whoever went as far back as the log of changes reaches is in it, offline and without
        a claim; of the others nothing is known. A row whose ``last_active_ms`` is ``None`` does not know it.
        """
        ...

    def known(self, gone: int) -> Future[tuple[str, ...]]:
        """Return the ids of all who are held, and of so many who went last, as far as the log of changes reaches."""
        ...

    def own_view(self, user_id: str) -> Future[UserPresence | None]:
        """Return a user as their own connections see them; ``None`` for one who is not held."""
        ...

    def online(self, limit: int, cursor: str | None = None) -> Future[Page]:
        """Return up to ``limit`` (at least 1) users who are online, most recently active first.

        Nobody who keeps their place is skipped or given twice, whatever others do between two pages. Who moves does so
        with a change, so the changes since the first page's version complete the last one.

        Raises:
            ValueError: on awaiting, if ``cursor`` is not one that a page gave.
        """
        ...

    def connections_on(self, node: str) -> Future[tuple[tuple[str, str], ...]]:
        """Return all connections that a node serves: of each its user, and its id."""
        ...

    def connections_of(self, user_id: str) -> Future[tuple[Connection, ...]]:
        """Return a user's connections, oldest first."""
        ...

    def explain(self, user_id: str) -> Future[Explanation | None]:
        """Return all that decides how a user is shown; ``None`` for one who is not held, hence offline."""
        ...

    def stats(self) -> Future[RegistryStats]:
        """Return the counts, in O(1)."""
        ...

    def changes_since(self, version: int) -> Future[tuple[Change, ...] | None]:
        """Return the net changes after ``version``: the latest one of each user, oldest first.

        Returns:
            ``None`` when they are not all known any more: take a snapshot instead.
        """
        ...

    def changes_of(self, user_id: str, limit: int) -> Future[tuple[Change, ...]]:
        """Return the user's latest changes, the latest first, as far as the log of changes still has them.

        Costs a look at the whole log: for a person who asks, not for a program.
        """
        ...

    def stamp(self) -> Future[int]:
        """Give out a version: above that of every change before the call, below that of every change after it."""
        ...

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with every batch from now on.

        It runs in the event loop and must not block. It may issue commands: they come in a later batch.

        Returns:
            A function that ends the subscription. Calling it twice does no harm.
        """
        ...

    async def close(self) -> None:
        """Apply what was issued, deliver it, and stop. Afterwards nothing expires, and every other call raises.

        Raises:
            RuntimeError: from all other calls after this one.
        """
        ...
