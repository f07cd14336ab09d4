"""The ``websockets`` library's own server and its ``broadcast``: what a developer writes who needs no Socket.IO.

The bytes on the wire are those of Socket.IO all the same. No session, no heartbeat, no namespaces. Without compression,
and without the library's own pings, as the others.
"""

import asyncio
import json
import secrets
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks import wire
from benchmarks.peers.bare_send import BareServer

connected: set[ServerConnection] = set()
EVENT = wire.EVENT_PACKET.decode()


async def handle(websocket: ServerConnection) -> None:
    """Greet, join, obey ``go``."""
    sid = secrets.token_urlsafe(15)
    await websocket.send(BareServer.open_packet(sid).decode())
    try:
        async for message in websocket:
            packet = message.encode() if isinstance(message, str) else message
            if packet.startswith(wire.CONNECT):
                connected.add(websocket)
                await websocket.send(f'40{{"sid":"{sid}"}}')
            elif packet.startswith(wire.EVENT):
                _, rounds = json.loads(packet.removeprefix(wire.EVENT))
                for _ in range(rounds):
                    broadcast(connected, EVENT)
                    await asyncio.sleep(0)
    finally:
        connected.discard(websocket)


async def main(port: int) -> None:
    """Serve until killed."""
    async with serve(handle, "127.0.0.1", port, compression=None, ping_interval=None, backlog=2048):
        wire.announce_ready()
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
