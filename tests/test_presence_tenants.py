"""Tenants in library form, on both stores: reading, following, acting, the audit, a crash and a stop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import mongod
from captured import capture_logs
from herenow.errors import NotStarted, TenantsNotKept
from herenow.model import Availability, Cause, Change, Claim, Claimed, Closing, StoredUser
from herenow.presence import Presence
from herenow.tenancy import key_of
from support import until
from wired import end_all_tasks

TENANTS = [None, "acme", "globex"]

Make = Callable[..., Presence]


@pytest.fixture(params=["sqlite", "mongodb"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Make a presence on a database where each of ``alice-N`` can be of the Nth tenant; of SQLite, of any."""
    url = f"sqlite:///{tmp_path}/app.db"
    if request.param == "mongodb":
        name = mongod.fresh_database()
        url = mongod.shared().url(name)
        with mongod.shared().client() as client:
            documents = [{"_id": f"alice-{n}"} | ({"org": each} if each else {}) for n, each in enumerate(TENANTS)]
            client[name].users.insert_many(documents)

    def make(**settings: Any) -> Presence:
        of_tenants: dict[str, Any] = {"tenant_field": "org"} if request.param == "mongodb" else {}
        return Presence(url, **{"dev": True, "audit_every_s": 3600.0, **of_tenants, **settings})

    return make


@pytest.fixture
async def presence(make: Make) -> AsyncIterator[Presence]:
    presence = make()
    await presence.start()
    yield presence
    await presence.stop()


async def written(presence: Presence) -> None:
    await until(lambda: presence.writer.state().pending == 0)


async def stored(presence: Presence) -> list[bool]:
    """What the store says of each alice in her tenant."""
    keys = [key_of(tenant, f"alice-{n}") for n, tenant in enumerate(TENANTS)]
    rows = await presence.store.read(keys)
    return [key in rows and rows[key].is_online for key in keys]


async def connect_all(presence: Presence) -> None:
    """The same three users in each of the tenants; the store has one of each."""
    for tenant in TENANTS:
        for n in range(3):
            await presence.registry_of(tenant).connect(f"alice-{n}", f"{tenant}-{n}", node="n")


async def test_reading_acting_and_following_name_the_tenant(presence: Presence) -> None:
    heard: list[Change] = []
    presence.on_change(heard.append)
    await connect_all(presence)
    assert [(change.tenant, change.user_id) for change in heard] == [
        (tenant, f"alice-{n}") for tenant in TENANTS for n in range(3)
    ]
    for tenant in TENANTS:
        assert await presence.disconnect("alice-0", tenant=tenant) == 1
        assert (await presence.stats(tenant=tenant)).users == 2
        assert [user.user_id async for user in presence.online(tenant=tenant)] == ["alice-2", "alice-1"]
        users = await presence.get(["alice-0", "alice-1", "nobody"], tenant=tenant)
        assert [user.is_online for user in users.values()] == [False, True, False]
        explained = await presence.explain("alice-1", tenant=tenant)
        assert explained is not None and len(explained.connections) == 1
        assert heard[-1].tenant == tenant and heard[-1].cause is Cause.LEFT
    await written(presence)
    users = await presence.get(["alice-0"], tenant="initech")
    assert users["alice-0"].last_active_ms is None, "a tenant of whom nobody has heard knows nobody"
    assert len(await presence.evict(None, disconnect=True, tenant="acme")) == 2
    assert [(await presence.stats(tenant=tenant)).users for tenant in TENANTS] == [2, 0, 2]


async def test_a_user_on_the_way_to_the_store_is_the_tenants(presence: Presence) -> None:
    acme = presence.registry_of("acme")
    await acme.connect("alice-1", "c", node="n")
    await acme.disconnect("alice-1", "c", Closing.LEFT)
    pending = await presence.get(["alice-1"], tenant="acme")
    assert pending["alice-1"].last_active_ms is not None
    assert (await presence.get(["alice-1"]))["alice-1"].last_active_ms is None
    await written(presence)
    assert await presence.get(["alice-1"], tenant="acme") == pending
    for tenant in (None, "globex"):
        assert (await presence.get(["alice-1"], tenant=tenant))["alice-1"].last_active_ms is None


async def test_an_id_that_reads_as_a_key_is_of_nobody(presence: Presence) -> None:
    """An application may pass on whatever a browser sent it."""
    await presence.registry_of("acme").connect("alice-1", "c", node="n")
    for _ in range(2):
        for tenant in TENANTS:
            user = (await presence.get(["acme\x1falice-1"], tenant=tenant))["acme\x1falice-1"]
            assert (user.is_online, user.last_active_ms, user.version) == (False, None, 0)
        await presence.disconnect("alice-1", tenant="acme")
        await written(presence)


