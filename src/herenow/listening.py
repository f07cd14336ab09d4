"""Notices that the server around us stops, by its listening sockets: they are closed first, whatever server it is.

An ASGI server tells an application of its end only after all requests have ended, and a stream of changes never ends
by itself. Signals are not ours to take. But uvicorn, hypercorn and granian all close their listening sockets before
they wait for anything: so these are looked for among the files of this process, and looked at from time to time.

Another part of the process may listen too, for a moment or for good: only a socket counts through which a request came
to us. On a system without ``/dev/fd`` nothing is noticed.
"""

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable
from typing import Any, Final

LOOK_EVERY_S: Final = 0.2
"""Between two looks. One costs a system call a listening socket."""

SEARCH_EVERY_S: Final = 0.04
"""Between two looks until the first socket is there. uvicorn is open for 0.1 s at least before it closes its own."""

SEARCH_FOR_S: Final = 5.0
"""So long each look is a search, while there are few files: some servers open theirs after the start of the lifespan,
and one by one."""

Place = int | str
"""Where a socket listens: its port, or the path of a Unix socket."""


class Listening:
    """The listening sockets of this process, and through which of them requests come to us."""

    def __init__(self) -> None:
        self._found: dict[Place, dict[int, int]] = {}  # where they listen: the inode of each, by its descriptor
        self._heard: set[Place] = set()
        self._not_the_servers: set[Place] = set()

    def ignore(self, place: Place) -> None:
        """Let a socket not count: it is not the server's."""
        self._not_the_servers.add(place)

    def heard_on(self, server: Any) -> None:
        """Note through which socket a request has come.

        Args:
            server: the server's own end, as in an ASGI scope: host and port, or a path and ``None``; or a path alone.
        """
        place = _place_of(server)
        if place is not None and place not in self._heard:
            self._heard.add(place)
            if place not in self._found:
                self.search()

    def search(self) -> None:
        """Look for listening sockets among the files of the process."""
        try:
            names = os.listdir("/dev/fd")
        except OSError:
            return
        for descriptor in map(int, names):
            with contextlib.suppress(OSError):  # it is gone by now: that of the list itself, for one
                status = os.fstat(descriptor)
                if stat.S_ISSOCK(status.st_mode) and (place := _listens_at(descriptor)) is not None:
                    self._found.setdefault(place, {})[descriptor] = status.st_ino

    async def watch(self, stopping: Callable[[], None]) -> None:
        """Call ``stopping`` once the server around us has closed its listening sockets, then end.

        To be run for as long as the application serves.
        """
        searches_until_s = time.monotonic() + SEARCH_FOR_S
        while not self._are_closed():
            if time.monotonic() < searches_until_s:
                self.search()
            await asyncio.sleep(LOOK_EVERY_S if self._found else SEARCH_EVERY_S)
        stopping()

    def _are_closed(self) -> bool:
        """Whether requests came through some, and all of those are closed."""
        places = self._heard - self._not_the_servers
        ours = [each for place in places for each in self._found.get(place, {}).items()]
        return bool(ours) and not any(_is_open(descriptor, inode) for descriptor, inode in ours)


def _place_of(server: Any) -> Place | None:
    if isinstance(server, str):
        return server
    if not isinstance(server, tuple | list) or len(server) < 2:
        return None
    host, port = server[:2]
    place = host if port is None else port
    if isinstance(port, str) and port.isdecimal():  # as granian has it
        return int(port)
    return place if isinstance(place, int | str) else None


def _listens_at(descriptor: int) -> Place | None:
    copy = socket.socket(fileno=os.dup(descriptor))
    with copy:
        if copy.type != socket.SOCK_STREAM or not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        return _place_of(copy.getsockname())


def _is_open(descriptor: int, inode: int) -> bool:
    """Say whether a descriptor is still that of the file which it was."""
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False
