"""The registries that must keep the contract, each with a clock that the test turns."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from herenow.model import Change, StoredUser, UserPresence
from herenow.registry.base import Batch, Registry
from herenow.registry.local import LocalRegistry
from registry.manual_clock import ManualClock

GRACE_MS = 2000
LOG_CAPACITY = 50


class Turnable(Protocol):
    """The clock of a registry under test."""

    @property
    def unix_ms(self) -> int: ...

    def advance(self, ms: int) -> Awaitable[None]:
        """Let time go by, with all that it brings, until every change of it is delivered."""
        ...

    def set_wall_clock(self, by_ms: int) -> None:
        """Set the wall clock forward or back."""
        ...


class Opened:
    """A registry under test, its clock, and all that it has delivered."""

    def __init__(self, registry: Registry, clock: Turnable) -> None:
        self.registry = registry
        self.clock = clock
        self.batches: list[Batch] = []
        registry.subscribe(self.batches.append)

    @property
    def changes(self) -> list[Change]:
        return [change for batch in self.batches for change in batch.changes]

    def rows(self) -> dict[str, StoredUser]:
        """Return the latest row of each user."""
        return {row.user_id: row for batch in self.batches for row in batch.rows}

    async def view(self, user_id: str) -> UserPresence | None:
        return (await self.registry.get([user_id])).users.get(user_id)


class LocalClock:
    """A :class:`ManualClock` for a registry that runs in this loop."""

    def __init__(self) -> None:
        self.manual = ManualClock()

    @property
    def unix_ms(self) -> int:
        return self.manual.unix_ms

    async def advance(self, ms: int) -> None:
        self.manual.advance(ms)

    def set_wall_clock(self, by_ms: int) -> None:
        self.manual.set_wall_clock(by_ms)


Factory = Callable[[int | None], Opened]
"""Opens a registry with this ``idle_after_ms``, ``GRACE_MS`` and ``LOG_CAPACITY``, in the running event loop."""


def local(idle_after_ms: int | None) -> Opened:
    clock = LocalClock()
    registry = LocalRegistry(
        grace_ms=GRACE_MS, log_capacity=LOG_CAPACITY, idle_after_ms=idle_after_ms, clock=clock.manual
    )
    return Opened(registry, clock)


FACTORIES: dict[str, Factory] = {"local": local}
