"""The state file: whole or not there, private at every moment, and believed only of this user's own living server."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from herenow.http.state_file import ServerState, StateFile, read, running_servers, state_directory
from herenow.settings import Settings
from herenow.store.address import identity_of
from herenow.store.nodes import Node


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "herenow"


def node_here(epoch: int = 1) -> Node:
    return Node.here(name="local", epoch=epoch, address="", now_ms=time.time_ns() // 1_000_000, lease_ms=5000)


def settings_of(directory: Path) -> Settings:
    return Settings.load(database=f"sqlite:///{directory}/app.db")


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*") if path.is_file())


def test_it_is_private_whatever_the_umask_and_whatever_was_there(tmp_path: Path, home: Path) -> None:
    beside = tmp_path / "app.db-server"
    beside.write_text("old")
    beside.chmod(0o666)
    before = os.umask(0)
    try:
        StateFile(settings_of(tmp_path)).write(node_here(), "serving", address="http://127.0.0.1:1", token="new")
    finally:
        os.umask(before)
    places = [beside, *home.iterdir()]
    assert len(places) == 2
    for place in places:
        found = read(place)
        assert found is not None and (found.token, stat.S_IMODE(place.stat().st_mode)) == ("new", 0o600)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert files(tmp_path) == ["app.db-server"]


def test_where_one_place_cannot_be_written_the_other_does_and_where_none_can_that_is_an_error(
    tmp_path: Path, home: Path
) -> None:
    file = StateFile(settings_of(tmp_path))
    (tmp_path / "app.db-server").mkdir()
    file.write(node_here(), "serving", token="t")
    assert [state.token for state in running_servers("")] == ["t"]
    home.parent.rename(tmp_path / "elsewhere")
    home.parent.write_text("no directory")
    with pytest.raises(OSError):
        StateFile(settings_of(tmp_path)).write(node_here(), "serving", token="t")
    assert files(tmp_path) == ["state"], "no draft is left"


def test_a_server_that_only_starts_says_nothing_beside_a_database_which_may_be_anothers(tmp_path: Path) -> None:
    owner, second = StateFile(settings_of(tmp_path)), StateFile(settings_of(tmp_path))
    owner.write(node_here(1), "serving", token="owner")
    second.write(node_here(0), "starting", token="second")
    assert sorted(state.token for state in running_servers(f"sqlite:///{tmp_path}/app.db")) == ["owner", "second"]
    second.remove()
    assert [state.token for state in running_servers(f"sqlite:///{tmp_path}/app.db")] == ["owner"]
    assert files(tmp_path) == ["app.db-server"]


def test_it_is_removed_everywhere_but_only_where_it_is_ours(tmp_path: Path, home: Path) -> None:
    ours, theirs = StateFile(settings_of(tmp_path)), StateFile(settings_of(tmp_path))
    ours.write(node_here(1), "serving", token="ours")
    theirs.write(node_here(2), "serving", token="theirs")
    ours.remove()
    assert [state.token for state in running_servers(f"sqlite:///{tmp_path}/app.db")] == ["theirs"]
    theirs.remove()
    assert (files(tmp_path), list(home.iterdir())) == ([], [])


def test_that_of_a_killed_process_is_not_believed_and_goes_away(tmp_path: Path, home: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat_line = Path(f"/proc/{process.pid}/stat")
    here = node_here()
    if here.process:
        namespace = here.process.rsplit("/", 2)[0]
        start = stat_line.read_text().rpartition(")")[2].split()[19]
        here = msgspec.structs.replace(here, process=f"{namespace}/{process.pid}/{start}")
    dead = msgspec.structs.replace(here, pid=process.pid)
    StateFile(settings_of(tmp_path)).write(dead, "serving", token="t")
    assert len(list(running_servers(""))) == 1
    process.kill()
    process.communicate()
    assert list(running_servers(f"sqlite:///{tmp_path}/app.db")) == []
    assert (files(tmp_path), list(home.iterdir())) == ([], [])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell when a process started")
def test_that_of_an_earlier_process_with_the_same_id_is_not_believed(tmp_path: Path) -> None:
    here = node_here()
    StateFile(settings_of(tmp_path)).write(msgspec.structs.replace(here, process=here.process + "1"), "serving")
    assert list(running_servers("")) == []


def test_that_of_another_machine_is_not_believed_and_left_alone(tmp_path: Path, home: Path) -> None:
    elsewhere = msgspec.structs.replace(node_here(), host="elsewhere", process="another-boot/pid:[1]/1/1")
    StateFile(settings_of(tmp_path)).write(elsewhere, "serving")
    assert list(running_servers("")) == []
    assert len(list(home.iterdir())) == 1
    mine = StateFile(settings_of(tmp_path))
    mine.write(node_here(), "serving", token="mine")
    mine.claim()  # the database is ours now, so that server does not live any more
    assert [state.token for state in running_servers("")] == ["mine"]
    assert len(list(home.iterdir())) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can play two users")
def test_one_that_another_user_planted_is_not_believed(tmp_path: Path, home: Path) -> None:
    """In a directory where both may write: it would lead the command to a server that answers as it likes."""
    StateFile(settings_of(tmp_path)).write(node_here(), "serving", address="http://127.0.0.1:6666", token="bait")
    (planted,) = home.iterdir()
    os.chown(planted, 4711, 4711)
    os.chown(tmp_path / "app.db-server", 4711, 4711)
    assert list(running_servers(f"sqlite:///{tmp_path}/app.db")) == []
    os.chown(home, 4711, 4711)  # root, in the home of the very user: it is theirs, as all there is
    assert len(list(running_servers(""))) == 1


@pytest.mark.parametrize("what", ["link", "pipe", "directory", "nonsense"])
def test_what_is_no_state_file_is_passed_over_at_once(tmp_path: Path, home: Path, what: str) -> None:
    StateFile(settings_of(tmp_path)).write(node_here(), "serving", token="t")
    (real,) = home.iterdir()
    planted = tmp_path / "planted"
    match what:
        case "link":
            planted.symlink_to(real)
        case "pipe":
            os.mkfifo(planted)
        case "directory":
            planted.mkdir()
        case _:
            planted.write_text("{}")
    assert read(planted) is None


def test_without_a_home_there_is_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    assert state_directory() is None


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("mongodb://127.0.0.1/shop", "mongodb://127.0.0.1:27017/shop", True),
        ("mongodb://anna:secret@db/shop?tls=true", "mongodb://DB:27017/shop", True),
        ("mongodb://b,a:27018/shop?replicaSet=x", "mongodb://a:27018,b:27017/shop", True),
        ("mongodb://[::1]/shop", "mongodb://[::1]:27017/shop", True),
        ("mongodb+srv://cluster.example/shop", "mongodb+srv://cluster.example/shop?tls=true", True),
        ("mongodb://127.0.0.1/shop", "mongodb://127.0.0.1/Shop", False),
        ("mongodb://127.0.0.1/shop", "mongodb://127.0.0.1:27018/shop", False),
        ("sqlite:///x/../app.db", "sqlite:///app.db", True),
        ("sqlite:///app.db", "sqlite:///other.db", False),
    ],
)
def test_a_database_is_the_same_however_it_is_written(one: str, other: str, are_same: bool) -> None:
    assert (identity_of(one, "users") == identity_of(other, "users")) is are_same
    assert "secret" not in identity_of(one, "users")


def test_a_link_to_a_database_is_that_database(tmp_path: Path) -> None:
    (tmp_path / "app.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "app.db")
    assert identity_of(f"sqlite:///{tmp_path}/link.db", "users") == identity_of(f"sqlite:///{tmp_path}/app.db", "users")
    assert identity_of("mongodb://db/shop", "users") != identity_of("mongodb://db/shop", "staff")


def test_its_form_is_known(tmp_path: Path, home: Path) -> None:
    """Another herenow of the same user reads it: what is there already must keep its name."""
    StateFile(settings_of(tmp_path)).write(node_here(), "starting", token="t", waits_for="The database is away.")
    (path,) = home.iterdir()
    assert {"node", "database", "directory", "phase", "address", "token"} <= set(ServerState.__struct_fields__)
    held = msgspec.json.decode(path.read_bytes())
    assert (held["phase"], held["waits_for"]) == ("starting", "The database is away.")
