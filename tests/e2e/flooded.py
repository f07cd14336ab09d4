"""The server that the floods run against: it echoes, and says how many sessions it has.

python -m e2e.flooded --port 3000 --shell fast
"""

import argparse
import ctypes
import gc

import uvicorn

from herenow.socketio_server import FastWebSocket, Server, ServerSettings, Socket


def tidy(socket: Socket) -> None:
    """Give free memory back to the kernel, so that what the process still has is what it still uses."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--shell", choices=("fast", "asgi"), required=True)
    parser.add_argument("--connect-timeout-ms", type=int, default=2_000)
    options = parser.parse_args()
    server = Server(
        ServerSettings(ping_interval_ms=5_000, ping_timeout_ms=60_000, connect_timeout_ms=options.connect_timeout_ms)
    )
    namespace = server.namespace("/")
    namespace.on("echo")(lambda socket, *args: args)
    namespace.on("sessions")(lambda socket: len(server.engine.connections))
    namespace.on("tidy")(tidy)
    uvicorn.run(
        server.asgi_app(),
        port=options.port,
        ws=FastWebSocket if options.shell == "fast" else "auto",
        ws_ping_interval=None,
        access_log=False,
        log_level="warning",
        backlog=16_384,
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
