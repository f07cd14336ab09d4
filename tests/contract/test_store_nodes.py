"""Who owns a store, what every store keeps of it: by the database's own clock, whatever somebody does to the row.

The nodes are on machines that nobody can look into, so that only their beats count; their leases are short.
"""

import asyncio
import subprocess
import sys
import time

import msgspec
import pytest
from msgspec.structs import replace

from contract.backends import Backend
from herenow.errors import StoreError, StoreInUse
from herenow.model import Availability, StoredUser
from herenow.store.base import Store
from herenow.store.nodes import Node

LEASE_MS = 300
LEASE_S = LEASE_MS / 1000


def node(name: str = "one", *, host: str = "here", epoch: int = 1, lease_ms: int = 60_000) -> Node:
    return Node(name, epoch, host, 4711, "", "http://127.0.0.1:8000", 0, 0, lease_ms)


def online(user_id: str, version: int) -> StoredUser:
    return StoredUser(user_id, True, Availability.ONLINE, version, None, version)


async def owners(store: Store) -> list[Node]:
    """The rows, but for the beats."""
    return [replace(each, beat_ms=0) for each in (await store.roll()).nodes]


async def test_a_node_owns_the_store_until_it_releases_it(store: Store, second: Store) -> None:
    before_ms = time.time_ns() // 1_000_000
    assert await store.claim_node(node()) == ()
    assert await owners(second) == [node()]
    with pytest.raises(StoreInUse) as refused:
        await second.claim_node(node("two", host="elsewhere"))
    assert (refused.value.host, refused.value.pid) == ("here", 4711)
    assert abs(refused.value.beat_ms - before_ms) < 10_000
    await store.release_node(node())
    assert await owners(store) == []
    assert await second.claim_node(node("two", host="elsewhere")) == (), "a released node leaves nothing to reconcile"


async def test_a_refused_claim_changes_nothing(store: Store, second: Store) -> None:
    await store.claim_node(node())
    with pytest.raises(StoreInUse):
        await second.claim_node(node("two", host="elsewhere"))
    assert await owners(store) == [node()]
    await store.beat(node())
    await store.release_node(node())
    await second.claim_node(node("two", host="elsewhere"))


async def test_claiming_again_is_no_error(store: Store) -> None:
    await store.claim_node(node())
    assert await store.claim_node(node()) == ()
    assert await owners(store) == [node()]


async def test_a_beat_keeps_the_claim(store: Store, second: Store) -> None:
    await store.claim_node(node())
    (before,) = (await store.roll()).sightings
    await asyncio.sleep(0.002)
    await store.beat(node())
    (after,) = (await second.roll()).sightings
    assert after.stamp > before.stamp
    assert after.is_fresh


async def test_who_succeeds_a_node_does_not_wait_for_it_though_it_lives_and_that_one_writes_no_more(
    backend: Backend, store: Store, second: Store
) -> None:
    """As of a cluster, which has given up a node that stands still, in a process that holds all its locks."""
    await backend.add_users(["alice"])
    successor = replace(node(epoch=2), pid=4712)
    await store.claim_node(node())
    (before,) = await second.claim_node(successor, succeeds=lambda other: other.name == "one")
    assert before.epoch == 1
    with pytest.raises(StoreInUse):
        await store.beat(node())
    with pytest.raises(StoreInUse):
        await store.apply([online("alice", 5)])
    await store.release_node(node())
    await second.apply([online("alice", 6)])
    await second.beat(successor)
    assert (await second.read(["alice"]))["alice"].version == 6
    third = backend.store()
    await third.open()
    with pytest.raises(StoreInUse):
        await third.claim_node(node("three", host="elsewhere"))
    await third.close()


@pytest.mark.parametrize("name", ["one", "two"])
async def test_a_silent_node_elsewhere_is_replaced_after_its_lease(backend: Backend, store: Store, name: str) -> None:
    """And watched for as long, for its beat may only look old: the clock of the database may have jumped."""
    silent = node(host="elsewhere", lease_ms=LEASE_MS)
    await store.claim_node(silent)
    await store.close()  # without a release, as a crash leaves it
    again = backend.store()
    await again.open()
    try:
        with pytest.raises(StoreInUse):
            await again.claim_node(node(name, epoch=2))
    finally:
        await asyncio.sleep(LEASE_S)
    began_s = time.monotonic()
    (dead,) = await again.claim_node(node(name, epoch=2))
    assert time.monotonic() - began_s >= LEASE_S
    assert replace(dead, beat_ms=0) == silent
    assert await owners(again) == [node(name, epoch=2)]
    await again.close()


