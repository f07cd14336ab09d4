"""Commands decided by the rules on what Redis holds, and committed together; who lost a race decides again.

A command is done once this node has read its own entry in the log, after all that came before it: so it hears of its
own changes as of those of all others, in one order.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from herenow.errors import RegistryUnavailable
from herenow.model import Change, Evicted
from herenow.registry.commands import Advance, Command, Connect, Now
from herenow.registry.dues import Dues
from herenow.registry.redis.blob import decode
from herenow.registry.redis.proposal import Proposal, propose
from herenow.registry.redis.serving import as_told
from herenow.registry.redis.shard import Fenced, Full, Shard, Skewed
from herenow.registry.redis.standing import Place
from herenow.registry.redis.tail import Tail
from herenow.registry.redis.turns import Commands
from herenow.registry.rules import Policy

TRIES = 5
"""How often a node that was given up in the middle of a commit comes back for it."""

HEARD_WITHIN_S = 5.0
"""After a commit the node hears of it from the log; later than this, nobody knows whether the log still has it."""

USERS_A_COMMIT = 200
BYTES_A_COMMIT = 250_000
"""While a commit of so many runs, some 3 ms, Redis answers nobody else."""

Done = tuple[list[Evicted], dict[str, Exception]]
"""Whom commands evicted, and what kept those of a user from being decided: it keeps nobody else's."""


class Committer:
    """Commits for one tenant.

    Args:
        shard: where the tenant's facts are.
        tail: the log of that shard.
        tenant: as it is written there.
        policy: how long things last.
        place: this node's in the cluster.
        now: the time.
        seen: the highest version of the tenant that this node has seen.
        begin: says again what this node serves, once it has registered anew.

    Attributes:
        dues: when something falls due of those who were committed here last.
        told: the latest changes of which Redis may know nothing, by user: those that others were told of before another
            one answered.
    """

    def __init__(
        self,
        shard: Shard,
        tail: Tail,
        tenant: str,
        policy: Policy,
        place: Place,
        *,
        now: Callable[[], Now],
        seen: Callable[[], int],
        begin: Callable[[], Awaitable[None]],
    ) -> None:
        self.dues = Dues()
        self.told: Mapping[str, Change] = {}
        self._shard = shard
        self._tail = tail
        self._tenant = tenant
        self._policy = policy
        self._place = place
        self._now = now
        self._seen = seen
        self._begin = begin

    async def commit(self, commands: Commands, known: Mapping[str, bytes | None] | None = None) -> Done:
        """As :meth:`decide`; as a member again, where this node was given up, and by the time of the cluster."""
        for _ in range(TRIES):
            registrations = self._place.registrations
            try:
                return await self.decide(commands, known)
            except Fenced:
                await self._place.join_again(registrations)
                await self._begin()
            except Skewed:
                await self._place.look_at_clock()
            known = None
        raise RegistryUnavailable("it gives this node up again and again")

    async def decide(
        self, commands: Commands, known: Mapping[str, bytes | None] | None = None, *, are_known: bool = False
    ) -> Done:
        """Decide commands and commit them, again with whomever another node was faster; then hear of it.

        Args:
            commands: by user.
            known: what is there of users, as read before.
            are_known: they bring nothing new, and are done though the memory of Redis is full.
        """
        there: dict[str, bytes | None] = dict(known or {})
        # Of who connects it is guessed that they are not there: where that is wrong, the commit says what is.
        unread = [user for user, asked in commands.items() if user not in there and type(asked[0]) is not Connect]
        there.update(await self._shard.read(self._tenant, unread))
        evicted: list[Evicted] = []
        faults: dict[str, Exception] = {}
        left: Iterable[str] = commands
        while left:
            now = self._now()
            proposals: list[Proposal] = []
            for user in left:
                try:
                    held = decode(user, there.get(user))
                    if user in self.told and any(type(each) is Connect for each in commands[user]):
                        held = as_told(held, self.told[user])
                    proposal = propose(held, self._here(commands[user], now), now, self._policy)
                    proposals.append(msgspec.structs.replace(proposal, brings=False) if are_known else proposal)
                except Exception as error:
                    faults[user] = error
            try:
                there = await self._propose(proposals, now)
            except Full as error:  # what brings nothing new is done all the same
                faults |= {each.user_id: error for each in proposals if each.brings}
                proposals = [each for each in proposals if not each.brings]
                there = await self._propose(proposals, now)
            for proposal in proposals:
                if proposal.user_id not in there:
                    due_ms = proposal.steady_due_ms
                    self.dues.steady.set(proposal.user_id, due_ms and max(due_ms, self._place.settles_ms))
                    self.dues.wall.set(proposal.user_id, proposal.wall_due_ms)
                    evicted += proposal.evicted
            left = there
        return evicted, faults

    def _here(self, commands: Sequence[Command], now: Now) -> Sequence[Command]:
        """Write the id that this node has now into the connections that it serves; let nobody's time come too soon."""
        name, node = self._place.name, self._place.node
        if now.steady_ms < self._place.settles_ms:
            commands = [each for each in commands if type(each) is not Advance]
        if name == node:
            return commands
        return [
            msgspec.structs.replace(each, node=node) if type(each) is Connect and each.node == name else each
            for each in commands
        ]

    async def _propose(self, proposals: list[Proposal], now: Now) -> dict[str, bytes | None]:
        """Have proposals committed; returns with whom another node was faster, and what is there of them."""
        written = [each for each in proposals if each.state is not None]
        if not written:
            return {}
        faster: dict[str, bytes | None] = {}
        for part in _parts(written):
            committed = await self._shard.commit(self._tenant, part, now_us=now.unix_us, seen=self._seen())
            faster |= committed.faster
            if committed.entry is not None:
                await self.hear(committed.entry)
        return faster

    async def hear(self, entry: bytes) -> None:
        """Wait until this node has heard of an entry of the log."""
        try:
            async with asyncio.timeout(HEARD_WITHIN_S):
                await self._tail.reached(entry)
        except TimeoutError:
            raise RegistryUnavailable("its log cannot be followed") from None


def _parts(proposals: Sequence[Proposal]) -> Iterator[list[Proposal]]:
    """Divide proposals into commits that hold Redis up for a few milliseconds."""
    part: list[Proposal] = []
    size = 0
    for each in proposals:
        bytes_of = len(each.state or b"") + len(each.news)
        if part and (len(part) == USERS_A_COMMIT or size + bytes_of > BYTES_A_COMMIT):
            yield part
            part, size = [], 0
        part.append(each)
        size += bytes_of
    yield part
