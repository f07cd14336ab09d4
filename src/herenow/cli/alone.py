"""The commands' work where no server lives: on the store alone.

Nobody can be online then, for a connection lives in a server: whoever the store shows online is a ghost. The next start
would put that right by itself, after ``restart_grace``.
"""

from herenow.cli.target import opened
from herenow.errors import TenantsNotKept
from herenow.http.explaining import explain_without_server
from herenow.http.models import (
    SHOWN_AT_MOST,
    Bounds,
    Cleaned,
    Drift,
    Explained,
    Ghost,
    OnlineUser,
    ServerStatus,
    Status,
    StoreCounts,
    of_tenant,
)
from herenow.model import StoredUser
from herenow.settings import Settings
from herenow.store.base import Progress, Store
from herenow.store.rows import CLOCK_SLACK_MS
from herenow.tenancy import key_of, split
from herenow.times import to_iso, unix_ms, unix_us


async def status(settings: Settings) -> Status:
    """Give the whole picture, as far as the store knows it.

    Raises:
        StoreError: it cannot be read.
    """
    async with opened(settings) as store:
        now = unix_ms()
        counts = await store.counts()
        page = await store.online(limit=SHOWN_AT_MOST)
        roll = await store.roll()
        return Status(
            database=store.name,
            time=to_iso(now),
            # None lives: that is why we are here. One that has come since is told of the next time.
            servers=[ServerStatus.of(each, is_alive=False) for each in roll.sightings if each.node.lease_ms],
            complaints=roll.complaints,
            stored=StoreCounts.of(counts),
            stats=None,
            writer=None,
            online_total=counts.online,
            online_first=[_online_user(user) for user in page.users],
            bounds=Bounds.of(settings),
            drift=Drift(
                checked=counts.online + counts.odd,
                ghosts=counts.online + counts.odd,
                missing=0,
                examples=[Ghost.of(user.user_id, "ghost") for user in page.users],
            ),
            troubles=list((await store.gaps()).sentences),
        )


async def explain(settings: Settings, user_id: str, tenant: str | None) -> Explained:
    """Say why a user stands in the store as they do.

    Raises:
        StoreError: it cannot be read.
        TenantsNotKept: a tenant is named, and it does not tell them apart.
    """
    async with opened(settings) as store:
        if tenant is not None and not store.keeps_tenants:
            raise TenantsNotKept
        user_id = store.canonical(user_id)
        key = key_of(tenant, user_id)
        stored = await store.read([key])
        nodes = (await store.roll()).nodes
        return explain_without_server(
            user_id,
            now_ms=unix_ms(),
            stored=stored.get(key),
            last=nodes[0] if nodes else None,
            settings=settings,
            tenant=tenant,
        )


async def reset(settings: Settings, *, older_than_ms: int | None, dry_run: bool, on_progress: Progress) -> Cleaned:
    """Set users offline: everyone, or those who were silent for so long.

    Raises:
        StoreError: it cannot be read or written.
    """
    async with opened(settings) as store:
        before_ms = None if older_than_ms is None else unix_ms() - older_than_ms
        after_ms = unix_ms() + CLOCK_SLACK_MS
        if dry_run and before_ms is None:
            counts = await store.counts()
            offline = counts.online + counts.odd
        elif dry_run and before_ms is not None:
            offline = await _count_stale(store, before_ms, after_ms)
        else:
            # Above every row, wherever the clock was set to when it was written.
            version = max(await store.max_version() + 1, unix_us())
            offline = await store.reset(
                version=version, before_ms=before_ms, after_ms=after_ms, on_progress=on_progress
            )
        return Cleaned(dry_run=dry_run, offline=offline, protected_users=0, closed=0)


async def _count_stale(store: Store, before_ms: int, after_ms: int) -> int:
    count = 0
    cursor: str | None = None
    while True:
        page = await store.stale(before_ms, after_ms=after_ms, after=cursor)
        count += len(page.users)
        if page.cursor is None:
            return count
        cursor = page.cursor


def _online_user(row: StoredUser) -> OnlineUser:
    tenant, user_id = split(row.user_id)
    online = OnlineUser(
        user_id=user_id,
        availability=row.availability,
        since=None,
        connections=0,
        last_active=None if row.last_active_ms is None else to_iso(row.last_active_ms),
    )
    return of_tenant(online, tenant)
