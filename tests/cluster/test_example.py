"""``make run-cluster``: three nodes and a Redis, all of which end with Ctrl-C."""

import asyncio
import os
import signal
import sys

import pytest

from clients import Client
from support import ROOT, free_port, http_get, listens, until


async def test_three_nodes_serve_the_page_and_end_together() -> None:
    first = free_port()
    while any(listens(first + number) for number in range(3)):
        first = free_port()
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "examples/cluster.py"),
        env={**os.environ, "PORT": str(first)},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert program.stdout is not None
    async with asyncio.timeout(60):
        lines = [(await program.stdout.readline()).decode() for _ in range(4)]
    assert lines[3] == "Open two of them, as two users. Ctrl-C ends all.\n"
    pids = [int(line.rpartition(" ")[2].rstrip(")\n")) for line in lines[:3]]
    addresses = [f"http://127.0.0.1:{first + number}" for number in range(3)]
    for number, address in enumerate(addresses, 1):
        assert http_get(f"{address}/readyz").json()["node"]["name"] == f"node-{number}"
        assert "herenow" in http_get(f"{address}/").text
    bob, alice = await Client.connect(addresses[2], "bob"), await Client.connect(addresses[0], "alice")
    await bob.watch("alice")
    assert bob.shows("alice") == "online"
    program.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        assert await program.wait() == 0
    await until(lambda: not any(listens(first + number) for number in range(3)))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert alice.closed.is_set()
