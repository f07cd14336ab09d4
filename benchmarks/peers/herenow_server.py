"""The application that both herenow peers serve: they differ only in the shell that carries it."""

import asyncio

from benchmarks import wire
from herenow.socketio_server import Server, ServerSettings, Socket

server = Server(ServerSettings(ping_interval_ms=wire.PING_INTERVAL_MS, ping_timeout_ms=wire.PING_TIMEOUT_MS))
namespace = server.namespace("/")


@namespace.on("go")
async def go(socket: Socket, rounds: int) -> None:
    """Send the event ``rounds`` times to everybody."""
    for _ in range(rounds):
        namespace.emit(namespace.sockets.values(), wire.EVENT_NAME, wire.EVENT_DATA)
        await asyncio.sleep(0)


app = server.asgi_app()
