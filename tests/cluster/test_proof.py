"""``herenow test --cluster``: it proves a cluster's promises, it can fail, and it leaves nothing behind."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import redis_server
from cli_support import ENVIRONMENT, answer, broken, herenow
from herenow.cli.scenes import Scenes
from herenow.cli.scratch_cluster import Facts, ScratchCluster
from herenow.settings import Settings
from programs import start

TIMES = {"node_lease_s": 2.0, "node_beat_s": 0.5, "offline_within_s": 0.65, "restart_grace_s": 8.15}
"""Shorter than by default, so that the tests do not wait for so long."""

BY_ENVIRONMENT: dict[str, Any] = {f"HERENOW_{name.upper()}": str(value) for name, value in TIMES.items()}


@pytest.fixture
def redis() -> Iterator[redis_server.RedisServer]:
    """A Redis in which another cluster has keys, which must be there at the end, and no others."""
    server = redis_server.RedisServer()
    server.start()
    server.call("HSET", "{hn:0}:nodes", "theirs", "{}")
    yield server
    assert server.call("KEYS", "*") == [b"{hn:0}:nodes"]
    server.close()


def _is_empty(directory: Path) -> bool:
    return not list(directory.iterdir())


def test_every_promise_is_proved_and_nothing_is_left_behind(redis: redis_server.RedisServer, tmp_path: Path) -> None:
    ended = herenow("test", "--cluster", "--json", cwd=tmp_path, HERENOW_CLUSTER=redis.url, **BY_ENVIRONMENT)
    found = answer(ended)
    promises = ["C1"] * 5 + ["C2"] * 2 + ["C3"] + ["C4"] * 3 + ["C5"] * 2 + ["C6"] * 2
    assert [each["promise"] for each in found["results"]] == promises
    assert broken(found) == []
    all_kept = all(each["ok"] for each in found["results"])
    assert (ended.returncode, found["ok"], ended.stderr) == (0 if all_kept else 1, all_kept, "")
    assert found["shortened"] == []
    assert _is_empty(tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_proof_leaves_nothing_behind(
    redis: redis_server.RedisServer, tmp_path: Path, number: int, code: int
) -> None:
    out, directory = tmp_path / "out", tmp_path / "here"
    directory.mkdir()
    environment = {**ENVIRONMENT, **BY_ENVIRONMENT, "HERENOW_CLUSTER": redis.url}
    program = start("test", "--cluster", cwd=directory, environment=environment, out=out, err=out)
    try:
        pids = _pids_of_nodes(redis)
        program.send_signal(number)
        assert program.wait(20) == code
    finally:
        program.kill()
    assert out.read_text() == ""
    assert _is_empty(directory)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def _pids_of_nodes(redis: redis_server.RedisServer) -> list[int]:
    """Wait until both nodes are members; return their processes."""
    ends_s = time.monotonic() + 20
    while time.monotonic() < ends_s:
        names = redis.call("KEYS", "{hn-test-*:nodes")
        members = redis.call("HVALS", names[0].decode()) if isinstance(names, list) and names else []
        if isinstance(members, list) and len(members) == 2:
            return [msgspec.json.decode(each)["pid"] for each in members]
        time.sleep(0.02)
    raise AssertionError("the nodes do not start")


def test_what_keeps_it_from_looking_is_said_in_a_sentence(tmp_path: Path) -> None:
    evicting = redis_server.RedisServer("redis", "--maxmemory-policy", "allkeys-lru")
    evicting.start()
    try:
        for url, said in (
            ("redis://127.0.0.1:1", "the registry of the cluster cannot be reached: "),
            (evicting.url, "(maxmemory-policy allkeys-lru), and with them who is online"),
            (None, "--cluster needs the Redis of the cluster: set HERENOW_CLUSTER"),
        ):
            settings: dict[str, Any] = {} if url is None else {"HERENOW_CLUSTER": url}
            ended = herenow("test", "--cluster", cwd=tmp_path, **settings)
            assert (ended.returncode, ended.stdout) == (2, "")
            assert ended.stderr.startswith("herenow: ")
            assert said in ended.stderr
            assert ended.stderr.count("\n") == 1
            assert _is_empty(tmp_path)
    finally:
        evicting.close()


async def test_a_bound_that_does_not_hold_is_found_and_so_is_a_store_that_disagrees(
    redis: redis_server.RedisServer, tmp_path: Path
) -> None:
    """The nodes keep ghosts for some eight seconds, where two are said to be promised."""
    live = Settings.load(database=f"sqlite:///{tmp_path}/app.db", cluster=redis.url, **TIMES)
    scratch = ScratchCluster(live)
    claimed = scratch.settings.model_copy(update={"node_lease_s": 1.0, "restart_grace_s": 1.0})
    nodes = scratch.nodes()
    try:
        async with Facts(scratch.settings) as facts:
            scenes = Scenes(facts, claimed, lambda _: contextlib.nullcontext())
            await asyncio.gather(*(node.start() for node in nodes))
            leader, other = nodes if await facts.is_leader(nodes[0]) else (nodes[1], nodes[0])
            back, ghosts, _ = await scenes.kill(leader, other, lambda: asyncio.sleep(0))
            assert (back.ok, ghosts.ok, ghosts.bound) == (True, False, "2,000 ms")
            assert ghosts.measured_ms is not None and ghosts.measured_ms > 2_000

            node = await facts.id_of(other)
            assert node is not None and await facts.has_written(node), "what is let through is seen"

            assert [each.ok for each in await scenes.compare(other)] == [True]
            with sqlite3.connect(next(scratch.directory.glob("*.db")), timeout=5) as database:
                database.execute("UPDATE users SET isOnline = 1 WHERE id = 'gone-0'")
            database.close()
            (differs,) = await scenes.compare(other)
            assert (differs.ok, differs.measured[:4]) == (False, "1 of")
            await scenes.close()
        for each in nodes:
            await each.close()
    finally:
        await asyncio.to_thread(scratch.remove)
    assert _is_empty(tmp_path)
