"""The commands on MongoDB, as their user sees them."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mongod
from cli_support import answer, broken, herenow, serving_process
from clients import Client
from support import ROOT, until


@contextlib.contextmanager
def users_of(url: str) -> Iterator[Any]:
    with mongod.shared().client() as client:
        yield client[url.rpartition("/")[2]].users


@pytest.fixture
def url() -> str:
    return mongod.shared().url(mongod.fresh_database())


class Proof(NamedTuple):
    """A ``herenow test`` that runs, where, and on which database."""

    process: subprocess.Popen[str]
    directory: Path
    url: str


@pytest.fixture(scope="module", autouse=True)
def proof(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proof]:
    """It waits more than it works, so it does so beside the other tests."""
    directory = tmp_path_factory.mktemp("proof")
    url = mongod.shared().url(mongod.fresh_database())
    with users_of(url) as users:
        users.insert_one({"_id": "alice", "isOnline": True})
    command = [sys.executable, "-m", "herenow.cli", "test", "--json", "--database", url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HERENOW_OFFLINE_WITHIN_S": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=directory, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        yield Proof(process, directory, url)
        process.terminate()


async def test_the_commands_on_an_applications_collection(tmp_path: Path, url: str) -> None:
    """The owner's Monday morning: users stuck online, adopted, seen, mended, served."""
    state = str(tmp_path)
    with users_of(url) as users:
        users.insert_many([{"_id": "alice", "isOnline": True}, {"_id": "ben", "email": "b"}, {"_id": "cleo"}])
        planned = herenow("init", "--dry-run", "--json", "-d", url, cwd=tmp_path)
        done = herenow("init", "--schema", "--json", "-d", url, cwd=tmp_path)
        assert (planned.returncode, done.returncode) == (0, 0)
        assert set(answer(planned)["steps"]) < set(answer(done)["steps"])
        assert answer(done)["found"][0] == "3 users in users, their _id is of the type string"
        assert "is ready: nothing to do" in herenow("init", "-d", url, cwd=tmp_path).stdout
        status = herenow("status", "--json", "-d", url, cwd=tmp_path)
        assert (status.returncode, answer(status)["drift"]["ghosts"]) == (1, 1)
        assert "alice" in herenow("explain", "alice", "-d", url, cwd=tmp_path).stdout
        assert "1 user set offline" in herenow("stale", "-d", url, cwd=tmp_path).stdout
        with serving_process(tmp_path, "-d", url, XDG_STATE_HOME=state) as server:
            ben = await Client.connect(server.address, "ben")
            await until(lambda: users.find_one("ben")["isOnline"])
            assert users.find_one("ben")["email"] == "b"
            users.update_one({"_id": "cleo"}, {"$set": {"isOnline": True}})
            status = herenow("status", "--json", "-d", url, cwd=tmp_path, XDG_STATE_HOME=state)
            told = answer(status)
            assert (status.returncode, told["stats"]["online"], told["drift"]["ghosts"]) == (1, 1, 1)
            cleaned = herenow("cleanup", "--json", "-d", url, cwd=tmp_path, XDG_STATE_HOME=state)
            assert (answer(cleaned)["offline"], answer(cleaned)["protectedUsers"]) == (1, 1)
            second = herenow("serve", "--dev", "--port", "0", "-d", url, cwd=tmp_path, XDG_STATE_HOME=state)
            assert (second.returncode, "belongs to another server" in second.stderr) == (2, True)
            await ben.leave()
            assert server.end()[0] == 0
        assert not users.count_documents({"isOnline": True})
        assert [path.name for path in (tmp_path / "herenow").iterdir()] == [], "the token is gone with its server"


@pytest.mark.parametrize("command", [("serve", "--dev", "--port", "0"), ("status",), ("init",), ("test",)])
def test_wrong_credentials_end_in_a_sentence(tmp_path: Path, url: str, command: tuple[str, ...]) -> None:
    wrong = url.replace("mongodb://", "mongodb://alice:geheim@")
    ended = herenow(*command, "--database", wrong, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert "the user or the password is wrong" in ended.stderr
    assert "geheim" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_test_proves_the_promises_and_leaves_nothing_behind(proof: Proof) -> None:
    said, complained = proof.process.communicate(timeout=60)
    found = json.loads(said)
    assert broken(found) == []
    assert complained == ""
    with users_of(proof.url) as users:
        assert users.database.list_collection_names() == ["users"]
        assert list(users.find()) == [{"_id": "alice", "isOnline": True}]
        names = users.database.client.list_database_names()
        assert not [name for name in names if name.startswith("herenow_test_")]
    assert list(proof.directory.iterdir()) == []
