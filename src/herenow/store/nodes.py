"""Nodes: which server owns a store, and what can be seen of it.

A node writes one row and renews its beat in it. Who looks at the row judges by ``liveness.py``; of the process itself
this much can be known:

A process can be looked at only from the same boot of the same machine in the same process-id namespace; elsewhere the
same number means another process. Its start time tells it from a later one that was given the same number. So a restart
after ``kill -9`` need not wait for the lease.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec

from herenow.errors import StoreInUse
from herenow.times import LATEST_MS

LONGEST_LEASE_MS = 3_600_000
"""A lease is an hour at most: a row that claims more was not written by a server."""

_Moment = Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]


class Node(msgspec.Struct, frozen=True):
    """One running server process, as its row in the store says.

    Attributes:
        name: what the node is called; unique among those that live.
        epoch: its start stamp: the same name with another epoch is another process.
        host: the machine's name, for people.
        pid: its process id on that machine.
        process: what tells this process from any other that ever had its id; empty where the system does not say.
        address: where its HTTP is, as in ``http://127.0.0.1:8000``.
        started_ms: when it started, by its own clock.
        beat_ms: when it last said that it lives: in the row, by the clock of the database, which stamps it; of a node
            that a store has read, by the clock of who looks.
        lease_ms: how long after a beat it still counts as living; 0 once it has given the store up.
    """

    name: str
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    host: str
    pid: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    process: str
    address: str
    started_ms: _Moment
    beat_ms: _Moment
    lease_ms: Annotated[int, msgspec.Meta(ge=0, le=LONGEST_LEASE_MS)]

    @classmethod
    def here(cls, *, name: str, epoch: int, address: str, now_ms: int, lease_ms: int) -> Self:
        """Describe this very process as a node that starts now."""
        return cls(
            name=name,
            epoch=epoch,
            host=socket.gethostname(),
            pid=os.getpid(),
            process=node_process(),
            address=address,
            started_ms=now_ms,
            beat_ms=now_ms,
            lease_ms=lease_ms,
        )


class Sighting(msgspec.Struct, frozen=True):
    """A node as a store has it at some moment.

    Attributes:
        node: its row, with the beat told by the clock of who looks.
        age_ms: how long ago it beat, by the clock of the database; below 0 for a beat from the future.
        stamp: the beat as the row has it: another one is another beat.
    """

    node: Node
    age_ms: int
    stamp: int

    @property
    def is_fresh(self) -> bool:
        """Whether the beat is within its lease, and the process not known to be gone."""
        return 0 <= self.age_ms < self.node.lease_ms and not is_gone(self.node)


class Damage(msgspec.Struct, frozen=True):
    """A row of a server that somebody made unreadable: what is wrong with it, as a clause, and all that it holds."""

    clause: str
    holds: str


class Roll(msgspec.Struct, frozen=True):
    """The servers that a store knows of, at some moment: one, unless somebody wrote into their rows by hand.

    Attributes:
        sightings: the latest beat first; with who gave the store up, where that leaves a row.
        damaged: rows that cannot be read.
        is_removed: nothing is there, though every server leaves a row behind: somebody removed it.
    """

    sightings: tuple[Sighting, ...] = ()
    damaged: tuple[Damage, ...] = ()
    is_removed: bool = False

    @property
    def nodes(self) -> list[Node]:
        """Those that have not given the store up."""
        return [sighting.node for sighting in self.sightings if sighting.node.lease_ms]

    @property
    def complaints(self) -> list[str]:
        """What is wrong with the rows, a clause each."""
        removed = ["the row of the server was removed"] if self.is_removed else []
        return removed + [f"the row of a server is damaged: {damage.clause}" for damage in self.damaged]


def read_roll(rows: Iterable[Mapping[str, Any]], *, database_ms: int, here_ms: int, is_removed: bool = False) -> Roll:
    """Read the rows of the servers.

    Args:
        rows: each by the names of a node's fields; others are left alone.
        database_ms: the moment of the look, by the clock that stamps the beats.
        here_ms: the same moment by the clock of who looks.
        is_removed: whether it means something that there are none.
    """
    sightings: list[Sighting] = []
    damaged: list[Damage] = []
    for row in rows:
        try:
            node = msgspec.convert(dict(row), Node)
        except msgspec.ValidationError as error:
            damaged.append(Damage(str(error), repr(sorted(row.items(), key=lambda item: item[0]))))
            continue
        age_ms = database_ms - node.beat_ms
        seen_ms = min(max(0, here_ms - age_ms), LATEST_MS)
        sightings.append(Sighting(msgspec.structs.replace(node, beat_ms=seen_ms), age_ms, node.beat_ms))
    sightings.sort(key=lambda sighting: sighting.stamp, reverse=True)
    return Roll(tuple(sightings), tuple(damaged), is_removed)


def is_same(one: Node, other: Node) -> bool:
    """Say whether two rows are of the same life of the same server."""
    return (one.name, one.epoch) == (other.name, other.epoch)


def is_of_same_process(one: Node, other: Node) -> bool:
    """Say whether two rows were written by the same server, though somebody gave one of them another name or epoch."""
    return (one.host, one.pid, one.process, one.started_ms) == (other.host, other.pid, other.process, other.started_ms)


def is_running(node: Node) -> bool:
    """Say whether the node's process can be seen, runs, and is not this one. ``False`` where it cannot be known."""
    return node.pid != os.getpid() and node.process != "" and _identity(node.pid) == node.process


