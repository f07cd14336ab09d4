"""A database that is frozen, or refuses: every answer comes all the same, and says which part it is."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

import mongod
from cli_support import herenow
from herenow.presence import Presence
from herenow.store.sqlite.store import SqlStore
from store.databases import execute
from support import http_client, serving


@asynccontextmanager
async def served(presence: Presence) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    presence.mount(app, admin=True, health=True)
    key = {"Authorization": "Bearer an operator's own key"}
    async with serving(app) as url, http_client(base_url=url, headers=key, timeout=30) as http:
        yield http


async def ask_everything(http: httpx.AsyncClient) -> dict[str, tuple[int, str]]:
    """Ask all that is answered with the help of the database, at once."""
    asked: dict[str, dict[str, Any]] = {
        "/healthz": {},
        "/readyz": {},
        "/metrics": {},
        "/v1/stats": {},
        "/v1/online": {},
        "/v1/users/nobody": {},
        "/v1/users:batchGet": {"users": ["nobody"]},
        "/v1/admin/status": {},
        "/v1/admin/drift": {},
        "/v1/admin/users/nobody/explain": {},
        "/v1/admin/cleanup": {"dryRun": True},
        "/v1/admin/stale": {"olderThanMs": 1000, "dryRun": True},
    }
    answers = await asyncio.gather(*(http.post(p, json=j) if j else http.get(p) for p, j in asked.items()))
    return {path: (answer.status_code, answer.text) for path, answer in zip(asked, answers, strict=True)}


async def until_answered(http: httpx.AsyncClient, path: str, status: int = 200) -> httpx.Response:
    async with asyncio.timeout(15):
        while True:
            response = await http.get(path)
            if response.status_code == status:
                return response
            await asyncio.sleep(0.05)


def check(answers: dict[str, tuple[int, str]]) -> None:
    fine = {path for path, (status, _) in answers.items() if status == 200}
    assert fine >= {"/healthz", "/metrics", "/v1/stats", "/v1/online", "/v1/users/nobody", "/v1/users:batchGet"}
    for path, (status, text) in answers.items():
        if path.startswith("/v1/admin"):
            assert status == 503, path
            assert "store_unavailable" in text and "The database" in text, path


async def test_every_answer_comes_though_sqlite_is_frozen(tmp_path: Path) -> None:
    """`/v1/admin/status` hung for ever."""
    thaws = threading.Event()
    settings: dict[str, Any] = {"dev": True, "admin_tokens": ["an operator's own key"], "database_timeout_s": 0.3}
    presence = Presence(f"sqlite:///{tmp_path}/app.db", **settings)
    async with served(presence) as http:
        assert isinstance(presence.store, SqlStore)
        file = presence.store._file
        hanging = [asyncio.create_task(hang(lambda _: thaws.wait())) for hang in (file.read, file.write)]
        began_s = time.monotonic()
        check(await ask_everything(http))
        assert time.monotonic() - began_s < 10
        await asyncio.gather(*hanging, return_exceptions=True)
        thaws.set()
        await until_answered(http, "/v1/admin/status")


async def test_every_answer_comes_though_mongodb_is_frozen() -> None:
    with mongod.running() as server:
        settings: dict[str, Any] = {"dev": True, "admin_tokens": ["an operator's own key"], "create_users": True}
        presence = Presence(server.url("app"), **settings, database_timeout_s=0.5)
        with server.client() as client:
            client.app.create_collection("users")
        async with served(presence) as http:
            server.pause()
            began_s = time.monotonic()
            check(await ask_everything(http))
            assert time.monotonic() - began_s < 10
            server.resume()
            await until_answered(http, "/v1/admin/status")


async def test_readyz_says_that_the_database_refuses_everybody_until_that_is_mended(tmp_path: Path) -> None:
    presence = Presence(f"sqlite:///{tmp_path}/app.db", dev=True, admin_tokens=["an operator's own key"])
    async with served(presence) as http:
        refuses = "BEFORE {} ON users BEGIN SELECT RAISE(ABORT, 'closed for the night'); END"
        execute(tmp_path / "app.db", f"CREATE TRIGGER closed {refuses.format('INSERT')}")
        assert (await http.put("/v1/users/alice/claim", json={"availability": "busy"})).status_code == 200
        ready = await until_answered(http, "/readyz", 503)
        assert "closed for the night" in ready.json()["store"]["lastError"]
        execute(tmp_path / "app.db", "DROP TRIGGER closed")
        await until_answered(http, "/readyz")
        assert await presence.writer.drain(5) == 0
        assert (await presence.store.read(["alice"]))["alice"].claim is not None


def test_a_command_ends_though_the_file_never_opens(tmp_path: Path) -> None:
    """A named pipe that nobody writes to: to open it for reading never comes back."""
    os.mkfifo(tmp_path / "app.db")
    ended = herenow("status", "--database", "sqlite:///app.db", cwd=tmp_path, timeout_s=30)
    assert ended.returncode == 2
    assert "app.db cannot be used right now: it did not answer in time" in ended.stderr
