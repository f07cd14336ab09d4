"""The registries of all tenants: each a world of its own, there as long as anybody is in it.

Apart by construction. A tenant has a whole registry: its users, counts, order of activity, log of changes and versions.
  Nothing in it knows of another tenant, so there is no filter that somebody could forget.
Coming. A registry is made when its tenant is first asked for. That of no tenant (``None``) is always there.
Going. :meth:`Tenants.sweep` drops a registry in which nobody is left, which nobody holds, and which nobody asked for
  since the sweep before. So ask for it anew for each call, or hold it; who subscribes must hold it.
Versions. A tenant's versions never go back, though nothing is remembered of a registry that was dropped. One that is
  made begins at the *floor*: the latest time that any sweep saw, whoever was there. One whose own versions are ahead of
  the floor, since the clock was set back, is not dropped before the floor has passed them. So a floor tells a tenant
  what time it is, and nothing of the others.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from herenow.errors import RegistryUnavailable
from herenow.registry.base import Registry, RegistryStats

SWEEP_EVERY_S = 10.0
"""Between two looks for tenants of whom nobody is left."""

Make = Callable[[str | None, int], Registry]
"""Makes the registry of a tenant, whose versions are above a given one, in the event loop."""


class Tenants:
    """The registry of each tenant.

    Args:
        make: makes one.
        last_version: the highest version in the store.
        now_us: the wall clock, in microseconds.
    """

    def __init__(self, make: Make, *, last_version: int, now_us: Callable[[], int]) -> None:
        self._make = make
        self._now_us = now_us
        self._floor = last_version
        self._holds = Counter[str | None]()
        self._asked_for: set[str | None] = set()
        self._lingers_saved = 0
        self._registries: dict[str | None, Registry] = {None: make(None, last_version)}

    def names(self) -> tuple[str | None, ...]:
        """Return the tenants that are there, no tenant first. Each may be gone when it is asked for: :meth:`find`."""
        return tuple(self._registries)

    def registry(self, tenant: str | None) -> Registry:
        """Return a tenant's registry, to be asked at once; it is made if there is none."""
        registry = self._registries.get(tenant)
        if registry is None:
            registry = self._registries[tenant] = self._make(tenant, self._floor)
        self._asked_for.add(tenant)
        return registry

    def find(self, tenant: str | None) -> Registry | None:
        """Return a tenant's registry, if there is one: where there is none, nobody is."""
        return self._registries.get(tenant)

    @contextmanager
    def holding(self, tenant: str | None) -> Iterator[Registry]:
        """Keep a tenant's registry while inside."""
        registry = self.hold(tenant)
        try:
            yield registry
        finally:
            self.release(tenant)

    def hold(self, tenant: str | None) -> Registry:
        """Keep a tenant's registry until :meth:`release` was called as often as this."""
        self._holds[tenant] += 1
        return self.registry(tenant)

    def release(self, tenant: str | None) -> None:
        """Let go of what was held once."""
        self._holds[tenant] -= 1
        if not self._holds[tenant]:
            del self._holds[tenant]

    def floor(self) -> int:
        """Return the version that a registry made now would begin at."""
        self._floor = max(self._floor, self._now_us())
        return self._floor

    def raise_floor(self, version: int) -> None:
        """Let all registries that are yet to be made begin above a version."""
        self._floor = max(self._floor, version)

    async def run(self) -> None:
        """Sweep again and again, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            with suppress(RegistryUnavailable):  # at the next one
                await self.sweep()

    async def sweep(self) -> None:
        """Drop the registries of tenants of whom nobody is left; see the module."""
        self.floor()
        for tenant, registry in tuple(self._registries.items()):
            if tenant is None or tenant in self._holds:
                continue
            if tenant in self._asked_for:
                self._asked_for.discard(tenant)
                continue
            stats = await registry.stats()
            last = await registry.stamp()
            is_wanted = tenant in self._holds or tenant in self._asked_for  # meanwhile
            if is_wanted or not self._may_go(stats, last):
                continue
            del self._registries[tenant]
            self._lingers_saved += self._saved_by(stats)
            await registry.close()

    def _may_go(self, stats: RegistryStats, last: int) -> bool:
        """Whether nothing is lost with a registry of which nothing is asked, and whose latest version is ``last``."""
        return not stats.held and last <= self.floor()

    def _saved_by(self, stats: RegistryStats) -> int:
        """How many lingers the registry alone knows of."""
        return stats.lingers_saved

    async def stats(self) -> RegistryStats:
        """Count over all tenants: for the operator, and nobody else. The version is the highest."""
        every = await asyncio.gather(*(registry.stats() for registry in self._registries.values()))
        return RegistryStats(
            version=max(each.version for each in every),
            online=sum(each.online for each in every),
            away=sum(each.away for each in every),
            busy=sum(each.busy for each in every),
            users=sum(each.users for each in every),
            connections=sum(each.connections for each in every),
            held=sum(each.held for each in every),
            lingers_saved=self._lingers_saved + sum(each.lingers_saved for each in every),
        )

    async def close(self) -> None:
        """Close all registries."""
        for registry in tuple(self._registries.values()):
            await registry.close()
