"""Two nodes of one cluster: what one does the other hears, races are decided once, and answers may be lost."""

import asyncio
import contextlib
import random

import pytest

import redis_server
from contract.nodes import Cluster
from contract.registries import GRACE_MS
from e2e.relay import Relay
from herenow.errors import RegistryUnavailable
from herenow.model import Availability, Cause, Claim, Claimed, Closing, StoredUser
from herenow.registry.commands import Connect
from herenow.registry.redis.blob import UnreadableState, decode
from herenow.registry.redis.committing import USERS_A_COMMIT
from herenow.registry.redis.proposal import propose
from herenow.registry.redis.shard import Shard, Skewed
from herenow.registry.rules import Policy
from herenow.times import unix_us
from support import until

LONGEST_SCRIPT_S = 0.01
"""That Redis may be held up by one script."""


async def test_all_nodes_hear_the_same_in_the_same_order_and_remember_it(cluster: Cluster) -> None:
    first, second = await cluster.node(), await cluster.node()
    start = max(first.registry.version, second.registry.version)
    for number in range(10):
        node = (first, second)[number % 2]
        node.registry.connect(f"user-{number}", "c", node=node.name)
    await second.registry.claim("user-3", Claim(Claimed.BUSY, "à midi"))
    await cluster.settle()
    assert len(first.changes) == 11
    assert first.batches == second.batches
    assert await first.registry.changes_since(start) == await second.registry.changes_since(start)
    assert await first.registry.stats() == await second.registry.stats()
    assert await first.registry.connections_on("n2") == await second.registry.connections_on("n2")


async def test_of_tabs_on_two_nodes_one_may_close_and_nobody_sees_it(cluster: Cluster) -> None:
    first, second = await cluster.node(), await cluster.node()
    await first.registry.connect("alice", "c1", node="n1")
    await second.registry.connect("alice", "c2", node="n2")
    await first.registry.disconnect("alice", "c1", Closing.LEFT)
    await cluster.advance(10 * GRACE_MS)
    assert [change.cause for change in first.changes] == [Cause.CONNECT]
    await second.registry.disconnect("alice", "c2", Closing.LEFT)
    await cluster.settle()
    assert [change.cause for change in first.changes] == [Cause.CONNECT, Cause.LEFT]


async def test_who_comes_back_on_another_node_within_the_grace_never_flickered(cluster: Cluster) -> None:
    first, second = await cluster.node(), await cluster.node()
    await first.registry.connect("alice", "c1", node="n1")
    for number in range(6):
        here, there = (first, second) if number % 2 == 0 else (second, first)
        await here.registry.disconnect("alice", f"c{number + 1}", Closing.CLOSED)
        await cluster.advance(GRACE_MS - 1)
        await there.registry.connect("alice", f"c{number + 2}", node=there.name)
    await cluster.advance(10 * GRACE_MS)
    assert [change.cause for change in second.changes] == [Cause.CONNECT]
    assert (await first.registry.stats()).lingers_saved == 6


async def test_nodes_that_race_over_one_user_lose_no_connection(cluster: Cluster) -> None:
    nodes = [await cluster.node() for _ in range(3)]
    dice = random.Random(4)
    living: set[tuple[str, str, str]] = set()
    for turn in range(15):
        deeds = []
        for node in nodes:
            for _ in range(10):
                user, connection = dice.choice(["alice", "bob"]), f"{node.name}-{dice.randrange(4)}"
                each = (node.name, user, connection)
                if each in living and dice.random() < 0.5:
                    living.discard(each)
                    deeds.append(node.registry.disconnect(user, connection, Closing.LEFT))
                else:
                    living.add(each)
                    deeds.append(node.registry.connect(user, connection, node=node.name))
        await asyncio.gather(*deeds)
        await cluster.settle()
        for node in nodes:
            found = {(name.name, *each) for name in nodes for each in await node.registry.connections_on(name.name)}
            assert found == living, turn
            assert (await node.registry.stats()).connections == len(living)
        versions = [change.version for change in nodes[0].changes]
        assert versions == sorted(set(versions))
        assert nodes[0].changes == nodes[1].changes == nodes[2].changes
        for user in ("alice", "bob"):
            view = await nodes[0].view(user)
            assert (view is not None) == any(each[1] == user for each in living)


