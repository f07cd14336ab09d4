"""What is done to a crowd: to some users at a time, each whole. What keeps it from one keeps it from no other."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from herenow.model import Evicted
from herenow.registry.commands import Command
from herenow.registry.crowds import USERS_AT_ONCE
from herenow.registry.redis.committing import Committer
from herenow.registry.redis.turns import Commands


class Crowds:
    """Does it, for the users of one tenant. Each method returns whom it evicted, and raises the first fault at the end.

    Args:
        committer: commits for the tenant. Where it fails as a whole, those who are left are not tried.
    """

    def __init__(self, committer: Committer) -> None:
        self._committer = committer

    async def do(self, commands: Sequence[Command]) -> tuple[Evicted, ...]:
        """Do commands, those of one user in their order."""

        async def parts() -> AsyncIterator[tuple[Commands, None]]:
            for start in range(0, len(commands), USERS_AT_ONCE):
                part: Commands = {}
                for command in commands[start : start + USERS_AT_ONCE]:
                    part.setdefault(command.user_id, []).append(command)
                yield part, None

        return await self._do_parts(parts())

    async def do_all(
        self, pages: AsyncIterator[Mapping[str, bytes | None]], make: Callable[[str], Command]
    ) -> tuple[Evicted, ...]:
        """Do the same to all who are in some pages, as they were read there."""
        return await self._do_parts(({user: [make(user)] for user in page}, page) async for page in pages)

    async def _do_parts(
        self, parts: AsyncIterator[tuple[Commands, Mapping[str, bytes | None] | None]]
    ) -> tuple[Evicted, ...]:
        evicted: list[Evicted] = []
        faults: dict[str, Exception] = {}
        async for commands, known in parts:
            some, failed = await self._committer.commit(commands, known)
            evicted += some
            faults |= failed
        for fault in faults.values():
            raise fault
        return tuple(evicted)
