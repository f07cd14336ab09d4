"""Whether a Redis is one that a cluster may trust its users to: recent enough, and throwing nothing away."""

from collections.abc import Mapping
from typing import Any, Final

from herenow.errors import SettingsInvalid
from herenow.registry.redis.shard import Shard

OLDEST: Final = {"valkey": (7, 2), "redis": (6, 2)}
"""The first version of each kind that has all the commands that are used."""


async def see_that_redis_is_fit(shard: Shard) -> None:
    """Ask Redis what it is, and what it does when its memory is full.

    Raises:
        SettingsInvalid: it cannot be used; the sentence says what to change.
        RegistryUnavailable: it cannot be reached.
    """
    if (fault := fault_of(await shard.trying(lambda: shard.redis.info()))) is not None:
        raise SettingsInvalid(fault)


def fault_of(info: Mapping[str, Any]) -> str | None:
    """Say why a Redis cannot be used; ``None``: it can, or does not say.

    Args:
        info: its answer to ``INFO``. A managed one often refuses ``CONFIG GET``, and not this.
    """
    for kind, oldest in OLDEST.items():
        found = str(info.get(f"{kind}_version", ""))
        if not found:
            continue
        if tuple(int(part) if part.isdecimal() else 0 for part in found.split(".")[:2]) < oldest:
            wanted = ".".join(map(str, oldest))
            return f"the cluster's {kind.capitalize()} is version {found}, and {wanted} or later is needed"
        break  # Valkey names a version of Redis too, the one that it is like
    policy = str(info.get("maxmemory_policy", ""))
    if policy.startswith("allkeys-"):
        return (
            f"the cluster's Redis throws keys away when its memory is full (maxmemory-policy {policy}), and with them "
            "who is online: set it to noeviction"
        )
    return None
