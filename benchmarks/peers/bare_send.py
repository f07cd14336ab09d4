"""The floor: a plain loop of ``socket.send`` over raw sockets, and nothing else on the way.

No event loop, no framework, no buffering. Only the handshake and the clients' few masked frames go through the
``websockets`` library's sans-I/O ``ServerProtocol``. What a delivery costs here, it costs any Python server.
"""

import json
import secrets
import selectors
import socket
import sys
import time

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from benchmarks import wire


def text_frame(payload: bytes) -> bytes:
    """Return one unmasked, unfragmented text frame (RFC 6455, section 5.2) of a payload below 64 KiB."""
    size = len(payload)
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return head + payload


EVENT_FRAME = text_frame(wire.EVENT_PACKET)
PING_FRAME = text_frame(wire.ENGINE_PING)


class Client:
    """One connected socket and its WebSocket state."""

    __slots__ = ("sid", "sock", "websocket")

    def __init__(self, sock: socket.socket) -> None:
        # As uvloop and Node do; without it Nagle's algorithm would hold frames back and bill fewer segments.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.websocket = ServerProtocol(extensions=[])
        self.sid = secrets.token_urlsafe(15)

    def flush(self) -> None:
        """Write what the WebSocket protocol wants written; its empty chunk means end of stream."""
        for chunk in self.websocket.data_to_send():
            if chunk:
                self.sock.sendall(chunk)
            else:
                self.sock.shutdown(socket.SHUT_WR)


class BareServer:
    """Accepts, greets, and sends in a loop. Sockets are blocking and only read when the selector says so."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port), backlog=2048)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.connected: dict[socket.socket, Client] = {}

    def run(self) -> None:
        """Serve until the process is killed."""
        interval_s = wire.PING_INTERVAL_MS / 1000
        next_ping_s = time.monotonic() + interval_s
        while True:
            for key, _ in self.selector.select(max(0.0, next_ping_s - time.monotonic())):
                if key.data is None:
                    client = Client(self.listener.accept()[0])
                    self.selector.register(client.sock, selectors.EVENT_READ, client)
                else:
                    self.read(key.data)
            if time.monotonic() >= next_ping_s:
                self.send_to_all(PING_FRAME)
                next_ping_s += interval_s

    def send_to_all(self, frame: bytes) -> None:
        """Send one frame to every connected client: the loop that is the floor."""
        for sock in self.connected:
            sock.send(frame)

    def read(self, client: Client) -> None:
        """Feed the bytes that a client sent, or forget the client at the end of its stream."""
        try:
            data = client.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.selector.unregister(client.sock)
            self.connected.pop(client.sock, None)
            client.sock.close()
            return
        websocket = client.websocket
        websocket.receive_data(data)
        for event in websocket.events_received():
            if isinstance(event, Request):
                websocket.send_response(websocket.accept(event))
                websocket.send_text(self.open_packet(client.sid))
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.on_packet(client, bytes(event.data))
        client.flush()

    def on_packet(self, client: Client, packet: bytes) -> None:
        """Answer CONNECT and ``go``; a pong needs no answer."""
        if packet.startswith(wire.CONNECT):
            self.connected[client.sock] = client
            client.websocket.send_text(b'40{"sid":"%s"}' % client.sid.encode())
        elif packet.startswith(wire.EVENT):
            _, rounds = json.loads(packet.removeprefix(wire.EVENT))
            for _ in range(rounds):
                self.send_to_all(EVENT_FRAME)

    @staticmethod
    def open_packet(sid: str) -> bytes:
        """Return Engine.IO's first packet."""
        opened = {
            "sid": sid,
            "upgrades": [],
            "pingInterval": wire.PING_INTERVAL_MS,
            "pingTimeout": wire.PING_TIMEOUT_MS,
            "maxPayload": 1_000_000,
        }
        return wire.ENGINE_OPEN + json.dumps(opened).encode()


if __name__ == "__main__":
    server = BareServer(int(sys.argv[1]))
    wire.announce_ready()
    server.run()
