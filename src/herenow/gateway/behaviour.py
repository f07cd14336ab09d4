"""How the Socket.IO server behaves, by the settings."""

from herenow.settings import Settings
from herenow.socketio_server import ServerSettings


def server_settings(settings: Settings, path: str) -> ServerSettings:
    """Say how it behaves, at a path."""
    return ServerSettings(
        path=path,
        origins="*" if settings.dev else settings.origins,
        ping_interval_ms=round(settings.ping_interval_s * 1000),
        ping_timeout_ms=round(settings.ping_timeout_s * 1000),
        max_payload=settings.max_payload,
        trusted_proxies=settings.trusted_proxies,
        max_sessions_per_address=settings.max_connections_per_address,
        connect_timeout_ms=round(settings.connect_timeout_s * 1000),
        greeting_ms=0,  # presence:ready goes with the CONNECT: who waits for it registers before (docs/wire.md)
        write_buffer_high=settings.write_buffer_high,
        write_buffer_low=settings.write_buffer_high // 4,
    )
