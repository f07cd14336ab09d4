"""The state file: by it a server tells the commands of its own user that it lives, where, and lets them in.

It is asked before the database is, so a server is found while its database is away, under whatever name its database
has. It lies wherever a command may look, and each time it is the same file:

- in its user's own directory for such things, ``$XDG_STATE_HOME/herenow`` or ``~/.local/state/herenow``, one file for
  each server, from the moment at which it starts until it has ended;
- beside a SQLite database, from the moment at which that is the server's own: there root finds it too, and a service
  that has no home.

Whoever reads one believes it only if it is of this user (for root: of the owner of the directory), and if the process
that it names runs here: by its id, its start and the boot of the machine. One that was left behind by ``kill -9`` is
removed where that is certain.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from herenow.settings import Settings, sqlite_path
from herenow.store.address import identity_of
from herenow.store.nodes import Node, is_gone, node_process, runs_here

LARGEST = 65_536
"""Bytes that are read of a file which somebody else may have put there."""

Phase = Literal["starting", "serving", "stopping"]


class ServerState(msgspec.Struct, frozen=True):
    """A running server, as it says itself.

    Attributes:
        node: its name, process and machine; as its row in the store says, once it has one.
        database: which database, in the one form that the same one always has (:func:`identity_of`).
        directory: where it was started, and had its ``herenow.toml`` from.
        phase: whether it may be asked.
        address: where the commands ask it; empty where it does not answer yet, or cannot.
        token: what lets them in.
        waits_for: why it does not serve yet, as a sentence; of one that serves, why it was not renewed.
        is_renewed_by_signal: whether SIGHUP renews it; an application might end of it.
    """

    node: Node
    database: str
    directory: str
    phase: Phase
    address: str
    token: str
    waits_for: str | None = None
    is_renewed_by_signal: bool = False


def state_directory() -> Path | None:
    """Say where this user's state files are; ``None`` for a user without a home."""
    home = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))
    return home / "herenow" if home.is_absolute() else None


def beside(database: str) -> Path | None:
    """Say where the state file beside a SQLite database is; ``None`` for another database."""
    path = sqlite_path(database)
    return None if path is None else path.absolute().with_name(f"{path.name}-server")


class StateFile:
    """The state file of one server, at all its places.

    Args:
        settings: say which database it is.
    """

    def __init__(self, settings: Settings) -> None:
        self._database = identity_of(settings.database, settings.users_collection)
        self._beside = beside(settings.database)
        self._is_alone = settings.cluster is None
        self.is_renewed_by_signal = False
        self._own: Path | None = None
        self._last: ServerState | None = None

    def write(
        self, node: Node, phase: Phase, *, address: str = "", token: str = "", waits_for: str | None = None
    ) -> None:
        """Say how the server is: whole or not at all, and never readable by others, not even for a moment.

        Raises:
            OSError: it could be written at none of its places.
        """
        state = ServerState(
            node, self._database, str(Path.cwd()), phase, address, token, waits_for, self.is_renewed_by_signal
        )
        errors = [error for path in self._places(phase) if (error := _written(path, state)) is not None]
        self._last = state
        if errors and len(errors) == len(self._places(phase)):
            raise errors[0]

    def _places(self, phase: Phase) -> list[Path]:
        directory = state_directory()
        if self._own is None and directory is not None:
            # A process may have several servers; and containers that share a home have the same process ids.
            self._own = directory / f"{os.getpid()}-{secrets.token_hex(4)}.json"
        # Until it serves, another server may live on the same database; when it stops, that may have been taken over.
        is_owner = phase == "serving" or (phase == "stopping" and self._is_ours_beside())
        return [place for place in (self._own, self._beside if is_owner else None) if place is not None]

    def _is_ours_beside(self) -> bool:
        found = None if self._beside is None else read(self._beside)
        return found is not None and self._last is not None and found.token == self._last.token

    def claim(self) -> None:
        """Remove what dead servers of the same database left behind: one serves it, or the nodes of one cluster do."""
        for path, state in _states():
            is_of_code_before = state.node.pid == os.getpid() and state.node.process == node_process()
            if path == self._own or state.database != self._database:
                continue
            if not self._is_alone and not is_of_code_before and not is_gone(state.node):
                continue
            if state.phase != "starting" or is_of_code_before:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove it, where it is still ours.

        Raises:
            OSError: it cannot be removed.
        """
        if self._own is not None:
            self._own.unlink(missing_ok=True)
        if self._beside is not None and self._is_ours_beside():
            self._beside.unlink(missing_ok=True)


def running_servers(database: str) -> Iterator[ServerState]:
    """Find the servers that run here and let this user's commands in, each once.

    Args:
        database: the address of a database, beside which one may say so too.
    """
    seen: set[tuple[Node, str]] = set()
    for path, state in _states(beside(database)):
        key = (state.node, state.database)
        if runs_here(state.node):
            if key not in seen:
                seen.add(key)
                yield state
        elif is_gone(state.node):
            try:
                path.unlink(missing_ok=True)
            except OSError:
                continue  # whoever may remove it will


def _states(*more: Path | None) -> Iterator[tuple[Path, ServerState]]:
    directory = state_directory()
    try:
        paths = [] if directory is None else sorted(directory.glob("*.json"))
    except OSError:
        paths = []
    for path in (*more, *paths):
        state = None if path is None else read(path)
        if path is not None and state is not None:
            yield path, state


def read(path: Path) -> ServerState | None:
    """Read a state file; ``None`` if there is none, or none to be believed."""
    try:
        # A link may lead anywhere, and a pipe would keep the reader waiting.
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    try:
        if not _is_ours(os.fstat(file), path):
            return None
        return msgspec.json.decode(os.read(file, LARGEST), type=ServerState)
    except (OSError, msgspec.MsgspecError):
        return None
    finally:
        os.close(file)


def _is_ours(status: os.stat_result, path: Path) -> bool:
    if not stat.S_ISREG(status.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows, where the directory's own rights decide
        return True
    me = os.geteuid()
    return status.st_uid == me or (me == 0 and status.st_uid == path.parent.stat().st_uid)


def _written(path: Path, state: ServerState) -> OSError | None:
    """Write a file by way of a draft; return what was against it."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(msgspec.json.encode(state))
        os.replace(draft, path)
    except OSError as error:
        try:
            draft.unlink(missing_ok=True)
        except OSError:
            return error
        return error
    return None
