"""herenow's Socket.IO server on its ASGI shell: plain ASGI, under uvicorn's own WebSocket implementation."""

import sys

from benchmarks.peers.herenow_server import app
from benchmarks.peers.serving import serve

if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
