"""The least that Socket.IO's wire can cost as an ASGI application: no session, no protocol, a plain loop of ``send``.

What a delivery costs here, it costs any server under uvicorn that speaks ASGI.
"""

import asyncio
import json
import secrets
import sys
from typing import Any

from benchmarks import wire
from benchmarks.peers.bare_send import BareServer
from benchmarks.peers.serving import serve

senders: dict[str, Any] = {}
EVENT = {"type": "websocket.send", "text": wire.EVENT_PACKET.decode()}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Greet, note the sender, obey ``go``."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "websocket.accept"})
    sid = secrets.token_urlsafe(15)
    await send({"type": "websocket.send", "text": BareServer.open_packet(sid).decode()})
    while (message := await receive())["type"] == "websocket.receive":
        packet = message["text"].encode()
        if packet.startswith(wire.CONNECT):
            senders[sid] = send
            await send({"type": "websocket.send", "text": f'40{{"sid":"{sid}"}}'})
        elif packet.startswith(wire.EVENT):
            _, rounds = json.loads(packet.removeprefix(wire.EVENT))
            for _ in range(rounds):
                for each in senders.values():
                    await each(EVENT)
                await asyncio.sleep(0)
    senders.pop(sid, None)


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