def is_gone(node: Node) -> bool:
    """Say whether it is certain that the node's process has ended. ``False`` where it cannot be known."""
    namespace = _namespace()
    if namespace:
        return node.process.startswith(f"{namespace}/") and _identity(node.pid) != node.process
    if sys.platform == "win32" or node.host != socket.gethostname():  # on Windows, os.kill(pid, 0) is not a question
        return False
    try:
        os.kill(node.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def runs_here(node: Node) -> bool:
    """Say whether the node's process runs where this one does, as far as the system tells."""
    if node.host != socket.gethostname() or is_gone(node):
        return False
    return node.process == (_identity(node.pid) or "")


def in_use(database: str, owner: Node) -> StoreInUse:
    """The error that says whose the store is."""
    is_worker = multiprocessing.parent_process() is not None or "gunicorn" in os.environ.get("SERVER_SOFTWARE", "")
    is_sibling = is_worker and _is_other_here(owner) and _parent_of(owner.pid) == os.getppid()
    return StoreInUse(database, host=owner.host, pid=owner.pid, beat_ms=owner.beat_ms, is_sibling=is_sibling)


def node_process() -> str:
    """What tells this very process from any other that ever had its id; empty where the system does not say."""
    return _identity(os.getpid()) or ""


def _is_other_here(owner: Node) -> bool:
    return owner.pid != os.getpid() and runs_here(owner)


def _parent_of(pid: int) -> int | None:
    fields = _stat(pid)
    return None if fields is None else int(fields[1])  # field 4, ppid


def _identity(pid: int) -> str | None:
    """What tells this process from others that had its id; ``None`` if it is gone, or the system does not say."""
    namespace, fields = _namespace(), _stat(pid)
    if namespace is None or fields is None or fields[0] in ("Z", "X"):
        return None  # the last: killed, and only waiting for its parent to notice
    return f"{namespace}/{pid}/{fields[19]}"  # field 22, starttime: in clock ticks since boot


def _stat(pid: int) -> list[str] | None:
    """What Linux says of a process, from its third field on, the state; ``None`` if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # proc(5): the second field is the name in parentheses, which may itself hold spaces and parentheses.
    return stat.rpartition(")")[2].split()


def _namespace() -> str | None:
    """Where a process id means one process: this boot and this pid namespace. ``None`` where there is no such /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
