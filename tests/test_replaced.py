"""Presence whose store has a new owner: it writes nothing, tells nothing, and says so; in library form too."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from clients import Client
from herenow.errors import AlreadyStarted, NotStarted, Replaced, StoreError
from herenow.model import Change, Closing
from herenow.presence import Presence
from support import http_client, serving, until


def make(tmp_path: Path, **settings: Any) -> Presence:
    given = {"dev": True, "offline_within_s": 0.5, "node_beat_s": 0.1, "node_lease_s": 1.0, **settings}
    return Presence(f"sqlite:///{tmp_path}/app.db", **given)


def take_over(tmp_path: Path) -> None:
    """Be a server of another machine."""
    with sqlite3.connect(tmp_path / "app.db") as connection:
        connection.execute("UPDATE herenow_nodes SET name = 'two', epoch = epoch + 1, host = 'awake', pid = 7")
    connection.close()


def rows(tmp_path: Path) -> list[Any]:
    with sqlite3.connect(tmp_path / "app.db") as connection:
        found = connection.execute("SELECT * FROM users ORDER BY id").fetchall()
    connection.close()
    return found


async def test_a_new_owner_of_the_store_is_told_to_who_asked_and_nothing_more_is_written(tmp_path: Path) -> None:
    presence = make(tmp_path)
    lost: list[StoreError] = []
    heard: list[Change] = []
    await presence.start(on_lost=lost.append)
    registry = presence.registry
    await registry.connect("alice", "c1", node="n")
    await registry.connect("ben", "c2", node="n")
    await until(lambda: presence.writer.state().pending == 0)
    before = rows(tmp_path)
    presence.on_change(heard.append)
    await registry.disconnect("alice", "c1", Closing.CLOSED)  # lingers
    take_over(tmp_path)
    await until(lambda: lost)
    assert "process 7 on awake" in str(lost[0])
    await registry.disconnect("ben", "c2", Closing.LEFT)
    await asyncio.sleep(0.7)  # alice's grace ends
    for ask in (presence.get(["alice"]), presence.stats(), presence.evict(None, disconnect=True)):
        with pytest.raises(Replaced, match="another server has taken the store over"):
            await ask
    for part in ("registry", "tenants", "truth", "audit"):
        with pytest.raises(NotStarted):
            getattr(presence, part)
    with pytest.raises(AlreadyStarted):
        await presence.start()
    await presence.stop()
    assert (rows(tmp_path), heard, len(lost)) == (before, [], 1)
    with sqlite3.connect(tmp_path / "app.db") as connection:
        assert connection.execute("SELECT host FROM herenow_nodes").fetchall() == [("awake",)]
        connection.execute("DELETE FROM herenow_nodes")
    connection.close()
    await presence.start()
    assert (await presence.get(["ben"]))["ben"].is_online, "it may serve again"
    await presence.stop()


async def test_who_loses_the_store_while_starting_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read a million rows takes longer than a lease: it beats meanwhile, and hears of it."""
    presence = make(tmp_path)
    read = presence.store.max_version

    async def read_slowly() -> int:
        take_over(tmp_path)
        await asyncio.sleep(0.3)
        return await read()

    monkeypatch.setattr(presence.store, "max_version", read_slowly)
    told: list[StoreError] = []
    with pytest.raises(StoreError, match="process 7 on awake"):
        await presence.start(on_lost=told.append)
    assert told == [], "who waits for the start hears it from the start"
    await presence.stop()


@asynccontextmanager
async def mounted(presence: Presence) -> AsyncIterator[str]:
    app = FastAPI()
    presence.mount(app, admin=True, health=True)
    async with serving(app) as url:
        yield url


async def test_mounted_it_sends_its_clients_away_and_answers_that_it_serves_nobody(tmp_path: Path) -> None:
    presence = make(tmp_path)
    async with mounted(presence) as url, http_client(base_url=url, timeout=10) as http:
        alice = await Client.connect(url, "alice")
        assert (await http.get("/readyz")).status_code == 200
        await until(lambda: rows(tmp_path))
        take_over(tmp_path)
        async with asyncio.timeout(5):
            await alice.closed.wait()
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "another server has taken the store over" in ready.json()["reason"]
        online = await http.get("/v1/online")
        assert (online.status_code, online.json()["error"]["code"]) == (503, "shutting_down")
    (row,) = rows(tmp_path)
    assert row[1] == 1, "whether she is online is for the new owner to say"
