"""The registries of tenants: made when asked for, dropped when nobody is left, and no version ever goes back."""

import asyncio
from collections.abc import Sequence

import pytest

from herenow.model import Claim, Claimed, Closing
from herenow.registry.local import LocalRegistry
from herenow.registry.tenants import Tenants
from registry.manual_clock import ManualClock
from support import until

pytestmark = pytest.mark.asyncio

GRACE_MS = 2000


class Bench:
    def __init__(self, last_version: int = 0) -> None:
        self.clock = ManualClock()
        self.made: list[tuple[str | None, int]] = []
        self.tenants = Tenants(self._make, last_version=last_version, now_us=lambda: self.clock.now().unix_us)

    def _make(self, tenant: str | None, last_version: int) -> LocalRegistry:
        self.made.append((tenant, last_version))
        return LocalRegistry(grace_ms=GRACE_MS, last_version=last_version, clock=self.clock)

    async def come_and_go(self, tenant: str) -> int:
        """Let somebody come and leave; return the version of it."""
        registry = self.tenants.registry(tenant)
        await registry.connect("alice", "c1", node="n")
        await registry.disconnect("alice", "c1", Closing.LEFT)
        return registry.version

    async def sweep(self, times: int = 2) -> Sequence[str | None]:
        for _ in range(times):
            self.clock.advance(10_000)
            await self.tenants.sweep()
        return self.tenants.names()


async def test_no_tenant_is_there_from_the_start_and_stays() -> None:
    bench = Bench()
    assert bench.tenants.names() == (None,)
    registry = bench.tenants.registry(None)
    assert await bench.sweep(3) == (None,)
    assert bench.tenants.find(None) is registry


async def test_the_same_user_is_another_in_each_tenant() -> None:
    bench = Bench()
    for tenant in (None, "acme"):
        await bench.tenants.registry(tenant).connect("alice", f"{tenant}", node="n")
    globex = bench.tenants.registry("globex")
    assert (await globex.get(["alice"])).users == {}
    assert (await globex.stats()).held == 0
    before = globex.version
    await bench.tenants.registry("acme").disconnect("alice", "acme", Closing.LEFT)
    assert (await bench.tenants.registry(None).get(["alice"])).users["alice"].is_online
    assert globex.version == before
    assert await globex.changes_since(before) == ()


async def test_who_is_left_by_all_goes_two_sweeps_later_and_counts_stay() -> None:
    bench = Bench()
    registry = bench.tenants.registry("acme")
    await registry.connect("alice", "c1", node="n")
    await registry.disconnect("alice", "c1", Closing.CLOSED)
    await registry.connect("alice", "c2", node="n")  # a linger saved
    await registry.disconnect("alice", "c2", Closing.LEFT)
    assert await bench.sweep(1) == (None, "acme"), "somebody has asked for it a moment ago"
    assert await bench.sweep(1) == (None,)
    assert bench.tenants.find("acme") is None
    with pytest.raises(RuntimeError):
        await registry.stats()
    assert (await bench.tenants.stats()).lingers_saved == 1


async def test_who_is_there_lingers_claims_or_holds_keeps_it() -> None:
    bench = Bench()
    await bench.tenants.registry("there").connect("alice", "c1", node="n")
    await bench.tenants.registry("claims").claim("alice", Claim(Claimed.BUSY))
    bench.tenants.hold("held")
    bench.tenants.hold("held")
    assert await bench.sweep(4) == (None, "there", "claims", "held")
    bench.tenants.release("held")
    with bench.tenants.holding("held") as registry:
        assert registry is bench.tenants.find("held")
        bench.tenants.release("held")
        assert "held" in await bench.sweep(4)
    await bench.tenants.registry("claims").claim("alice", None)
    await bench.tenants.registry("there").disconnect("alice", "c1", Closing.CLOSED)
    assert await bench.sweep(3) == (None,)


async def test_who_comes_while_a_sweep_looks_finds_the_registry_there() -> None:
    bench = Bench()
    first, second = bench.tenants.registry("first"), bench.tenants.registry("second")
    await bench.sweep(1)
    first.subscribe(lambda _: None)
    stats = second.stats

    async def come_meanwhile() -> object:
        bench.tenants.hold("second")
        return await stats()

    second.stats = come_meanwhile  # type: ignore[method-assign,assignment]
    assert await bench.sweep(1) == (None, "second")
    assert bench.tenants.registry("second") is second


async def test_versions_never_go_back_though_nothing_is_remembered() -> None:
    bench = Bench()
    version = await bench.come_and_go("acme")
    await bench.sweep()
    bench.clock.set_wall_clock(-5_000)  # not as much as has gone by since
    again = bench.tenants.registry("acme")
    assert again.version > version
    assert await again.changes_since(version) is None, "what it had missed is not known: a snapshot"
    assert await bench.come_and_go("acme") > version


async def test_a_clock_set_back_keeps_what_is_ahead_of_it() -> None:
    bench = Bench()
    version = await bench.come_and_go("acme")
    bench.clock.set_wall_clock(-3_600_000)
    assert "acme" in await bench.sweep(5)
    assert await bench.come_and_go("acme") > version
    bench.clock.advance(3_700_000)
    assert await bench.sweep() == (None,)
    assert await bench.come_and_go("acme") > version


async def test_a_floor_tells_the_time_and_nothing_of_other_tenants() -> None:
    """Two servers, one with a busy neighbour: a tenant that comes begins at the same version in both."""
    quiet, busy = Bench(), Bench()
    for bench in (quiet, busy):
        for _ in range(10):
            if bench is busy:
                await bench.come_and_go("globex")
            bench.clock.advance(1_000)
        await bench.sweep()
        bench.clock.set_wall_clock(-60_000)
        bench.tenants.registry("acme")
    assert quiet.made[-1] == busy.made[-1]
    assert quiet.tenants.registry("acme").version == busy.tenants.registry("acme").version


async def test_the_store_and_a_cleanup_raise_the_floor() -> None:
    bench = Bench(last_version=2**51)
    assert bench.made == [(None, 2**51)]
    bench.tenants.registry("acme")
    assert bench.tenants.floor() == 2**51
    bench.tenants.raise_floor(2**51 + 7)
    bench.tenants.raise_floor(3)
    assert bench.tenants.registry("globex").version == 2**51 + 7


async def test_the_whole_is_the_sum() -> None:
    bench = Bench()
    for tenant in (None, "acme", "globex"):
        registry = bench.tenants.registry(tenant)
        await registry.connect("alice", f"{tenant}", node="n")
        await registry.connect("bob", f"{tenant}-bob", node="n")
        await registry.claim("bob", Claim(Claimed.BUSY))
    stats = await bench.tenants.stats()
    assert (stats.online, stats.busy, stats.users, stats.connections, stats.held) == (3, 3, 6, 6, 6)
    assert stats.version == bench.tenants.registry("globex").version
    await bench.tenants.close()
    with pytest.raises(RuntimeError):
        await bench.tenants.stats()


async def test_it_is_swept_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herenow.registry.tenants.SWEEP_EVERY_S", 0.001)
    bench = Bench()
    await bench.come_and_go("acme")
    bench.clock.advance(10_000)
    sweeping = asyncio.create_task(bench.tenants.run())
    await until(lambda: bench.tenants.names() == (None,))
    sweeping.cancel()
