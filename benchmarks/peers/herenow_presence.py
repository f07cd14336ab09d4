"""herenow itself, as `herenow serve --dev` runs it: presence on the fast WebSocket, MongoDB behind it."""

import os
import sys

import structlog
from fastapi import FastAPI

from benchmarks import wire
from benchmarks.peers.serving import serve
from herenow import Presence
from herenow.socketio_server import FastWebSocket

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))  # warnings, as the peers log

app = FastAPI()
presence = Presence(
    os.environ["BENCH_MONGO_URL"],
    dev=True,
    ping_interval_s=wire.PING_INTERVAL_MS / 1000,
    ping_timeout_s=wire.PING_TIMEOUT_MS / 1000,
)
presence.mount(app)

if __name__ == "__main__":
    serve(app, int(sys.argv[1]), ws=FastWebSocket)
