"""The promises in figures, computed from the live settings: what clients are told, and what is measured."""

from herenow.settings import Settings


def bounds_ms(settings: Settings) -> dict[str, int]:
    """What clients are told, in milliseconds; the names are those of the wire."""
    return {
        "offlineWithinMs": round(settings.offline_within_s * 1000),
        "silentLossMs": round(settings.silent_loss_s * 1000),
        "restartMs": round(settings.restart_grace_s * 1000),
    }


def bounds_s(settings: Settings) -> dict[str, float]:
    """The bounds of the promises whose times are measured, in seconds; see :mod:`herenow.metering`."""
    return {
        "connect": 0.1,
        "closed": settings.offline_within_s,
        "left": 0.1,
        "silent": settings.silent_loss_s,
    }
