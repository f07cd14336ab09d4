"""Nodes: which server owns a store, and whether it still lives.

A node writes one row and renews its beat in it. It is dead when

1. its beat is older than its lease, or
2. its process can be looked at from here, and is gone: so a restart after ``kill -9`` need not wait for the lease.

A process can be looked at only from the same boot of the same machine in the same process-id namespace; elsewhere the
same number means another process. Its start time tells it from a later one that was given the same number.
"""

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec


class Node(msgspec.Struct, frozen=True):
    """One running server process, as its row in the store says.

    Attributes:
        name: what the node is called; unique among those that live.
        epoch: its start stamp: the same name with another epoch is another process.
        host: the machine's name, for people.
        pid: its process id on that machine.
        process: what tells this process from any other that ever had its id; empty where the system does not say.
        address: where its HTTP is, as in ``http://127.0.0.1:8000``.
        started_ms: when it started.
        beat_ms: when it last said that it lives.
        lease_ms: how long after a beat it still counts as living.
    """

    name: str
    epoch: int
    host: str
    pid: int
    process: str
    address: str
    started_ms: int
    beat_ms: int
    lease_ms: int

    @classmethod
    def here(cls, *, name: str, epoch: int, address: str, now_ms: int, lease_ms: int) -> Self:
        """Describe this very process as a node that starts now."""
        return cls(
            name=name,
            epoch=epoch,
            host=socket.gethostname(),
            pid=os.getpid(),
            process=_identity(os.getpid()) or "",
            address=address,
            started_ms=now_ms,
            beat_ms=now_ms,
            lease_ms=lease_ms,
        )


def is_alive(node: Node, now_ms: int) -> bool:
    """Say whether a node lives, by the two rules above.

    A beat from the future (the clock was set back) counts as fresh: better to refuse a second server than to run two.
    """
    return now_ms - node.beat_ms < node.lease_ms and not is_gone(node)


def find_rival(nodes: Iterable[Node], claimant: Node, *, dead_hosts: frozenset[str] = frozenset()) -> Node | None:
    """Find the live node that keeps ``claimant`` from owning the store, if there is one.

    Args:
        nodes: the rows of the store.
        claimant: the node that wants to own it; ``beat_ms`` is its present.
        dead_hosts: machines of which something better than a clock, such as a file lock, proves that no node lives.
    """
    for node in nodes:
        itself = (node.name, node.epoch) == (claimant.name, claimant.epoch)
        if not itself and node.host not in dead_hosts and is_alive(node, claimant.beat_ms):
            return node
    return None


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


def _identity(pid: int) -> str | None:
    """What tells this process from others that had its id; ``None`` if it is gone, or the system does not say."""
    namespace = _namespace()
    if namespace is None:
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # proc(5): the second field is the name in parentheses, which may itself hold spaces and parentheses.
    state, *fields = stat.rpartition(")")[2].split()
    if state in ("Z", "X"):
        return None  # killed, and only waiting for its parent to notice
    start_ticks = fields[18]  # field 22, starttime: in clock ticks since boot
    return f"{namespace}/{pid}/{start_ticks}"


def _namespace() -> str | None:
    """Where a process id means one process: this boot and this pid namespace. ``None`` where there is no such /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
