"""How a node stands in its cluster, as its registries ask: under which id it serves, and what to do if that is over."""

from typing import Protocol

from herenow.registry.redis.shard import Shard


class Place(Protocol):
    """A node's place in the cluster.

    Attributes:
        name: what callers call this node.
        node: what it is called in Redis: an id that is new with each registration.
        registrations: how often it has registered.
        returns: how often it has come back since: then all that it serves must be said again.
        is_returning: whether it has registered anew, and that cannot be said yet.
        is_unfilled: whether it has said so although Redis, which had lost all, was not filled from the store in time.
        agreed: the entry of the log with which the nodes agreed on the Redis that answers, and on what it knows.
        settles_ms: until then, by the clock of the cluster, not all nodes may have said again what they serve: nobody's
            grace ends before.
    """

    name: str
    node: str
    registrations: int
    returns: int
    is_unfilled: bool
    agreed: bytes
    settles_ms: int

    @property
    def is_returning(self) -> bool: ...

    async def join_again(self, registrations: int) -> None:
        """Register anew, unless that was done since so many registrations.

        Raises:
            RegistryUnavailable: it cannot be done now.
        """
        ...

    async def look_at_clock(self) -> None:
        """Follow the clock of the cluster, which was set.

        Raises:
            RegistryUnavailable: it cannot be asked now.
        """
        ...


class Alone:
    """The place of a node that is no member of anything: nobody gives it up, and its clock is its own."""

    registrations = returns = 0
    is_returning = is_unfilled = False
    agreed = b"0-0"
    settles_ms = 0

    def __init__(self, shard: Shard) -> None:
        self.name = self.node = shard.node
        self._shard = shard

    async def join_again(self, registrations: int) -> None:
        self._shard.identity.agree()

    async def look_at_clock(self) -> None:
        return
