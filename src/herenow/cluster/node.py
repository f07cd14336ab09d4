"""This process as one node of a cluster: it registers, says again and again that it lives, and comes back if given up.

Each registration has an id of its own. Who was given up (since they stood still for longer than the lease, or Redis has
forgotten them) commits nothing more under the old one; what the old one served is let go of by whoever leads, and what
this process still serves it says again under the new one, before it commits anything else.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence

from redis.exceptions import RedisError

from herenow.errors import RegistryUnavailable, SettingsInvalid
from herenow.logs import get_logger
from herenow.registry.redis.clock import ClusterClock
from herenow.registry.redis.connecting import AnotherProcess
from herenow.registry.redis.fitness import see_that_redis_is_fit
from herenow.registry.redis.members import Member, Members, Standing
from herenow.registry.redis.shard import Fenced, Shard, describe
from herenow.registry.redis.tail import Tail, position_of
from herenow.registry.redis.watch import Watch
from herenow.times import steady_s

log = get_logger("herenow.cluster")

SLACK_US = 1_000_000
"""The clocks of two Redis may differ by so much; by more, the time of the cluster goes on as it was."""

CAUGHT_UP_WITHIN_S = 5.0
"""How long a node that comes back reads what it has missed, before it says again what it serves."""

FILLED_WITHIN_S = 5.0
"""How long a node that comes back to an empty Redis waits for what the store knows."""

RETURN_BEAT_S = 0.1
"""Between two beats while it waits for that: it leads, or hears that somebody else has done it."""

SETTLES_MS = 3_000
"""So long after the first of them, all nodes have found that another Redis answers, and said again what they serve."""

TAIL_STANDS_S = 2.0
"""A tail that has not moved for so long, though the log has, reads over a new connection."""


class ClusterNode:
    """This process, as :class:`~herenow.registry.redis.standing.Place`.

    Args:
        shard: as this process uses it.
        tail: of that shard.
        clock: that of the cluster.
        member: what this process says of itself.
        lease_s: a node that stands still for so long is given up.
        beat_s: between two beats.
        is_named: whether the name was given, and so must be nobody else's.

    Attributes:
        name: what callers call it.
        node: its id in Redis.
        registrations: how often it has registered.
        returns: how often all that it serves had to be said again.
        cluster: what tells the cluster from others.
        has_left: whether it is to be no member any more.
        is_unfilled: whether it said again what it serves although Redis, which had lost all, was not filled in time.
        generation: how often another Redis has answered than before.
        agreed: the entry of the log with which the nodes agreed on the Redis that answers, and on what it knows.
        settles_ms: until then not all may have said again what they serve, which may be what Redis has lost.
        members: all that are.
        standing: as the last beat told it; ``None`` before the first.
        away_since_s: since when Redis has not answered, by the steady clock; ``None``: it does.
        tail: the log of the shard, as this node reads it.
        dead: who stands still, each with their beats.
        watch: watches them.
    """

    def __init__(
        self,
        shard: Shard,
        tail: Tail,
        clock: ClusterClock,
        member: Member,
        *,
        lease_s: float,
        beat_s: float,
        is_named: bool,
    ) -> None:
        self.name = member.name
        self.node = member.name
        self.registrations = 0
        self.returns = 0
        self.cluster = secrets.token_hex(8)
        self.has_left = self.is_unfilled = False
        self.generation = 0
        self.agreed = b"0-0"
        self.settles_ms = 0
        self.members = Members(shard)
        self.standing: Standing | None = None
        self.away_since_s: float | None = None
        self.dead: dict[str, int] = {}
        self.watch = Watch(lease_s - beat_s, beat_s)
        self._shard = shard
        shard.as_of_ms = self._as_of_ms
        self.tail = tail
        tail.lost = self._hear_of_loss
        self._clock = clock
        self._member = member
        self._lease_s = lease_s
        self._beat_s = beat_s
        self._is_named = is_named
        self._registering = asyncio.Lock()
        self._is_other = False  # another Redis answers, and this node has not agreed on it yet
        self._is_vouched_for = True  # that the time of the Redis which answers goes on from the one before
        self._skew = ""  # as it was when the clock was looked at last
        self._returned_s: float | None = None
        self._stands_since_s: float | None = None
        self._stood_at = (0, 0)
        self._well_s = steady_s()  # when Redis has last answered
        self._came_back: list[Callable[[], object]] = []
        self._told_away: list[Callable[[bool], object]] = []
        self._told: list[Callable[[Standing], Awaitable[None]]] = []

    @property
    def is_returning(self) -> bool:
        """Whether it has registered anew, and does not say yet what it serves."""
        return self._returned_s is not None

    def on_return(self, say_again: Callable[[], object]) -> None:
        """Call this after each further registration."""
        self._came_back.append(say_again)

    def on_beat(self, told: Callable[[Standing], Awaitable[None]]) -> None:
        """Call this after each beat."""
        self._told.append(told)

    def on_away(self, told: Callable[[bool], object]) -> None:
        """Call this when Redis does not answer any more, and when it does again."""
        self._told_away.append(told)

    def _as_of_ms(self) -> int | None:
        if self.away_since_s is None:
            return None
        return self._clock.now().unix_ms - round((steady_s() - self._well_s) * 1000)

    # -- coming ------------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Register for the first time.

        Raises:
            SettingsInvalid: its settings do not fit to those of the others, its name is another's, or Redis may throw
                out what it holds.
            RegistryUnavailable: Redis cannot be reached.
        """
        await self._shard.trying(self._shard.redis.ping)
        if self._shard.identity.is_of_cluster and not self._shard.is_address_of_cluster:
            raise SettingsInvalid(
                "cluster is the address of a node of a Redis Cluster, which has some of the keys only: let it begin "
                "with redis+cluster://"
            )
        await see_that_redis_is_fit(self._shard)
        await self.look_at_clock()
        namesakes = await self._see_that_name_is_free()
        await self.tail.begin()
        async with self._registering:
            await self._register(namesakes)
        await self._see_that_settings_agree()

    async def _see_that_name_is_free(self) -> list[str] | None:
        """Watch whoever has the same name for as long as a lease: who is dead does not move. Returns the dead."""
        if not self._is_named:
            return None
        first = (await self._shard.trying(self._beat)).beats
        dead = namesakes = [node for node, each in (await self.members.all()).items() if each.name == self.name]
        ends_s = steady_s() + self._lease_s
        while namesakes and steady_s() < ends_s:
            await asyncio.sleep(self._beat_s / 2)
            standing = await self._shard.trying(self._beat)
            for node in namesakes:
                if node in standing.beats and standing.beats[node] != first.get(node):
                    raise _named_alike(self.name, (await self.members.all()).get(node))
            namesakes = [node for node in namesakes if node in standing.beats]
        return dead

    async def _see_that_settings_agree(self) -> None:
        for node, other in (await self.members.all()).items():
            if node == self.node or other.process == self._member.process:
                continue
            for name, value in self._member.settings.items():
                theirs = other.settings.get(name, value)
                if theirs != value and not (name == "jwt_secret" and set(theirs.split()) & set(value.split())):
                    await self.retire()
                    raise SettingsInvalid(_unlike(name, value, theirs, other))

    async def join_again(self, registrations: int) -> None:
        """Register anew, unless that was done since so many registrations; then all is said again.

        Raises:
            RegistryUnavailable: it cannot be done now.
        """
        async with self._registering:
            if self.has_left:
                raise RegistryUnavailable("this node has left")
            if self.registrations != registrations:
                return
            await self._catch_up()
            await self._register()
            log.warning("this node was given up, and has come back", node=self.node)
        if self._returned_s is None:
            self._returned_s = steady_s()
        self._say_again_if_filled()

    def _hear_of_loss(self) -> None:
        """Redis has lost users: say all again, with one of the next beats."""
        if self._returned_s is None:
            self._returned_s = steady_s()

    def _say_again_if_filled(self) -> None:
        """Have all said again; where Redis was empty, behind what the store knows: so nobody seems to come anew."""
        if self._returned_s is None or self.standing is None:
            return
        if self.standing.filled or steady_s() - self._returned_s > FILLED_WITHIN_S:
            self._returned_s = None
            self.is_unfilled = not self.standing.filled
            self.returns += 1
            for say_again in self._came_back:
                say_again()

    async def _catch_up(self) -> None:
        """Hear what was said meanwhile: whom somebody has sent away must not be said again."""
        if self._shard.identity.met:
            return  # the log is another one
        last = await self._shard.last_entry()
        try:
            async with asyncio.timeout(CAUGHT_UP_WITHIN_S):
                await self.tail.reached(last)
        except TimeoutError:
            await self.tail.reconnect()

    async def _register(self, namesakes: Sequence[str] | None = None) -> None:
        before = self.node if self.registrations else ""
        node = f"{self.name}:{secrets.token_hex(4)}"
        self._is_other = self._is_other or bool(self._shard.identity.met)
        self._shard.is_agreeing = self._is_other  # nothing is committed there before
        self._is_vouched_for = not self._is_other
        self._shard.identity.agree()
        if self._is_other:
            await self._shard.reconnect()
            await self.tail.reconnect()
        now = self._clock.now()
        is_first, entry = await self.members.adopt(
            seen=self.tail.position, place=self.tail.place, now_us=now.unix_us, slack_us=SLACK_US
        )
        self._is_vouched_for = True
        is_news, self.agreed = bool(before) and entry != self.agreed, entry
        if self._is_other:
            await self.tail.go_back(entry)
            if is_first:
                log.warning("another Redis answers than before, and the nodes begin to agree on it")
        await self.look_at_clock()
        now_ms = self._clock.now().unix_ms
        if is_news:
            self.settles_ms = now_ms + SETTLES_MS
        cluster = await self.members.register(
            node, self._member, before=before, now_ms=now_ms, cluster=self.cluster, namesakes=namesakes
        )
        if cluster is None:  # it has joined since it was looked for
            others = (await self.members.all()).values()
            raise _named_alike(self.name, next((each for each in others if each.name == self.name), None))
        self.cluster = cluster
        self.node = self._shard.node = node
        self._shard.is_member = True
        self.generation += self._is_other  # now that it is known how the new one stands
        self._is_other = self._shard.is_agreeing = False
        self.registrations += 1
        self._note_back()

    async def retire(self) -> int:
        """Be no member any more, and never again; returns how many are left."""
        self.has_left = True
        async with self._registering:  # one that is under way
            now_ms = self._clock.now().unix_ms
            return await self.members.give_up(self.node, beats=None, last_ms=now_ms)

    # -- living ------------------------------------------------------------------------------------------------------

    async def look_at_clock(self) -> None:
        """Follow the clock of the cluster.

        Raises:
            RegistryUnavailable: it cannot be asked now.
        """
        await self._shard.trying(self._beat)

    async def run(self) -> None:
        """Say that this node lives, until cancelled."""
        while True:
            await asyncio.sleep(min(RETURN_BEAT_S, self._beat_s) if self.is_returning else self._beat_s)
            await self.beat()

    async def beat(self) -> None:
        """Say once that this node lives, and take in how the cluster stands."""
        registrations = self.registrations
        if self.has_left:
            return
        try:
            standing = await self._beat()
            if self._is_other or not standing.is_member:
                await self.join_again(registrations)
                return
        except (AnotherProcess, Fenced):
            await self._return(registrations)
            return
        except RegistryUnavailable as error:
            if not self.has_left:
                self._note_away(str(error))
            return
        except (RedisError, OSError) as error:
            await self._shard.leave_if_elsewhere(error)
            self._note_away(describe(error))
            return
        self._note_back()
        has_heard_all = self.tail.position >= position_of(standing.last)  # so also of those whom it was filled with
        if standing.filled and has_heard_all:
            self.is_unfilled = False
        self._say_again_if_filled()
        await self._see_that_tail_moves(standing)
        dead = self.watch.look(standing.beats, steady_s())
        dead.pop(self.node, None)
        self.dead = dead
        for told in self._told:
            await told(standing)

    async def _return(self, registrations: int) -> None:
        try:
            await self.join_again(registrations)
        except RegistryUnavailable as error:
            self._note_away(str(error))

    async def _beat(self) -> Standing:
        sent_s = steady_s()
        standing, set_by_us = await self._look()
        if set_by_us and standing.is_member:
            await self._go_on_evenly(standing, set_by_us)
        self.standing, self._well_s = standing, sent_s
        return standing

    async def _look(self) -> tuple[Standing, int]:
        """Say that this node lives, and follow the time that it is told.

        Returns:
            How the cluster stands, and by how much the clock of Redis was set (µs); 0: that it was, somebody has seen.
        """
        is_vouched_for, sent_s = self._is_vouched_for, steady_s()
        standing = await self.members.beat()
        if not (is_vouched_for and self._is_vouched_for):
            return standing, 0
        set_by_us = self._clock.look(standing.time_us, sent_s=sent_s, heard_s=steady_s())
        is_seen, self._skew = standing.skew != self._skew, standing.skew
        return standing, 0 if is_seen else set_by_us

    async def _go_on_evenly(self, standing: Standing, set_by_us: int) -> None:
        """The clock of Redis was set: let the time of the cluster go on as it was, unless another node has done so."""
        skew_ms = int(standing.skew or 0) - round(set_by_us / 1000)
        if await self.members.replace(self._shard.keys.skew, standing.skew, str(skew_ms)):
            log.warning("the clock of Redis was set", by_ms=round(set_by_us / 1000))
        await self._look()

    async def _see_that_tail_moves(self, standing: Standing) -> None:
        """Reconnect a tail that stands still though the log has gone on."""
        position, now_s = self.tail.position, steady_s()
        if position >= position_of(standing.last) or position != self._stood_at:
            self._stands_since_s, self._stood_at = now_s, position
        elif self._stands_since_s is not None and now_s - self._stands_since_s >= TAIL_STANDS_S:
            log.warning("the log is read over a new connection: nothing has come over the old one")
            self._stands_since_s = now_s
            await self.tail.reconnect()

    def _note_back(self) -> None:
        if self.away_since_s is not None:
            log.info("Redis is back", outage_ms=round((steady_s() - self.away_since_s) * 1000))
            self.away_since_s = None
            self._tell_away(False)

    def _note_away(self, reason: str) -> None:
        if self.away_since_s is None:
            self.away_since_s = steady_s()
            log.error("Redis cannot be reached: who is online stays so, and nobody new is let in", error=reason)
            self._tell_away(True)

    def _tell_away(self, is_away: bool) -> None:
        for told in self._told_away:
            told(is_away)


def _named_alike(name: str, other: Member | None) -> SettingsInvalid:
    place = "" if other is None else f": process {other.pid} on {other.host}"
    return SettingsInvalid(
        f"node_name {name} is another node's, which lives{place}; give each node one of its own, or none at all"
    )


def _unlike(name: str, here: str, there: str, other: Member) -> str:
    where = f"the node {other.name} on {other.host}"
    if name == "jwt_secret":
        return (
            f"jwt_secret is another one than that of {where}: all nodes of a cluster must have one in common (to "
            "change it, give all of them the new one as a previous one first)"
        )
    return f"{name} is {here} here, and {there} at {where}: all nodes of a cluster must have the same"
