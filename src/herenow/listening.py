"""Notices that the server around us stops, by its listening sockets: they are closed first, whatever server it is.

An ASGI server tells an application of its end only after all requests have ended, and a stream of changes never ends
by itself. Signals are not ours to take. But uvicorn, hypercorn and granian all close their listening sockets before
they wait for anything: so these are looked for among the files of this process, and looked at from time to time.

Where another part of the process listens too, and goes on, nothing is noticed; nor on a system without ``/dev/fd``.
"""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable
from typing import Final

LOOK_EVERY_S: Final = 0.2
"""Between two looks. One costs a system call a listening socket."""

SEARCHES: Final = 25
"""So many looks are searches, while there are few files: some servers open theirs after the start of the lifespan."""


def listening_sockets(ignoring: int | None = None) -> dict[int, int]:
    """Find the listening stream sockets of this process: the inode of each, by its descriptor.

    Args:
        ignoring: the port of one that is not looked for.
    """
    found: dict[int, int] = {}
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return found
    for name in names:
        descriptor = int(name)
        with contextlib.suppress(OSError):  # it is gone by now: that of the list itself, for one
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode) and _is_listening(descriptor, ignoring):
                found[descriptor] = status.st_ino
    return found


def _is_listening(descriptor: int, ignoring: int | None) -> bool:
    copy = socket.socket(fileno=os.dup(descriptor))
    with copy:
        if copy.type != socket.SOCK_STREAM or not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        name = copy.getsockname()
        return ignoring is None or not isinstance(name, tuple) or name[1] != ignoring


def is_open(descriptor: int, inode: int) -> bool:
    """Say whether a descriptor is still that of the file which it was."""
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False


async def watch_the_server(stopping: Callable[[], None], *, ignoring: int | None = None) -> None:
    """Call ``stopping`` once the server around us has closed its listening sockets, then end.

    To be run for as long as the application serves. ``ignoring`` is the port of a socket that is not the server's.
    """
    sockets: dict[int, int] = {}
    for _ in range(SEARCHES):
        sockets |= listening_sockets(ignoring)
        if _are_closed(sockets):
            break
        await asyncio.sleep(LOOK_EVERY_S)
    if not sockets:
        return
    while not _are_closed(sockets):  # noqa: ASYNC110  # it is the server that closes them, and sets no event
        await asyncio.sleep(LOOK_EVERY_S)
    stopping()


def _are_closed(sockets: dict[int, int]) -> bool:
    """Whether there were some, and all of them are closed."""
    return bool(sockets) and not any(is_open(descriptor, inode) for descriptor, inode in sockets.items())
