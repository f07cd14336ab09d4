"""A lock file beside the database: two local servers can never both own it, whatever the clocks say.

The operating system lets go of the lock when the process ends, however it ends. The file itself stays: to remove it
would let one process lock the old file and another a new one. If somebody removes it all the same, the owner puts a new
one in its place with its next beat; or finds there that of its successor, who does not wait for one that stands still.
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from herenow.errors import StoreNotWritable
from herenow.store.nodes import Node
from herenow.store.sqlite.errors import describe

if sys.platform != "win32":
    import fcntl


_TRIES = 3
_TRY_AGAIN_S = 0.01
"""Who only asks whether somebody has the lock takes it for a moment, together with all who ask."""


class LockFile:
    """The lock of one database, with the node that holds it written inside, for the message to the second one."""

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(f"{database.name}-lock")
        self._file: int | None = None

    @property
    def proves(self) -> bool:
        """Whether this process holds a lock which proves that no other server of this machine lives."""
        return self._file is not None and sys.platform != "win32"

    def acquire(self, node: Node, succeeds: Callable[[Node], bool] | None = None) -> bool:
        """Take the lock for a node, without waiting. Returns whether this process holds it now.

        Args:
            node: who takes it.
            succeeds: says of whoever holds it that this node follows them, be they dead or not.

        Raises:
            StoreNotWritable: the file cannot be made.
        """
        if self._file is not None:
            return True
        for _ in range(_TRIES):
            self._file = self._try(node)
            if self._file is not None:
                return True
            time.sleep(_TRY_AGAIN_S)
        if succeeds is None or (holder := self.holder()) is None or not succeeds(holder):
            return False
        self._remove()
        self._file = self._try(node)
        return self._file is not None

    def renew(self, node: Node) -> bool:
        """Put the lock file of a node that has it back in its place, if somebody removed it. Returns as ``acquire``.

        Raises:
            StoreNotWritable: the file cannot be made.
        """
        if self._file is None or self._is_in_place(self._file):
            return True
        removed, self._file = self._file, self._try(node)
        if self._file is None:
            self._file = removed  # of no worth, but to be closed
            return False
        os.close(removed)
        return True

    def is_held(self) -> bool | None:
        """Say whether another process has the lock; ``None`` where that cannot be known."""
        if sys.platform == "win32":
            return None
        try:
            file = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
        finally:
            os.close(file)
        return False

    def _remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreNotWritable(str(self.path), describe(error)) from error

    def _try(self, node: Node) -> int | None:
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
            return None
        except OSError as error:
            os.close(file)
            raise StoreNotWritable(str(self.path), describe(error)) from error
        return file

    def _is_in_place(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False
        except OSError:
            return True  # the directory cannot be looked into: whoever else comes cannot make another one either

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