async def test_who_is_evicted_on_one_node_is_told_to_the_one_that_serves_them(cluster: Cluster) -> None:
    first, second = await cluster.node(), await cluster.node()
    await first.registry.connect("alice", "c1", node="n1")
    await second.registry.evict(None, disconnect=True)
    await cluster.settle()
    assert [each.connection_id for batch in first.batches for each in batch.evicted] == ["c1"]
    assert await first.registry.connections_on("n1") == ()


async def test_a_node_that_comes_later_finds_who_is_there(cluster: Cluster) -> None:
    first = await cluster.node()
    for number in range(30):
        first.registry.connect(f"user-{number:02}", "c", node="n1")
    await first.registry.claim("user-07", Claim(Claimed.AWAY))
    second = await cluster.node()
    users = (await second.registry.online(100)).users
    assert len(users) == 30
    view = await second.view("user-07")
    assert view is not None
    assert view.availability is Availability.AWAY
    await second.registry.node_lost("n1", last_beat_ms=cluster.clock.unix_ms)
    await cluster.advance(GRACE_MS)
    assert (await first.registry.stats()).users == 0


async def test_a_commit_whose_answer_is_lost_is_done_once(cluster: Cluster) -> None:
    """The connection is reset after the command went out: nobody can know whether it was done."""
    watcher = await cluster.node()
    relay = Relay(int(cluster.url.rpartition(":")[2]))
    await relay.start()
    try:
        node = await cluster.node(f"redis://127.0.0.1:{relay.port}")
        for number in range(20):
            relay.lose_answers()
            done = node.registry.connect("alice", f"c{number}", node="n2")
            await until(lambda: relay.lost)
            relay.cut()
            await done
        assert (await watcher.registry.stats()).connections == 20
        relay.lose_answers()
        evicted = node.registry.evict(["alice"], disconnect=True)
        await until(lambda: relay.lost)
        relay.cut()
        assert len(await evicted) == 20
        await cluster.settle()
        assert len([each for batch in watcher.batches for each in batch.evicted]) == 20
        assert [change.cause for change in watcher.changes] == [Cause.CONNECT, Cause.CLEANUP]
    finally:
        await relay.stop()


async def test_a_node_whose_time_is_not_the_clusters_commits_nothing(cluster: Cluster) -> None:
    """The clock of the test stands at the beginning of a year that is over."""
    node = await cluster.node()
    strict = Shard(cluster.url, prefix=cluster.prefix, node="n9", slack_ms=1000, patience_s=0.1)
    proposal = propose(decode("alice", None), [Connect("alice", "c", "n9")], node.registry.now(), Policy(GRACE_MS))
    for now_us, is_taken in ((node.registry.now().unix_us, False), (unix_us(), True)):
        try:
            await strict.commit("", [proposal], now_us=now_us, seen=0)
        except Skewed:
            assert not is_taken
        assert (await node.registry.stats()).connections == is_taken
    await strict.close()


