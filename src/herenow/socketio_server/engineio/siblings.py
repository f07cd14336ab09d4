"""What an engine knows of other processes that serve the same port: each session is one process's."""

from pathlib import Path
from typing import Protocol


class Siblings(Protocol):
    """The others, as one of them sees them; see :mod:`herenow.socketio_server.on_uvicorn.siblings`."""

    mark: str
    """How the ids of this one's sessions begin."""

    def owner_of(self, query: str) -> int | None:
        """Say which other one a request is for, by its query string; ``None``: this one, or nobody knows."""
        ...

    def http_path(self, number: int) -> Path:
        """Where one listens for requests that are passed on."""
        ...

    def give(self, number: int, descriptor: int, head: bytes) -> bool:
        """Give a connection away, with what was read of it. Returns whether the other one has it now."""
        ...
