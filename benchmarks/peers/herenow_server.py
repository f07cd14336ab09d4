"""The application that both herenow peers serve: they differ only in the shell that carries it."""

import asyncio

from benchmarks import wire
from herenow.socketio_server import Server, Socket

server = Server(
    path="/socket.io/",
    ping_interval_ms=wire.PING_INTERVAL_MS,
    ping_timeout_ms=wire.PING_TIMEOUT_MS,
)
namespace = server.namespace("/")
connected: set[Socket] = set()


@namespace.on("connect")
def connect(socket: Socket, auth: object) -> None:
    """Remember a recipient."""
    connected.add(socket)


@namespace.on("disconnect")
def disconnect(socket: Socket, reason: str) -> None:
    """Forget a recipient."""
    connected.discard(socket)


@namespace.on("go")
async def go(socket: Socket, rounds: int) -> None:
    """Send the event ``rounds`` times to everybody."""
    for _ in range(rounds):
        namespace.emit_many(connected, wire.EVENT_NAME, wire.EVENT_DATA)
        await asyncio.sleep(0)


app = server.asgi_app()
