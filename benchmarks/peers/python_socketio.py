"""python-socketio's ``AsyncServer`` under uvicorn: what a Python developer would reach for."""

import asyncio
import sys

# python-socketio carries no type information.
import socketio

from benchmarks import wire
from benchmarks.peers.serving import serve

server = socketio.AsyncServer(
    async_mode="asgi",
    transports=["websocket"],
    ping_interval=wire.PING_INTERVAL_MS / 1000,
    ping_timeout=wire.PING_TIMEOUT_MS / 1000,
    http_compression=False,
)


async def go(sid: str, rounds: int) -> None:
    """Send the event ``rounds`` times to everybody."""
    for _ in range(rounds):
        await server.emit(wire.EVENT_NAME, wire.EVENT_DATA)
        await asyncio.sleep(0)


server.on("go", go)

if __name__ == "__main__":
    serve(socketio.ASGIApp(server), int(sys.argv[1]))
