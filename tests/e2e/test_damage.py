"""What goes wrong under a server that runs: its database is damaged."""

import asyncio
from pathlib import Path

import httpx

from clients import Client
from e2e.servers import PresenceServer
from support import http_get, until


def overwrite(path: Path) -> None:
    """Put rubbish in the place of what a file holds. It stays the same file."""
    path.write_bytes(b"\xff" * path.stat().st_size)


async def test_a_database_that_is_damaged_while_it_serves_is_named_and_presence_goes_on(tmp_path: Path) -> None:
    server = PresenceServer(tmp_path / "app.db", audit_every_s=0.5)
    await asyncio.to_thread(server.start)
    try:
        bob = await Client.connect(server.url, "bob")
        await bob.watch("alice")
        await until(lambda: server.online_rows() == {"bob"})
        for path in (tmp_path / "app.db", tmp_path / "app.db-wal"):
            overwrite(path)
        alice = await Client.connect(server.url, "alice")
        await bob.until(lambda: bob.shows("alice") == "online")

        def readiness() -> httpx.Response:
            return http_get(server.url + "/readyz", timeout=5)

        await until(lambda: readiness().status_code == 503)
        assert str(tmp_path / "app.db") in readiness().json()["audit"]["lastError"]
        await alice.leave()
        await bob.until(lambda: bob.shows("alice") == "offline")
        answer = await bob.call("presence:get", {"users": ["nobody"]})
        assert answer["users"][0]["isOnline"] is False
    finally:
        took_s = await asyncio.to_thread(server.stop)
    assert took_s < 5
    assert "Traceback" not in server.log()