async def test_a_node_whose_process_has_ended_here_is_replaced_at_once(backend: Backend, store: Store) -> None:
    """Restarting after ``kill -9`` must not wait for the lease."""
    here = "Node.here(name='one', epoch=1, address='', now_ms=0, lease_ms=60_000)"
    script = f"import msgspec; from herenow.store.nodes import Node; print(msgspec.json.encode({here}).decode())"
    ended = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    said, _ = await ended.communicate()
    dead = msgspec.json.decode(said, type=Node)
    await store.claim_node(dead)
    await store.close()
    again = backend.store()
    await again.open()
    mine = Node.here(name="one", epoch=2, address="", now_ms=0, lease_ms=60_000)
    async with asyncio.timeout(10):
        (replaced,) = await again.claim_node(mine)
    assert replace(replaced, beat_ms=0) == dead
    await again.close()


# -- a clock that is wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [-3600, 3600], ids=["set back", "set ahead"])
async def test_a_clock_of_the_database_that_jumps_lets_no_second_server_in(
    backend: Backend, store: Store, second: Store, jump_s: int
) -> None:
    """As after a failover to a member whose clock is off."""
    first = node(lease_ms=1000)
    await store.claim_node(first)
    await backend.age_nodes(jump_s * 1000)
    claim = asyncio.create_task(second.claim_node(node("two", host="elsewhere")))
    await asyncio.sleep(0.3)
    await store.beat(first)
    with pytest.raises(StoreInUse):
        await claim


@pytest.mark.parametrize("jump_s", [-3600, 3600], ids=["set back", "set ahead"])
async def test_a_dead_server_is_replaced_within_two_leases_whatever_the_clock(
    backend: Backend, store: Store, jump_s: int
) -> None:
    await store.claim_node(node(host="elsewhere", lease_ms=LEASE_MS))
    await store.close()
    await backend.age_nodes(jump_s * 1000)
    again = backend.store()
    await again.open()
    assert len(await again.claim_node(node("two"))) == 1
    await again.close()


# -- a row that somebody removed or damaged --------------------------------------------------------------------------


async def test_a_row_that_was_removed_or_damaged_is_whole_with_the_next_beat_and_lets_nobody_in(
    backend: Backend, store: Store, second: Store
) -> None:
    first = node(lease_ms=60_000)
    await store.claim_node(first)
    for way in backend.ways_to_damage_nodes():
        await backend.damage_nodes(way)
        damaged = await second.roll()  # does not raise
        claim = asyncio.create_task(second.claim_node(node("two", host="elsewhere")))
        await asyncio.sleep(0.05)
        assert not claim.done() or isinstance(claim.exception(), StoreInUse), (way, damaged)
        await store.beat(first)
        assert await owners(second) == [first], way
        assert (await second.roll()).complaints == [], way
        with pytest.raises(StoreInUse):
            await claim


async def test_a_damaged_row_of_a_dead_server_keeps_nobody_out_for_longer_than_a_lease(
    backend: Backend, store: Store
) -> None:
    await store.claim_node(node(host="elsewhere", lease_ms=LEASE_MS))
    await store.close()
    again = backend.store()
    await again.open()
    way, *_ = backend.ways_to_damage_nodes()
    await backend.damage_nodes(way)
    assert (await again.roll()).complaints
    async with asyncio.timeout(10):
        assert await again.claim_node(node("two", lease_ms=LEASE_MS)) == ()
    assert await owners(again) == [node("two", lease_ms=LEASE_MS)]
    await again.close()


# -- the fence -------------------------------------------------------------------------------------------------------


async def replaced(backend: Backend, store: Store, way: str = "") -> tuple[Node, Store]:
    """A node that was silent for longer than its lease, and the store of the one that replaced it."""
    first = node(host="asleep", lease_ms=LEASE_MS)
    await backend.add_users(["alice", "ben"])
    await store.claim_node(first)
    await store.apply([online("alice", 10), online("ben", 10)])
    await backend.forget_locks()
    other = backend.store()
    await other.open()
    await asyncio.sleep(LEASE_S)
    await other.claim_node(node("two", host="awake", epoch=2))
    return first, other


