"""The names of the keys in Redis. All of a shard have its hash tag, so that a commit touches one slot of a cluster."""

from typing import Final

NO_TENANT: Final = ""
"""How the tenant of those who have none is written."""


class Keys:
    """The keys of one shard.

    Args:
        prefix: of all keys of one herenow, so that several may share a Redis.
        shard: its number.
        shards: how many there are: with another number, the tenants would be divided in another way.

    Attributes:
        log: what every commit has said.
        sequence: how many entries it had: who misses one sees it.
        skew: milliseconds to add to the time of Redis.
        nodes: of each node that is a member what it says of itself: who is none commits nothing.
        beats: of each node how often it has said that it lives.
        lost: nodes that were given up, and whose users are being looked after.
        leader: which node keeps the store.
        generation: which Redis process the nodes have agreed on, and the entry of the log with which they did.
        filled: whether the users that the store had are here: ``yes``; or ``left``: they are, but all nodes have left,
            and the store was told that nobody is online.
        cursor: up to which entry of the log the store has all.
        tenants: those that have ever had a user here.
        id: what tells this cluster from all others.
        every: what the names of all of them match, and no other.
    """

    def __init__(self, prefix: str, shard: int = 0, shards: int = 1) -> None:
        self._base = f"{{{prefix}:{shard}}}" if shards == 1 else f"{{{prefix}:{shard}/{shards}}}"
        self.log = f"{self._base}:log"
        self.sequence = f"{self._base}:sequence"
        self.skew = f"{self._base}:skew"
        self.nodes = f"{self._base}:nodes"
        self.beats = f"{self._base}:beats"
        self.lost = f"{self._base}:lost"
        self.leader = f"{self._base}:leader"
        self.generation = f"{self._base}:generation"
        self.filled = f"{self._base}:filled"
        self.cursor = f"{self._base}:cursor"
        self.tenants = f"{self._base}:tenants"
        self.id = f"{self._base}:id"
        self.every = f"{self._base}:*"

    def outcomes(self, node: str) -> str:
        """What became of a node's last commit of each tenant."""
        return f"{self._base}:outcomes:{node}"

    def users(self, tenant: str) -> str:
        """The state of each user."""
        return f"{self._base}:t:{tenant}:users"

    def due(self, tenant: str) -> str:
        """When something falls due, of whom."""
        return f"{self._base}:t:{tenant}:due"

    def order(self, tenant: str) -> str:
        """Who is online, by last activity."""
        return f"{self._base}:t:{tenant}:order"

    def counts(self, tenant: str) -> str:
        """How many there are."""
        return f"{self._base}:t:{tenant}:counts"

    def version(self, tenant: str) -> str:
        """The last version that was given out."""
        return f"{self._base}:t:{tenant}:version"

    def on(self, tenant: str, node: str) -> str:
        """Whom a node serves."""
        return f"{self._base}:t:{tenant}:on:{node}"
