"""How every ASGI peer is served: uvicorn on uvloop and httptools, without what costs and nobody asked for."""

import asyncio
import gc
import socket
from typing import Any

import uvicorn

from benchmarks.wire import announce_ready


class AnnouncingServer(uvicorn.Server):
    """A uvicorn server that says ``ready`` when its port takes connections, not earlier."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, then announce."""
        await super().startup(sockets)
        # What is loaded by now lives for ever: later collections need not walk it. The same for every Python peer.
        gc.collect()
        gc.freeze()
        announce_ready()


def serve(app: Any, port: int, *, ws: str | type[asyncio.Protocol] = "websockets-sansio") -> None:
    """Serve ``app`` on 127.0.0.1 until the process is killed.

    Args:
        app: the ASGI application (``Any``: python-socketio's has no types).
        port: the TCP port.
        ws: the name of uvicorn's WebSocket implementation, the fastest of its own by default, or a protocol class.
    """
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws=ws,
        # Engine.IO has its own heartbeat: a second one below it would only cost.
        ws_ping_interval=None,
        ws_ping_timeout=None,
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
    )
    AnnouncingServer(config).run()
