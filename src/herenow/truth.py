"""What the registries say, as the store and the audit ask: over all tenants, each user by the key.

``tenancy.py`` says what a key is.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from herenow.model import StoredUser, UserPresence
from herenow.registry.tenants import Tenants
from herenow.store.audit import Stamps
from herenow.store.base import PAGE_SIZE
from herenow.tenancy import by_tenant, key_of, rows_by_tenant, tenant_of


class Truth:
    """The registries of all tenants, as one."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def stamps(self) -> Stamps:
        """Give out a version of each tenant. Of one who comes later, it is that at which its versions begin."""
        floor = self._tenants.floor()
        there = [(tenant, found) for tenant in self._tenants.names() if (found := self._tenants.find(tenant))]
        stamps = await asyncio.gather(*(registry.stamp() for _, registry in there))
        of_tenant = dict(zip((tenant for tenant, _ in there), stamps, strict=True))
        return lambda key: of_tenant.get(tenant_of(key), floor)

    async def views(self, keys: Sequence[str]) -> dict[str, UserPresence]:
        """How these users are shown; those who are not known here are left out."""
        views: dict[str, UserPresence] = {}
        for tenant, user_ids in by_tenant(keys).items():
            registry = self._tenants.find(tenant)
            if registry is not None:
                found = (await registry.get(user_ids)).users
                views |= found if tenant is None else {key_of(tenant, each): user for each, user in found.items()}
        return views

    async def repair(self, rows: Sequence[StoredUser]) -> None:
        """Have the registries answer rows of the store that are wrong."""
        for tenant, wrong in rows_by_tenant(rows).items():
            await self._tenants.registry(tenant).repair(wrong)

    async def online(self) -> AsyncIterator[Sequence[str]]:
        """All whom the registries show online, page by page; small tenants share one, for each costs a read."""
        keys: list[str] = []
        for tenant in self._tenants.names():
            async for users in self.online_of(tenant):
                keys += [key_of(tenant, user.user_id) for user in users]
                if len(keys) >= PAGE_SIZE:
                    yield keys
                    keys = []
        yield keys

    async def online_of(self, tenant: str | None) -> AsyncIterator[tuple[UserPresence, ...]]:
        """All of one tenant who are shown online, page by page, most recently active first."""
        cursor: str | None = None
        while (registry := self._tenants.find(tenant)) is not None:
            page = await registry.online(PAGE_SIZE, cursor)
            yield page.users
            if page.cursor is None:
                return
            cursor = page.cursor
