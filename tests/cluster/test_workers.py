"""``herenow serve --workers``: several processes on one port, each a node."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import redis_server
from clients import Client
from e2e.servers import PresenceServer
from support import ROOT, until

WORKERS = 3


class Workers(PresenceServer):
    """The server, with workers. Its port is kept: whoever looked for a free one meanwhile might share it."""

    def __init__(self, database: Path, **settings: Any) -> None:
        super().__init__(database, **settings)
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port = self._place.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Let go of the port."""
        self._place.close()

    def _launch(self, *arguments: str) -> Any:
        return super()._launch(*arguments, "--workers", str(WORKERS))


@contextmanager
def workers(directory: Path, **settings: Any) -> Iterator[Workers]:
    redis = redis_server.shared("redis")
    server = Workers(
        directory / "app.db",
        cluster=redis.url,
        cluster_prefix=redis_server.fresh_prefix(),
        node_lease_s=2,
        node_beat_s=0.5,
        node_name="w",
        **settings,
    )
    server.from_nothing = True
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.stop(10)
        server.close()


async def poll(http: httpx.AsyncClient, sid: str = "", data: str | None = None) -> str:
    """One request of polling, over a connection of its own: so it reaches any of the workers."""
    query = f"/socket.io/?EIO=4&transport=polling{sid and f'&sid={sid}'}"
    headers = {"connection": "close"}
    answer = await (
        http.get(query, headers=headers) if data is None else http.post(query, content=data, headers=headers)
    )
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_polling_comes_right_whichever_worker_a_request_meets_and_websockets_take_over(
    tmp_path: Path,
) -> None:
    with workers(tmp_path) as server:
        await nodes(server, WORKERS)
        watcher = await Client.connect(server.url, "watcher")
        await watcher.watch(all=True)
        async with httpx.AsyncClient(base_url=server.url) as http:
            marks = set()
            for number in range(12):
                opened = msgspec.json.decode((await poll(http))[1:])
                sid = opened["sid"]
                marks.add(sid[0])
                assert await poll(http, sid, f'40{{"userId":"user-{number}"}}') == "ok"
                assert "presence:ready" in await poll(http, sid)
                assert await poll(http, sid, '421["presence:get",{"users":["watcher"]}]') == "ok"
                assert '"isOnline":true' in await poll(http, sid)
                await watcher.until(lambda number=number: watcher.shows(f"user-{number}") == "online")
            assert len(marks) == WORKERS, "the system gives each its share"
            assert len((await http.get("/v1/online")).json()["users"]) == 13
            assert (await http.get("/socket.io/?EIO=4&transport=polling&sid=Bnobody")).status_code == 400
        script = ROOT / "tests/node/upgrades.mjs"
        node = await asyncio.create_subprocess_exec(
            "node", str(script), server.url, "12", stdout=asyncio.subprocess.PIPE
        )
        said, _ = await asyncio.wait_for(node.communicate(), 60)
        assert msgspec.json.decode(said) == ["websocket"] * 12


async def test_a_request_for_another_worker_is_bounded_and_refused_like_any_other(tmp_path: Path) -> None:
    with workers(tmp_path, ping_interval_s=1, ping_timeout_s=1, max_payload=1000) as server:
        await nodes(server, WORKERS)
        async with httpx.AsyncClient(base_url=server.url) as http:
            origin = {"origin": "https://app.example", "connection": "close"}
            for mark in "ABC":  # of them two are not the one that is met
                refused = await http.get(f"/socket.io/?EIO=4&transport=polling&sid={mark}nobody", headers=origin)
                assert (refused.status_code, refused.json()["code"]) == (400, 1)
                assert "access-control-allow-origin" in refused.headers, "a page may read why"
            for _ in range(6):
                sid = msgspec.json.decode((await poll(http))[1:])["sid"]
                query = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
                too_long = await http.post(query, content="4" * 1001, headers={"connection": "close"})
                assert too_long.status_code == 413
        for mark in "ABC":
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            query = f"/socket.io/?EIO=4&transport=polling&sid={mark}nobody"
            writer.write(f"POST {query} HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n4".encode())
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
            writer.close()


async def test_workers_are_started_again_renewed_one_after_the_other_and_end_together(tmp_path: Path) -> None:
    with workers(tmp_path) as server:
        before = await nodes(server, WORKERS)
        assert {name for name, _ in before} == {"w-0", "w-1", "w-2"}
        os.kill(next(pid for name, pid in before if name == "w-1"), signal.SIGKILL)
        await until(lambda: "a worker has ended, and is started again" in server.log())
        async with asyncio.timeout(15):
            await nodes(server, WORKERS, {pid for name, pid in before if name != "w-1"})
        before = await nodes(server, WORKERS)
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: '"event": "renewed"' in server.log(), 60)
        after = await nodes(server, WORKERS)
        assert {name for name, _ in after} == {name for name, _ in before}
        assert not {pid for _, pid in after} & {pid for _, pid in before}
        assert (await Client.connect(server.url, "alice")).ready["userId"] == "alice"
        assert server.stop(10) < 8
        assert server.online_rows() == set()


async def test_workers_end_with_whoever_looks_after_them_however_that_ended(tmp_path: Path) -> None:
    with workers(tmp_path) as server:
        pids = {pid for _, pid in await nodes(server, WORKERS)}
        server.kill()
        for pid in pids:
            await until(lambda pid=pid: not is_running(pid))  # type: ignore[misc]
        assert server.online_rows() == set()


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only waits for somebody to notice its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def nodes(server: PresenceServer, many: int, kept: set[int] | None = None) -> set[tuple[str, int]]:
    """The nodes that live, once there are so many, and of those before just the kept: each its name and process."""
    known = set[int]() if kept is None else kept
    async with httpx.AsyncClient(base_url=server.url) as http:
        while True:
            answer = (await http.get("/v1/admin/status")).json()
            found = {(each["name"], each["pid"]) for each in answer["servers"] if each["isAlive"]}
            if len(found) == many and (kept is None or len(known & {pid for _, pid in found}) == many - 1):
                return found
            await asyncio.sleep(0.2)


@pytest.mark.parametrize(("cluster", "said"), [(None, "set HERENOW_CLUSTER"), ("redis://localhost", "from 1 to 62")])
async def test_what_cannot_be_served_by_workers_is_said(tmp_path: Path, cluster: str | None, said: str) -> None:
    settings: dict[str, Any] = {} if cluster is None else {"cluster": cluster}
    server = PresenceServer(tmp_path / "app.db", **settings)
    process = server._launch("serve", "--dev", "--port", "0", "--workers", "2" if cluster is None else "63")
    assert process.wait(20) == 2
    assert said in server.log()