@pytest.mark.parametrize("schema", [b"\x02", b"\x01\xc1"], ids=["of a newer herenow", "damaged"])
async def test_a_user_whose_state_cannot_be_read_keeps_nothing_from_anybody_else(
    cluster: Cluster, schema: bytes
) -> None:
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    node = await cluster.node()
    for user in ("alice", "bob", "carol"):
        await node.registry.connect(user, "c", node="n1")
    users = node.shard.keys.users("")
    blob = await node.shard.redis.hget(users, "bob")
    assert isinstance(blob, bytes)
    strange = blob[:16] + schema + blob[17:]
    await node.shard.redis.hset(users, "bob", strange)
    idle = [node.registry.idle(user, "c") for user in ("alice", "bob", "carol")]
    outcomes = await asyncio.gather(*idle, return_exceptions=True)
    assert [type(each) for each in outcomes] == [type(None), UnreadableState, type(None)]
    assert set((await node.registry.get(["alice", "bob", "carol"])).users) == {"alice", "carol"}
    assert [view.user_id for view in (await node.registry.online(9)).users] == ["carol", "alice"]
    assert faults, "it is told"
    with pytest.raises(UnreadableState):
        await node.registry.evict(None, disconnect=True)
    assert {change.user_id for change in node.changes if not change.is_online} == {"alice", "carol"}
    assert await node.shard.redis.hget(users, "bob") == strange, "left to who knows what it means"


async def test_what_a_newer_herenow_says_in_the_log_is_passed_over_and_nothing_is_missed(cluster: Cluster) -> None:
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    missed: list[str] = []
    node = await cluster.node()
    node.tail.tell_all(lambda _: None, lambda: missed.append("an entry"))
    await node.registry.connect("alice", "c", node="n1")
    keys, redis = node.shard.keys, node.shard.redis
    for strange in (
        {"schema": "2", "tenant": "", "1:0": "of another kind"},
        {"schema": "2", "tenant": "", "kind": "a new one", "of": "something"},
        {"schema": "1", "tenant": "", "1:0": b"\xc1 no MessagePack"},
        {"schema": "1", "tenant": "", "no number": "\x90"},
    ):
        await redis.xadd(keys.log, {"place": await redis.incr(keys.sequence), **strange})  # type: ignore[dict-item]
    await node.registry.connect("bob", "c", node="n1")
    await cluster.settle()
    assert [change.user_id for change in node.changes] == ["alice", "bob"]
    assert node.tail.skipped == 2
    assert len(faults) == 2, "what is damaged is told"
    assert missed == []
    later = await cluster.node()
    assert set((await later.registry.get(["alice", "bob"])).users) == {"alice", "bob"}
    await later.registry.disconnect("alice", "c", Closing.LEFT)
    await cluster.settle()
    assert node.changes[2:] == later.changes


async def test_nodes_that_begin_while_others_write_miss_nothing_and_see_nothing_twice(cluster: Cluster) -> None:
    first = await cluster.node()
    dice, is_over = random.Random(6), False

    async def write() -> None:
        while not is_over:
            user = f"user-{dice.randrange(30)}"
            if dice.random() < 0.6:
                first.registry.connect(user, "c", node="n1")
            else:
                first.registry.disconnect(user, "c", Closing.LEFT)
            await asyncio.sleep(0.001)

    writing = asyncio.create_task(write())
    begun = []
    for _ in range(8):
        node = await cluster.node()
        page = await node.registry.online(100)
        begun.append((node, {user.user_id: (user.version, True) for user in page.users}))
        await asyncio.sleep(0.05)
    is_over = True
    await writing
    await cluster.settle()
    truth = {user.user_id for user in (await first.registry.online(100)).users}
    for node, view in begun:
        versions = [change.version for change in node.changes]
        assert versions == sorted(set(versions))
        for change in node.changes:
            if change.version > view.get(change.user_id, (0, False))[0]:
                view[change.user_id] = change.version, change.is_online
        assert {user for user, (_, is_online) in view.items() if is_online} == truth
        since = await node.registry.changes_since(first.changes[0].version)
        assert since is None or list(since) == first.changes[1:]


