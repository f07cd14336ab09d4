"""herenow itself, as `herenow serve` runs it, with a word when it takes connections: JWT, registry and store.

``--dev`` believes whoever names a user, as the seed's design does. The database is in ``BENCH_DATABASE``. It logs from
warnings on, as the other peers do.
"""

import os
import socket
import sys
from typing import Any

from benchmarks import wire
from herenow.cli import output, server
from herenow.settings import Settings


class AnnouncingServer(server._Server):
    """The product's own, that says ``ready``."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then announce."""
        await super().startup(sockets)
        wire.announce_ready()


def run(announcing: type[server._Server], **settings: Any) -> int:
    """Serve until killed; the port is the last argument."""
    # What a person would read at the start is not what the runner waits for.
    output.out.file = open(os.devnull, "w", encoding="utf-8")
    server._Server = announcing  # type: ignore[misc]  # a class in the place of a class: only so it can announce
    dev = "--dev" in sys.argv
    return server.run(
        Settings.load(
            database=os.environ["BENCH_DATABASE"],
            port=int(sys.argv[-1]),
            dev=dev or None,
            jwt_secret=None if dev else wire.SECRET,
            ping_interval_s=wire.PING_INTERVAL_MS / 1000,
            ping_timeout_s=wire.PING_TIMEOUT_MS / 1000,
            **settings,
        ),
        page=None,
        log_level="warning",
    )


if __name__ == "__main__":
    sys.exit(run(AnnouncingServer))
