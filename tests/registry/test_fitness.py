"""Which Redis is refused, by what it says of itself."""

import pytest

from herenow.registry.redis.fitness import fault_of


@pytest.mark.parametrize(
    ("info", "fault"),
    [
        ({"redis_version": "6.2.0", "maxmemory_policy": "noeviction"}, None),
        ({"redis_version": "7.0.15", "maxmemory_policy": "volatile-lru"}, None),
        ({"redis_version": "10.0.1"}, None),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.0"}, None),
        ({}, None),
        ({"redis_version": "6.0.16"}, "Redis is version 6.0.16, and 6.2 or later"),
        ({"redis_version": "255.255.255", "valkey_version": "7.1"}, "Valkey is version 7.1, and 7.2 or later"),
        ({"redis_version": "7.0.15", "maxmemory_policy": "allkeys-lfu"}, "(maxmemory-policy allkeys-lfu)"),
    ],
)
def test_what_cannot_be_used_is_named(info: dict[str, str], fault: str | None) -> None:
    """No key of ours expires: a policy that throws away only those that do throws nothing away."""
    found = fault_of(info)
    assert (found is None) == (fault is None)
    assert fault is None or fault in (found or "")
