"""Which nodes are members of a cluster, and what they agree on: as Redis has it, one trip each."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from herenow.registry.redis.shard import Shard, script


class Member(msgspec.Struct, frozen=True):
    """What a node says of itself.

    Attributes:
        name: what people call it; its id is this and a random part, another one for each registration.
        host: the machine's name, for people.
        pid: its process id there.
        process: what tells this process from any other that ever had its id.
        address: where its HTTP is; empty: unknown.
        started_ms: when it started, by its own clock.
        herenow: its version.
        settings: those that must be the same on all nodes, as text; of secrets a digest.
    """

    name: str
    host: str
    pid: int
    process: str
    address: str
    started_ms: int
    herenow: str
    settings: dict[str, str]


class Standing(msgspec.Struct, frozen=True):
    """How a shard stands, as a beat is told.

    Attributes:
        is_member: whether this node is one.
        time_us: the time of the cluster.
        skew: what of it was added to the time of Redis (ms), as it is written there; empty: nothing.
        last: the log's last entry.
        place: how many entries the log has had.
        leader: who keeps the store; empty: nobody.
        filled: whether the users that the store had are here (``keys.py`` says how it is written); empty: not yet.
        cursor: up to which entry of the log the store has all; empty: that is not known.
        beats: of each member, how often it has beaten.
        lost: who was given up, and when they last lived (ms); below 0 where their process lives, under another id.
    """

    is_member: bool
    time_us: int
    skew: str
    last: bytes
    place: int
    leader: str
    filled: str
    cursor: str
    beats: dict[str, int]
    lost: dict[str, int]


class Members:
    """The members of a shard.

    Args:
        shard: as this node uses it. Each method raises as that does.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._register = script(shard.control, "register")
        self._beat = script(shard.control, "beat")
        self._replace = script(shard.control, "replace")
        self._give_up = script(shard.control, "give_up")
        self._adopt = script(shard.control, "adopt")
        self._lose = script(shard.control, "lost")

    async def register(
        self,
        node: str,
        member: Member,
        *,
        before: str,
        now_ms: int,
        cluster: str,
        namesakes: Sequence[str] | None,
    ) -> str | None:
        """Make this node a member; returns what tells this cluster from others.

        Args:
            node: its id from now on.
            member: what it says of itself.
            before: the id that it had; empty: none.
            now_ms: the time.
            cluster: what told it from others before, or may do so from now on.
            namesakes: those that are known to be dead: where another one has its name, nothing is done, and ``None`` is
                returned. ``None``: that is not looked at.
        """
        keys = self._shard.keys
        lost_ms = -now_ms  # its process lives, and says itself what it still has
        names = [keys.nodes, keys.beats, keys.lost, keys.id]
        own_name = "" if namesakes is None else member.name
        args = [node, msgspec.json.encode(member), before, lost_ms, cluster, own_name, *(namesakes or ())]
        found = await self._shard.trying(lambda: self._register(keys=names, args=args))
        return None if found is None else str(found.decode())

    async def all(self) -> dict[str, Member]:
        """Read who is a member, by id; who says of themselves what cannot be read is left out."""
        found: dict[str, Member] = {}
        records = await self._shard.trying(lambda: self._shard.control.hgetall(self._shard.keys.nodes))
        for node, record in sorted(records.items()):
            try:
                found[node.decode()] = msgspec.json.decode(record, type=Member)
            except msgspec.MsgspecError:
                continue
        return found

    async def beat(self) -> Standing:
        """Say that this node lives; one try."""
        keys = self._shard.keys
        names = [
            keys.nodes,
            keys.beats,
            keys.lost,
            keys.leader,
            keys.log,
            keys.sequence,
            keys.skew,
            keys.filled,
            keys.cursor,
        ]
        found = await self._beat(keys=names, args=[self._shard.node])
        is_member, seconds, micros, skew, last, place, leader, filled, cursor, beats, lost = found
        return Standing(
            is_member=bool(is_member),
            time_us=int(seconds) * 1_000_000 + int(micros) + int(skew or 0) * 1000,
            skew=skew.decode(),
            last=last,
            place=int(place),
            leader=leader.decode(),
            filled=filled.decode(),
            cursor=cursor.decode(),
            beats=_pairs(beats),
            lost=_pairs(lost),
        )

    async def replace(self, key: str, old: str, new: str) -> bool:
        """Put a value in the place of another; empty: nothing. Returns whether it was still there."""
        keys, args = [key, self._shard.keys.nodes], [old, new, self._shard.node]
        return bool(await self._shard.trying(lambda: self._replace(keys=keys, args=args)))

    async def give_up(self, node: str, *, beats: int | None, last_ms: int) -> int:
        """Give a node up: another one whose beats stand still at ``beats``, or this one.

        Returns:
            How many members are left; -1: it is none, or has beaten since.
        """
        keys = self._shard.keys
        names = [keys.nodes, keys.beats, keys.lost, keys.filled]
        args = [node, "" if beats is None else beats, last_ms, self._shard.node]
        return int(await self._shard.trying(lambda: self._give_up(keys=names, args=args)))

    async def lose(self, tenant: str, nodes: Iterable[str]) -> bool:
        """Have all nodes say again what they serve, if Redis has lost users of a tenant; returns whether it has.

        Args:
            tenant: as it is written there.
            nodes: all that may serve some.
        """
        keys = self._shard.keys
        names = [
            keys.users(tenant),
            keys.counts(tenant),
            keys.due(tenant),
            keys.order(tenant),
            keys.filled,
            keys.log,
            keys.sequence,
            keys.nodes,
            *(keys.on(tenant, node) for node in nodes),
        ]
        args = [tenant, self._shard.node]
        return bool(await self._shard.trying(lambda: self._lose(keys=names, args=args)))

    async def forget(self, node: str) -> None:
        """Remove what is left of a node that was given up, once its users are looked after."""
        keys, redis = self._shard.keys, self._shard.control
        await self._shard.trying(lambda: redis.hdel(keys.lost, node))
        await self._shard.trying(lambda: redis.delete(keys.outcomes(node)))

    async def adopt(self, *, seen: tuple[int, int], place: int, now_us: int, slack_us: int) -> tuple[bool, bytes]:
        """Agree on the Redis that answers now.

        Args:
            seen: the last entry of the log that this node has read.
            place: the place of that entry.
            now_us: the time as this node has it.
            slack_us: how far that may be off.

        Returns:
            Whether this node is the first to say so, and the entry with which it was said.
        """
        keys = self._shard.keys
        names = [keys.generation, keys.log, keys.sequence, keys.skew]
        args = [self._shard.identity.process, *seen, place, now_us, slack_us]
        is_first, entry = await self._shard.trying(lambda: self._adopt(keys=names, args=args))
        return bool(is_first), entry


def _pairs(flat: list[Any]) -> dict[str, int]:
    return {name.decode(): int(number) for name, number in zip(flat[::2], flat[1::2], strict=True)}
