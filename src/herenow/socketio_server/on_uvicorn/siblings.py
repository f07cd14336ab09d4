"""Processes that serve one port together: each session is one process's, and what reaches another is passed on.

Whose a session is shows in its id. A request of polling is passed on by HTTP, over a socket in a directory that only
this user may enter. A WebSocket that is to take a session over is given away whole: the system hands its socket to the
other process, and this one is out of its way.
"""

import asyncio
import socket
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Final

from herenow.logs import get_logger

from ..queries import parse_query

log = get_logger("herenow.socketio")

MARKS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
"""Which process has opened a session: the first letter of its id."""

LARGEST_HEAD: Final = 131_072
"""Bytes of a request's head that are given away with its socket: more than any server takes."""

Accept = Callable[[socket.socket, bytes], object]
"""Takes a connection in, and what was read of it."""


class Siblings:
    """The processes that serve one port, as one of them sees the others.

    Args:
        directory: where their sockets are.
        number: of this one, from 0.
        many: how many they are.

    Attributes:
        mark: how the ids of this one's sessions begin.
    """

    def __init__(self, directory: Path, number: int, many: int) -> None:
        self.mark = MARKS[number]
        self._directory = directory
        self._number = number
        self._many = many
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None

    def owner_of(self, query: str) -> int | None:
        """Say which other one a request is for, by its query string; ``None``: this one, or nobody knows."""
        sid = parse_query(query).get("sid", "")
        number = MARKS.find(sid[:1]) if sid else -1
        return number if 0 <= number < self._many and number != self._number else None

    def listen(self) -> socket.socket:
        """Make the socket by which the others pass requests on.

        Raises:
            OSError: it cannot be made.
        """
        return _bind(self.http_path(self._number), socket.SOCK_STREAM)

    def http_path(self, number: int) -> Path:
        """Where one listens for requests that are passed on."""
        return self._directory / f"{number}.http"

    def _given_path(self, number: int) -> Path:
        return self._directory / f"{number}.given"

    # -- connections that are given away -------------------------------------------------------------------------------

    def begin(self, accept: Accept) -> None:
        """Take what the others give, in the running event loop."""
        self._receiver = _bind(self._given_path(self._number), socket.SOCK_DGRAM)
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        asyncio.get_running_loop().add_reader(self._receiver, self._take, self._receiver, accept)

    def end(self) -> None:
        """Take nothing more. Idempotent."""
        for each in (self._receiver, self._sender):
            if each is not None:
                if each is self._receiver:
                    asyncio.get_running_loop().remove_reader(each)
                each.close()
        self._receiver = self._sender = None

    def give(self, number: int, descriptor: int, head: bytes) -> bool:
        """Give a connection away, with what was read of it. Returns whether the other one has it now."""
        if self._sender is None or len(head) > LARGEST_HEAD:
            return False
        try:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))
            # Not by socket.send_fds, which leaves the address out.
            self._sender.sendmsg([head], [rights], 0, str(self._given_path(number)))
        except OSError:  # it is not there, or cannot keep up
            return False
        return True

    def _take(self, receiver: socket.socket, accept: Accept) -> None:
        try:
            head, descriptors, _, _ = socket.recv_fds(receiver, LARGEST_HEAD, 1)
        except BlockingIOError:
            return
        except OSError as error:  # such as that no descriptors are left
            log.warning("a connection could not be taken over", error=str(error))
            return
        for descriptor in descriptors:
            accept(socket.socket(fileno=descriptor), head)


def _bind(path: Path, kind: socket.SocketKind) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        made.setblocking(False)
        made.bind(str(path))
        if kind is socket.SOCK_STREAM:
            made.listen(2048)
    except BaseException:
        made.close()
        raise
    return made
