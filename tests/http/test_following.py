"""Server-Sent Events over a real port, and their rules for those who come back or read slowly."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from herenow.cli.socketio_client import Caller
from herenow.http import following
from herenow.http.following import Follower
from herenow.model import Claim, Claimed, Closing
from herenow.mounting import Mounted
from herenow.presence import Presence
from support import http_client, serving


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[tuple[Presence, httpx.AsyncClient, Mounted]]:
    app = FastAPI()
    presence = Presence(f"sqlite:///{directory}/app.db", dev=True, offline_within_s=0.6)
    mounted = Mounted(presence, app, path="/socket.io/")

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
        async with mounted.running() as state:
            yield state

    app.router.lifespan_context = lifespan
    async with serving(app) as url, http_client(base_url=url, timeout=5) as http:
        yield presence, http, mounted


class Stream:
    """An open stream, and what came of it."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self) -> tuple[str, int, Any]:
        """The next event: its name, its id and its data."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(5):
            async for line in self._lines:
                name, colon, value = line.partition(": ")
                if name and colon:
                    fields[name] = value
                if not line and "data" in fields:
                    return fields["event"], int(fields["id"]), json.loads(fields["data"])
        raise EOFError

    async def comment(self) -> str:
        """The next comment."""
        async with asyncio.timeout(5):
            async for line in self._lines:
                if line.startswith(":"):
                    return line
        raise EOFError


@asynccontextmanager
async def following_changes(http: httpx.AsyncClient, **headers: str) -> AsyncIterator[Stream]:
    async with http.stream("GET", "/v1/changes", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = aiter(response.aiter_lines())
        assert (await anext(lines)).startswith("retry: ")
        yield Stream(lines)


async def test_every_change_is_told_with_its_version_and_cause(tmp_path: Path) -> None:
    async with served(tmp_path) as (presence, http, _), following_changes(http) as stream:
        client = await Caller.open(str(http.base_url), "alice")
        name, version, change = await stream.next()
        assert (name, change["userId"], change["cause"], change["isOnline"]) == ("change", "alice", "connect", True)
        assert version == change["version"] == presence.registry.version
        await client.leave()
        _, later, change = await stream.next()
        assert (change["cause"], change["isOnline"]) == ("left", False)
        assert later > version


async def test_who_comes_back_gets_what_was_missed_and_nothing_twice(tmp_path: Path) -> None:
    async with served(tmp_path) as (presence, http, _):
        registry = presence.registry
        await registry.connect("alice", "a", node="local")
        seen = registry.version
        await registry.connect("bob", "b", node="local")
        await registry.disconnect("alice", "a", Closing.LEFT)
        await registry.connect("alice", "a2", node="local")
        async with following_changes(http, **{"Last-Event-ID": str(seen)}) as stream:
            assert [(await stream.next())[2]["userId"] for _ in range(2)] == ["bob", "alice"]
            await registry.connect("carol", "c", node="local")
            assert (await stream.next())[2]["userId"] == "carol"


async def test_who_was_away_for_too_long_is_told_to_begin_anew(tmp_path: Path) -> None:
    async with served(tmp_path) as (presence, http, _):
        await presence.registry.connect("alice", "a", node="local")
        async with following_changes(http, **{"Last-Event-ID": "1"}) as stream:
            assert await stream.next() == ("reset", presence.registry.version, {})
            await presence.registry.connect("bob", "b", node="local")
            assert (await stream.next())[2]["userId"] == "bob"


async def test_silence_is_broken_by_a_comment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "KEEP_ALIVE_S", 0.05)
    async with served(tmp_path) as (_, http, _), following_changes(http) as stream:
        assert await stream.comment() == ": still here"


async def test_the_end_of_the_server_ends_the_streams(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, http, mounted), following_changes(http) as stream:
        mounted.stop()
        with pytest.raises(EOFError):
            await stream.next()


async def test_a_follower_that_goes_leaves_nothing_behind(tmp_path: Path) -> None:
    async with served(tmp_path) as (presence, http, mounted):
        async with following_changes(http):
            assert len(mounted._api.followers._followers) == 1
        async with asyncio.timeout(5):
            while mounted._api.followers._followers:  # the server's own task
                await presence.registry.connect("alice", "a", node="local")
                await asyncio.sleep(0.01)


async def test_who_reads_slowly_gets_the_net_change_of_each_user(tmp_path: Path) -> None:
    async with served(tmp_path) as (presence, _, _):
        registry = presence.registry
        follower = Follower(presence, None)
        events = follower.events()
        await anext(events)
        for _ in range(1000):
            await registry.connect("alice", "a", node="local")
            await registry.disconnect("alice", "a", Closing.LEFT)
        await registry.connect("bob", "b", node="local")
        await registry.connect("alice", "a", node="local")
        assert len(follower._pending) == 2
        data = await anext(events)
        assert data.count(b"event: change") == 2
        assert data.index(b'"bob"') < data.index(b'"alice"')
        await events.aclose()


async def test_what_comes_while_the_log_is_read_is_told_once(tmp_path: Path) -> None:
    async with served(tmp_path) as (presence, _, _):
        registry = presence.registry
        await registry.connect("alice", "a", node="local")
        follower = Follower(presence, registry.version)
        events = follower.events()
        await anext(events)
        coming = registry.connect("bob", "b", node="local")  # issued before the log is read, delivered with it
        told = await anext(events)
        await coming
        await registry.connect("carol", "c", node="local")
        while b"carol" not in told:
            told += await anext(events)
        assert told.count(b'"bob"') == told.count(b'"carol"') == 1
        await events.aclose()


async def test_a_change_that_cannot_be_told_does_not_end_the_stream(tmp_path: Path) -> None:
    async with served(tmp_path) as (presence, _, _):
        registry = presence.registry
        await registry.connect("half", "h", node="local")
        events = Follower(presence, None).events()
        await anext(events)
        registry.claim("half", Claim(Claimed.BUSY, "\ud800"))
        await registry.connect("whole", "w", node="local")
        told = await anext(events)
        assert told.count(b"event: change") == 1
        assert b'"whole"' in told
        await events.aclose()
