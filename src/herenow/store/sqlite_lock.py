"""A lock file beside the database: two local servers can never both own it, whatever the clocks say.

The operating system lets go of the lock when the process ends, however it ends. The file itself stays: to remove it
would let one process lock the old file and another a new one.
"""

import errno
import os
import sys
from pathlib import Path

import msgspec

from herenow.errors import StoreNotWritable
from herenow.store.nodes import Node
from herenow.store.sqlite_errors import describe

if sys.platform != "win32":
    import fcntl


class LockFile:
    """The lock of one database, with the node that holds it written inside, for the message to the second one."""

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(f"{database.name}-lock")
        self._file: int | None = None

    @property
    def proves(self) -> bool:
        """Whether this process holds a lock which proves that no other server of this machine lives."""
        return self._file is not None and sys.platform != "win32"

    def acquire(self, node: Node) -> bool:
        """Take the lock for a node, without waiting. Returns whether this process holds it now.

        Raises:
            StoreNotWritable: the file cannot be made.
        """
        if self._file is not None:
            return True
        try:
            file = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise StoreNotWritable(str(self.path), describe(error)) from error
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            _sign(file, node)
        except BlockingIOError:
            os.close(file)
            return False
        except OSError as error:
            os.close(file)
            raise StoreNotWritable(str(self.path), describe(error)) from error
        self._file = file
        return True

    def release(self) -> None:
        """Let the lock go. Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def holder(self) -> Node | None:
        """Read which node took the lock last; ``None`` if the file does not say."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Node)
        except (OSError, msgspec.MsgspecError):
            return None


def _sign(file: int, node: Node) -> None:
    """Write down who holds the lock. It holds without: a disk that is full must keep no server from starting."""
    try:
        os.write(file, msgspec.json.encode(node))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
