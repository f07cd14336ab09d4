"""What a peer and the load say to each other: Socket.IO v5 over Engine.IO v4, websocket only.

Both sides import these bytes, so that a delivery is right when it equals ``EVENT_PACKET`` and wrong otherwise.
"""

import json
import sys
from typing import Any, Final

PATH: Final = "/socket.io/?EIO=4&transport=websocket"

PING_INTERVAL_MS: Final = 25_000
PING_TIMEOUT_MS: Final = 20_000
"""Engine.IO's defaults. Every peer uses them, so that a heartbeat costs each the same."""

ENGINE_OPEN: Final = b"0"
ENGINE_PING: Final = b"2"
ENGINE_PONG: Final = b"3"
CONNECT: Final = b"40"
CONNECT_ERROR: Final = b"44"
EVENT: Final = b"42"

EVENT_PACKET: Final = (
    b'42["presence:diff",{"changes":[{"userId":"6565f0c1a2b3c4d5e6f70812","isOnline":true,'
    b'"lastActive":"2026-11-22T10:00:00.000Z"}]}]'
)
"""The one event that every fan-out sends: a user came online."""

EVENT_NAME: Final[str] = json.loads(EVENT_PACKET.removeprefix(EVENT))[0]
EVENT_DATA: Final[dict[str, Any]] = json.loads(EVENT_PACKET.removeprefix(EVENT))[1]


SECRET: Final = "the secret that signs the tokens of the benchmarks' users"
"""HS256, known to the load and to the presence servers."""

API_KEY: Final = "the-key-that-reads-the-metrics-of-a-node"


def go_packet(rounds: int) -> bytes:
    """Return the packet that asks a peer to send the event ``rounds`` times to everybody."""
    return b'42["go",%d]' % rounds


def announce_ready() -> None:
    """Tell the runner, on standard output, that the port now takes connections."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
