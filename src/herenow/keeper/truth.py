"""What the registries say, as the store and the audit ask: over all tenants, each user by the key.

``tenancy.py`` says what a key is.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from herenow.keeper.audit import Stamps
from herenow.model import StoredUser, UserPresence
from herenow.registry.tenants import Tenants
from herenow.store.base import PAGE_SIZE
from herenow.tenancy import by_tenant, key_of, keyed, rows_by_tenant, tenant_of

GONE_COMPARED = 10_000
"""Users of a tenant, of those who went last, whose rows an audit looks at; a look costs some 20 µs."""


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

    async def rows(self, keys: Sequence[str]) -> dict[str, StoredUser]:
        """What the store is to say of these users; those of whom nothing is known here are left out."""
        rows: dict[str, StoredUser] = {}
        for tenant, user_ids in by_tenant(keys).items():
            registry = self._tenants.find(tenant)
            if registry is not None:
                found = tuple((await registry.rows(user_ids)).values())
                rows |= {row.user_id: row for row in keyed(tenant, found)}
        return rows

    async def known(self) -> AsyncIterator[Sequence[str]]:
        """All of whom something is known here, page by page; small tenants share one, for each costs a read."""
        keys: list[str] = []
        for tenant in self._tenants.names():
            if (registry := self._tenants.find(tenant)) is None:
                continue
            keys += [key_of(tenant, user_id) for user_id in await registry.known(GONE_COMPARED)]
            whole = len(keys) - len(keys) % PAGE_SIZE
            for start in range(0, whole, PAGE_SIZE):
                yield keys[start : start + PAGE_SIZE]
            keys = keys[whole:]
        yield keys

    async def repair(self, rows: Sequence[StoredUser]) -> None:
        """Have the registries answer rows of the store that are wrong."""
        for tenant, wrong in rows_by_tenant(rows).items():
            await self._tenants.registry(tenant).repair(wrong)

    async def online_of(self, tenant: str | None) -> AsyncIterator[tuple[UserPresence, ...]]:
        """All of one tenant who are shown online, page by page, most recently active first."""
        cursor: str | None = None
        while (registry := self._tenants.find(tenant)) is not None:
            page = await registry.online(PAGE_SIZE, cursor)
            yield page.users
            if page.cursor is None:
                return
            cursor = page.cursor
