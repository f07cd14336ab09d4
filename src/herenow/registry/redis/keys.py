"""The names of the keys in Redis. All of a shard have its hash tag, so that a commit touches one slot of a cluster."""

from typing import Final

NO_TENANT: Final = ""
"""How the tenant of those who have none is written."""


class Keys:
    """The keys of one shard.

    Args:
        prefix: of all keys of one herenow, so that several may share a Redis.
        shard: its number.
    """

    def __init__(self, prefix: str, shard: int = 0) -> None:
        self._base = f"{{{prefix}:{shard}}}"
        self.log = f"{self._base}:log"
        self.sequence = f"{self._base}:sequence"
        self.skew = f"{self._base}:skew"

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
