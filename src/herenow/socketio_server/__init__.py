"""A complete, fast Socket.IO server for asyncio: Engine.IO v4, Socket.IO v5. It knows nothing of presence."""

from .engineio.connection import Connection, Handshake
from .engineio.engine import Engine
from .engineio.session import Reason
from .engineio.settings import EngineSettings
from .errors import BadPacket, CallTimeout, ConnectRefused, Disconnected, RequestRefused, SocketIOError
from .message import Message
from .namespace import Namespace, Reply, Socket
from .on_uvicorn.websocket import FastWebSocket
from .server import Server
from .settings import ServerSettings
from .transports.asgi import EngineApp

__all__ = [
    "BadPacket",
    "CallTimeout",
    "ConnectRefused",
    "Connection",
    "Disconnected",
    "Engine",
    "EngineApp",
    "EngineSettings",
    "FastWebSocket",
    "Handshake",
    "Message",
    "Namespace",
    "Reason",
    "Reply",
    "RequestRefused",
    "Server",
    "ServerSettings",
    "Socket",
    "SocketIOError",
]