async def test_who_gives_up_waiting_never_leaves_an_answer_to_somebody_else(cluster: Cluster) -> None:
    """As happened with redis-py (#2624): a connection was given back with an answer still to come."""
    node = await cluster.node()
    users = [f"user-{number}" for number in range(40)]
    for user in users:
        node.registry.connect(user, user, node="n1")
    await node.registry.stats()
    blobs = await node.shard.read("", users)
    dice = random.Random(8)
    for _ in range(150):
        asked = [asyncio.create_task(node.shard.read("", [user])) for user in dice.sample(users, 6)]
        await asyncio.sleep(dice.random() / 1000)
        for each in asked[:4]:
            each.cancel()
        user = dice.choice(users)
        assert await node.shard.read("", [user]) == {user: blobs[user]}
        await asyncio.gather(*asked, return_exceptions=True)
        for each in asked:
            if not each.cancelled():
                ((user, blob),) = each.result().items()
                assert blob == blobs[user]


async def test_two_clusters_on_one_redis_know_nothing_of_each_other(cluster: Cluster) -> None:
    other = Cluster(cluster.url)
    here, there = await cluster.node(), await other.node()
    for node in (here, there):
        for user in ("alice", node.shard.keys.log):
            await node.registry.connect(user, "c", node="n1")
    await here.registry.evict(None, disconnect=True)
    await cluster.settle()
    await other.settle()
    assert [change.cause for change in there.changes] == [Cause.CONNECT, Cause.CONNECT]
    assert (await there.registry.stats()).users == 2
    assert (await here.registry.stats()).users == 0
    await there.close()


async def test_a_node_with_many_users_is_lost_and_no_script_holds_redis_up(
    own_server: redis_server.RedisServer,
) -> None:
    """While one runs, nobody is answered, and a Sentinel may take Redis for dead: its CPU for each is bounded."""
    cluster = Cluster(own_server.url)
    first, second = await cluster.node(), await cluster.node()
    for number in range(20_000):
        first.registry.connect(f"user-{number}", "c", node="n1")
    assert (await first.registry.stats()).connections == 20_000
    before_s, commits = own_server.cpu_s(), second.shard.commits
    await second.registry.node_lost("n1", last_beat_ms=cluster.clock.unix_ms)
    took_s, commits = own_server.cpu_s() - before_s, second.shard.commits - commits
    assert (await second.registry.stats()).connections == 0
    assert commits >= 20_000 / USERS_A_COMMIT
    assert took_s / commits <= LONGEST_SCRIPT_S
    for node in cluster.nodes:
        await node.close()


async def test_what_cannot_be_reached_is_said_and_comes_back(own_server: redis_server.RedisServer) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    cluster = Cluster(own_server.url)
    node = await cluster.node(patience_s=0.3)
    await node.registry.connect("alice", "c1", node="n1")
    own_server.kill()
    connect, get = node.registry.connect("bob", "c2", node="n1"), node.registry.get(["alice"])
    with pytest.raises(RegistryUnavailable, match="cannot be reached"):
        await connect
    with pytest.raises(RegistryUnavailable, match="cannot be reached"):
        await get
    own_server.start()
    with contextlib.suppress(RegistryUnavailable):
        await node.registry.connect("bob", "c2", node="n1")
    await node.registry.connect("carol", "c3", node="n1")
    await until(lambda: any(change.user_id == "carol" for change in node.changes))
    await node.close()


async def test_who_is_let_in_late_is_told_to_those_who_may_have_heard_that_they_are_not_here(cluster: Cluster) -> None:
    """Redis lost all, and nobody filled it from the store in time: a snapshot from then did not have them."""
    first, second = await cluster.node(), await cluster.node()
    row = StoredUser("alice", True, Availability.AWAY, 5, None, 7)
    second.redis._place.is_unfilled = True
    version = second.registry.version
    await first.registry.adopt([row], last_beat_ms=cluster.clock.unix_ms, grace_ms=5000)
    await cluster.settle()
    assert first.changes == []
    assert [(each.user_id, each.availability, each.version) for each in second.changes] == [
        ("alice", Availability.AWAY, 7)
    ]
    assert await second.registry.changes_since(version) is None
    assert (await first.registry.get(["alice"])).users == (await second.registry.get(["alice"])).users