async def test_the_store_has_each_tenants_user_and_the_audit_mends_each(presence: Presence) -> None:
    await connect_all(presence)
    await written(presence)
    assert await stored(presence) == [True, True, True]
    assert (await presence.audit.round()).ghosts == (await presence.audit.round()).missing == 0
    version = presence.registry_of("acme").version
    wrong = [StoredUser("acme\x1falice-1", False, Availability.OFFLINE, 1000, None, version + 1)]
    await presence.evict(["alice-2"], disconnect=True, tenant="globex")
    await written(presence)
    ghost = presence.registry_of("globex").version + 1
    wrong.append(StoredUser("globex\x1falice-2", True, Availability.ONLINE, 1000, None, ghost))
    assert (await presence.store.apply(wrong)).written == 2
    with capture_logs() as logs:
        for _ in range(2):
            report = await presence.audit.round()
            assert (report.ghosts, report.missing) == (1, 1)
    repaired = {(each["user"], each["kind"]) for each in logs if each["event"] == "drift repaired"}
    assert repaired == {("acme/alice-1", "missing"), ("globex/alice-2", "ghost")}
    await written(presence)
    assert await stored(presence) == [True, True, False]
    report = await presence.audit.round()
    assert (report.ghosts, report.missing) == (0, 0)


async def test_the_ghost_of_a_tenant_who_is_not_there_is_mended_too(presence: Presence) -> None:
    await presence.store.apply([StoredUser("acme\x1falice-1", True, Availability.ONLINE, 1000, None, 5)])
    assert presence.tenants.find("acme") is None
    for _ in range(2):
        assert (await presence.audit.round()).ghosts == 1
    await written(presence)
    assert await stored(presence) == [False, False, False]


async def test_after_a_crash_each_tenant_gets_its_own_back(make: Make) -> None:
    first = make(node_lease_s=2.5)
    await first.start()
    await connect_all(first)
    await first.registry_of("acme").claim("alice-1", Claim(Claimed.BUSY, "in a call"))
    before = {tenant: first.registry_of(tenant).version for tenant in TENANTS}
    await written(first)
    await end_all_tasks(first)
    nodes = (await first.store.roll()).nodes
    await first.store.release_node(nodes[0])
    await first.store.close()

    second = make(node_lease_s=2.5, restart_grace_s=9.5)
    await second.start()
    heard: list[Change] = []
    second.on_change(heard.append)
    acme = (await second.get(["alice-1"], tenant="acme"))["alice-1"]
    assert (acme.availability, acme.status_text) == (Availability.BUSY, "in a call")
    for n, tenant in enumerate(TENANTS):
        registry = second.registry_of(tenant)
        assert (await registry.get([f"alice-{n}"])).users[f"alice-{n}"].is_online
        assert registry.version > before[tenant]
        await registry.connect(f"alice-{n}", f"again-{n}", node="n")
    await asyncio.sleep(0.05)
    assert heard == [], "who comes back in time never flickers"
    await second.stop()
    third = make()
    await third.start()
    assert (await third.store.counts()).online == 0
    assert third.tenants.names() == (None,) or (await third.stats(tenant="acme")).users == 0
    await third.stop()


async def test_a_stop_writes_the_users_of_all_tenants_offline(make: Make) -> None:
    presence = make()
    await presence.start()
    await connect_all(presence)
    await written(presence)
    heard: list[Change] = []
    presence.on_change(heard.append)
    await presence.stop()
    assert {change.tenant for change in heard} == set(TENANTS) and len(heard) == 9
    await presence.store.open()
    assert (await presence.store.counts()).online == 0
    await presence.store.close()
    for use in (lambda: presence.tenants, lambda: presence.truth, lambda: presence.registry_of("acme")):
        with pytest.raises(NotStarted):
            use()


async def test_a_tenant_that_none_can_be_called_is_refused(presence: Presence) -> None:
    for name in ("", "a b", "a\x1fb"):
        with pytest.raises(ValueError, match="a tenant is called by"):
            await presence.get(["alice-1"], tenant=name)


async def test_a_collection_without_the_field_has_no_tenants() -> None:
    presence = Presence(mongod.empty_collection(), dev=True)
    await presence.start()
    with pytest.raises(TenantsNotKept, match="tenant_field"):
        await presence.get(["alice"], tenant="acme")
    await presence.stop()
