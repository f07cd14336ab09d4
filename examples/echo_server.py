"""What the two echo examples share: their options, and uvicorn with the shell that was asked for."""

import argparse

import uvicorn

from herenow.socketio_server import EngineApp, FastWebSocket


def parse_options(description: str | None) -> argparse.Namespace:
    """Parse the options of an echo example."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--ping-interval-ms", type=int, default=300)
    parser.add_argument("--ping-timeout-ms", type=int, default=200)
    parser.add_argument("--max-payload", type=int, default=1_000_000)
    parser.add_argument("--connect-timeout-ms", type=int, default=1_000, help="Socket.IO only")
    parser.add_argument("--shell", choices=("fast", "asgi"), default="fast")
    return parser.parse_args()


def run(app: EngineApp, options: argparse.Namespace) -> None:
    """Serve until interrupted."""
    uvicorn.run(
        app,
        port=options.port,
        ws=FastWebSocket if options.shell == "fast" else "auto",
        # Engine.IO has a heartbeat of its own, and presence events are too small to be worth compressing.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )
