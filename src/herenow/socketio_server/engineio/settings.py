"""How the engine behaves, and what of it cannot be."""

from collections.abc import Iterable
from dataclasses import dataclass

from .addresses import parse_networks
from .session import SessionSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings(SessionSettings):
    """How the engine behaves. All times are in milliseconds, all sizes in bytes.

    Attributes:
        path: of the HTTP requests; begins and ends with ``/``. A request without the last ``/`` is served too.
        origins: which ``Origin`` headers may connect: ``"*"`` for any, a collection of origins
            (``https://app.example``), or ``None`` for the server's own origin only: that of the ``Host`` header, so
            a proxy must pass it on. A request without the header does not come from a browser's page and is allowed.
        trusted_proxies: addresses and networks whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed.
        max_sessions_per_address: more are refused with 429; ``None`` for no limit. IPv6 addresses count by their /64
            network, and this machine's own do not count.
        write_buffer_high: unsent bytes from which a connection is slow.
        write_buffer_low: unsent bytes at which it has drained.
    """

    path: str = "/engine.io/"
    origins: Iterable[str] | None = None
    trusted_proxies: Iterable[str] = ("127.0.0.0/8", "::1")
    max_sessions_per_address: int | None = None
    write_buffer_high: int = 65_536
    write_buffer_low: int = 16_384

    def __post_init__(self) -> None:
        super(EngineSettings, self).__post_init__()  # the short form fails in a dataclass with slots
        if not (self.path.startswith("/") and self.path.endswith("/")):
            raise ValueError(f"path must begin and end with '/', not {self.path!r}")
        if not 0 <= self.write_buffer_low < self.write_buffer_high:
            raise ValueError("write_buffer_low must be below write_buffer_high")
        if self.max_sessions_per_address is not None and self.max_sessions_per_address <= 0:
            raise ValueError(f"max_sessions_per_address must be above 0, not {self.max_sessions_per_address}")
        object.__setattr__(self, "trusted_proxies", tuple(self.trusted_proxies))
        parse_networks(self.trusted_proxies)
        if isinstance(self.origins, str) and self.origins != "*":
            raise ValueError(f"origins must be '*' or a collection of origins, not the string {self.origins!r}")
        if not (self.origins is None or self.origins == "*"):
            object.__setattr__(self, "origins", frozenset(self.origins))