async def test_a_batch_of_a_replaced_epoch_changes_nothing(backend: Backend, store: Store) -> None:
    first, other = await replaced(backend, store)
    await other.apply([online("alice", 20)])
    before = await other.read(["alice", "ben", "new"])
    gone = [replace(online(user, 10**12), is_online=False, availability=Availability.OFFLINE) for user in before]
    with pytest.raises(StoreInUse):
        await store.apply([*gone, online("new", 10**12)])
    with pytest.raises(StoreInUse):
        await store.reset(version=10**12)
    with pytest.raises(StoreInUse):
        await store.beat(first)
    with pytest.raises(StoreInUse):
        await store.apply(gone)
    assert await other.read(["alice", "ben", "new"]) == before
    assert (await other.counts()).online == 2
    await other.close()


async def test_a_batch_that_was_already_on_its_way_changes_nothing(backend: Backend, store: Store) -> None:
    """Stopped between the look at its own clock and the write: only the database can know."""
    _, other = await replaced(backend, store)
    before = await other.read(["alice", "ben"])
    fence = store._fence  # type: ignore[attr-defined]
    for rows in ([online("alice", 10**12)], [online(user, 10**12 + n) for n, user in enumerate(before)]):
        fence._ends_s = float("inf")
        with pytest.raises(StoreError):
            await store.apply(rows)
        fence._ends_s, fence._lost = float("inf"), None
        with pytest.raises(StoreError):
            await store.apply([online("new", 10**12)])
        fence._ends_s, fence._lost = float("inf"), None
        with pytest.raises(StoreError):
            await store.reset(version=10**12)
        fence._lost = None
    assert await other.read(["alice", "ben"]) == before
    assert (await other.counts()).online == 2
    await other.close()


async def test_who_was_silent_but_not_replaced_beats_and_goes_on(backend: Backend, store: Store) -> None:
    """A database that was away for longer than the lease has all within one flush of its return."""
    await backend.add_users(["alice"])
    await store.claim_node(node(lease_ms=LEASE_MS))
    await asyncio.sleep(LEASE_S + 0.01)
    assert not any(sighting.is_fresh for sighting in (await store.roll()).sightings)
    assert (await store.apply([online("alice", 10)])).written == 1
    await backend.age_nodes(0)
    assert await owners(store) == [node(lease_ms=LEASE_MS)]


async def test_a_lease_that_the_database_thinks_over_is_renewed(backend: Backend, store: Store) -> None:
    """Its clock was set ahead between the beat and the write: nothing is lost, and the next try writes it."""
    await backend.add_users(["alice"])
    await store.claim_node(node())
    store._fence.ends_ms -= 3_600_000  # type: ignore[attr-defined]
    written = 0
    for _ in range(2):
        try:
            written += (await store.apply([online("alice", 10)])).written
        except StoreError as error:
            assert error.temporary
    assert (await store.read(["alice"]))["alice"].is_online


async def test_a_node_that_was_replaced_learns_it_from_its_beat_also_after_its_successor_has_gone(
    backend: Backend, store: Store
) -> None:
    """A suspended machine wakes up, and another one serves, or has served."""
    first, other = await replaced(backend, store)
    with pytest.raises(StoreInUse) as refused:
        await store.beat(first)
    assert refused.value.host == "awake"
    assert [known.name for known in await owners(other)] == ["two"]
    await other.release_node(node("two", host="awake", epoch=2))
    with pytest.raises(StoreInUse):
        await store.apply([online("alice", 10**12)])
    await other.close()


async def test_releasing_a_node_that_was_replaced_leaves_its_successor(store: Store) -> None:
    await store.claim_node(node())
    await store.release_node(node(epoch=0))
    assert await owners(store) == [node()]


async def test_who_has_claimed_nothing_writes_freely(backend: Backend, store: Store) -> None:
    """The commands, where no server lives."""
    await backend.add_users(["alice"])
    assert (await store.apply([online("alice", 10)])).written == 1
    assert await store.reset(version=11) == 1
