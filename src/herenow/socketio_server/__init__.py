"""A complete, fast Socket.IO server for asyncio: Engine.IO v4, Socket.IO v5. It knows nothing of presence."""

from .asgi import EngineApp
from .engine import Connection, Engine, EngineSettings, Handshake
from .errors import BadPacket, CallTimeout, ConnectRefused, Disconnected, RequestRefused, SocketIOError
from .message import Message
from .namespace import Namespace, Reply, Socket
from .server import Server, ServerSettings
from .session import Reason
from .websocket import FastWebSocket

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
