"""What the settings mean for a registry, be it of one process or of a cluster."""

from typing import TypedDict

from herenow.settings import Settings

LOG_CAPACITY = 65_536
TENANT_LOG_CAPACITY = 8_192
"""Changes kept for a ``since``: of no tenant, at most 16 MB; of each tenant, at most 2 MB."""


class Times(TypedDict):
    """How long things last, as the arguments of a registry."""

    grace_ms: int
    idle_after_ms: int | None
    last_active_granularity_ms: int


def policy_of(settings: Settings) -> Times:
    """Say how long things last."""
    return {
        "grace_ms": round(settings.grace_s * 1000),
        "idle_after_ms": None if settings.idle_after_s is None else round(settings.idle_after_s * 1000),
        "last_active_granularity_ms": round(settings.last_active_granularity_s * 1000),
    }


def log_capacity(tenant: str | None) -> int:
    """Say how many changes are kept for a tenant."""
    return LOG_CAPACITY if tenant is None else TENANT_LOG_CAPACITY
