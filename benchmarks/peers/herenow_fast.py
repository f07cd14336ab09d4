"""herenow's Socket.IO server on its fast shell: uvicorn with herenow's own WebSocket protocol class."""

import sys

from benchmarks.peers.herenow_server import app
from benchmarks.peers.serving import serve
from herenow.socketio_server import FastWebSocket

if __name__ == "__main__":
    serve(app, int(sys.argv[1]), ws=FastWebSocket)
