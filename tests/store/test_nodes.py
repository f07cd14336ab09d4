import os
import socket
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from herenow.store import nodes
from herenow.store.nodes import Node, find_rival, is_alive
from store.processes import child
from store.rows import NOW_MS

LEASE_MS = 5000


def here(*, now_ms: int = NOW_MS) -> Node:
    return Node.here(name="one", epoch=1, address="http://127.0.0.1:8000", now_ms=now_ms, lease_ms=LEASE_MS)


def elsewhere(name: str = "far") -> Node:
    return Node(name, 1, "far.example.org", os.getpid(), "", "", NOW_MS, NOW_MS, LEASE_MS)


def test_a_node_here_is_this_process() -> None:
    node = here()
    assert (node.host, node.pid) == (socket.gethostname(), os.getpid())
    assert (node.started_ms, node.beat_ms) == (NOW_MS, NOW_MS)


@pytest.mark.parametrize("node", [here(), elsewhere()], ids=["here", "elsewhere"])
def test_a_node_lives_for_its_lease_after_its_beat(node: Node) -> None:
    assert is_alive(node, NOW_MS)
    assert is_alive(node, NOW_MS + LEASE_MS - 1)
    assert not is_alive(node, NOW_MS + LEASE_MS)


def test_a_beat_from_the_future_is_fresh() -> None:
    """The clock was set back by an hour: better no second server than two."""
    assert is_alive(elsewhere(), NOW_MS - 3_600_000)


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process started")


def test_without_proc_a_process_is_known_by_its_id_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "readlink", fail)
    assert here().process == ""
    assert is_alive(here(), NOW_MS)


@linux
def test_a_process_that_ended_here_is_dead_at_once(path: Path) -> None:
    with child("lock", path) as other:
        other.read_line()
        node = replace(here(), pid=other.pid, process=nodes._identity(other.pid) or "")
        assert is_alive(node, NOW_MS)
        other.kill()
        assert not is_alive(node, NOW_MS), "a zombie is dead, whether its parent looks or not"
        other.reap()
        assert not is_alive(node, NOW_MS)


@linux
def test_another_process_with_the_same_id_is_another_process() -> None:
    """The kernel counts process ids round: a server's id may belong to a text editor now."""
    node = here()
    earlier = node.process.rsplit("/", 1)[0] + "/1"
    assert not is_alive(replace(node, process=earlier), NOW_MS)


@linux
@pytest.mark.parametrize("part", [0, 1], ids=["another boot", "another container"])
def test_a_process_that_cannot_be_looked_at_lives_by_its_lease(part: int) -> None:
    """Container or machine apart, its process id means nothing here, even if the host names are equal."""
    node = here()
    parts = node.process.split("/")
    parts[part] = "other"
    foreign = replace(node, pid=2**22 + 1, process="/".join(parts))
    assert is_alive(foreign, NOW_MS)
    assert not is_alive(foreign, NOW_MS + LEASE_MS)


@pytest.fixture
def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.setattr(nodes, "_namespace", lambda: None)


@pytest.mark.usefixtures("without_proc")
def test_without_proc_the_id_alone_must_do(path: Path) -> None:
    with child("lock", path) as other:
        other.read_line()
        node = replace(here(), pid=other.pid)
        assert node.process == ""
        assert is_alive(node, NOW_MS)
        other.reap()
        assert not is_alive(node, NOW_MS)
        assert is_alive(replace(node, host="far.example.org"), NOW_MS), "an id says nothing of another machine"


@pytest.mark.usefixtures("without_proc")
def test_without_proc_somebody_elses_process_counts_as_living(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert is_alive(here(), NOW_MS)


@pytest.mark.usefixtures("without_proc")
def test_on_windows_nobody_is_asked_by_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, os.kill(pid, 0) would end the process."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "kill")
    assert is_alive(here(), NOW_MS)


def test_the_rival_is_the_node_that_lives() -> None:
    dead = replace(elsewhere("dead"), beat_ms=NOW_MS - LEASE_MS)
    assert find_rival([dead, elsewhere()], here()) == elsewhere()
    assert find_rival([dead], here()) is None
    assert find_rival([elsewhere()], here(), dead_hosts=frozenset({"far.example.org"})) is None


def test_a_node_is_not_its_own_rival_but_its_namesake_is() -> None:
    assert find_rival([here()], here(now_ms=NOW_MS + 1)) is None
    assert find_rival([replace(elsewhere(), name="one", epoch=2)], here()) is not None
