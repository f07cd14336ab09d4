import os
import socket
import sys
from pathlib import Path

import pytest
from msgspec.structs import asdict, replace

from herenow.store import nodes
from herenow.store.nodes import Node, Sighting, is_gone, is_running, read_roll
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


def is_alive(node: Node, now_ms: int) -> bool:
    return Sighting(node, now_ms - node.beat_ms, node.beat_ms).is_fresh


@pytest.mark.parametrize("node", [here(), elsewhere()], ids=["here", "elsewhere"])
def test_a_beat_is_fresh_for_its_lease(node: Node) -> None:
    assert is_alive(node, NOW_MS)
    assert is_alive(node, NOW_MS + LEASE_MS - 1)
    assert not is_alive(node, NOW_MS + LEASE_MS)


def test_a_beat_from_the_future_is_not_fresh() -> None:
    assert not is_alive(elsewhere(), NOW_MS - 3_600_000)


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


@linux
def test_a_process_that_can_be_seen_runs_unless_it_is_this_one(path: Path) -> None:
    with child("lock", path) as other:
        other.read_line()
        node = replace(here(), pid=other.pid, process=nodes._identity(other.pid) or "")
        assert is_running(node)
        other.reap()
        assert not is_running(node)
        assert is_gone(node)
    assert not is_running(here())
    assert not is_running(elsewhere())


ROW = {**asdict(elsewhere()), "extra": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"pid": "4711"},
        {"pid": -1},
        {"beat_ms": None},
        {"beat_ms": 10**18},
        {"beat_ms": 1.5},
        {"started_ms": -1},
        {"lease_ms": 10**12},
        {"epoch": "1"},
        {"host": 7},
        {"name": b"one"},
    ],
    ids=str,
)
def test_a_row_that_no_server_wrote_is_damaged(change: dict[str, object]) -> None:
    roll = read_roll([ROW | change, ROW], database_ms=NOW_MS, here_ms=NOW_MS)
    assert roll.nodes == [elsewhere()]
    (complaint,) = roll.complaints
    assert complaint.startswith("the row of a server is damaged: ")
    assert f"$.{next(iter(change))}" in complaint


def test_a_row_that_lacks_a_field_is_damaged_and_a_row_that_is_not_there_was_removed() -> None:
    (complaint,) = read_roll([{"name": "one"}], database_ms=NOW_MS, here_ms=NOW_MS).complaints
    assert "missing required field `epoch`" in complaint
    assert read_roll([], database_ms=0, here_ms=0, is_removed=True).complaints == ["the row of the server was removed"]
    assert read_roll([], database_ms=0, here_ms=0).complaints == []


def test_a_beat_is_told_by_the_clock_of_who_looks() -> None:
    """The clock of the database is an hour behind ours."""
    roll = read_roll([ROW], database_ms=NOW_MS + 2000, here_ms=NOW_MS + 3_600_000)
    (sighting,) = roll.sightings
    assert (sighting.age_ms, sighting.stamp) == (2000, NOW_MS)
    assert sighting.node.beat_ms == NOW_MS + 3_598_000
    (future,) = read_roll([ROW], database_ms=0, here_ms=0).sightings
    assert (future.age_ms, future.is_fresh) == (-NOW_MS, False)
