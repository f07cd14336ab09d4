"""The commands and tenants: the same user id in two of them, told apart, with a server and without."""

import asyncio
import json
import signal
import tomllib
from pathlib import Path
from typing import Any

import jwt
import pytest

from cli.test_watch import line, watching
from cli_support import Server, answer, herenow, serving_process
from clients import Client
from herenow.settings import Settings

SECRET = "a secret of at least thirty-two bytes"


async def connect(server: Server, directory: Path, user: str, tenant: str | None) -> Client:
    """Connect with a token that the command makes."""
    of_tenant = () if tenant is None else ("--tenant", tenant)
    ended = herenow("token", "--user", user, *of_tenant, cwd=directory, HERENOW_JWT_SECRET=SECRET)
    return await Client.connect(server.address, token=ended.stdout.strip())


def shown(status: dict[str, Any]) -> set[tuple[str | None, str]]:
    return {(user["tenant"], user["userId"]) for user in status["onlineFirst"]}


async def test_users_of_tenants_are_told_apart_with_a_server_and_without(tmp_path: Path) -> None:
    with serving_process(tmp_path, dev=False, HERENOW_JWT_SECRET=SECRET) as server:
        clients = [await connect(server, tmp_path, "alice", tenant) for tenant in (None, "acme", "globex")]
        clients.append(await connect(server, tmp_path, "acme/alice", None))
        await clients[1].call("presence:claim", {"availability": "busy"})
        status = herenow("status", cwd=tmp_path)
        rows = {row.split()[0]: row.split()[1] for row in status.stdout.splitlines() if "alice" in row}
        assert rows == {"alice": "online", "acme/alice": "busy", "globex/alice": "online", "/acme/alice": "online"}
        told = answer(herenow("status", "--json", cwd=tmp_path))
        assert (told["stats"]["users"], told["drift"]["ghosts"]) == (4, 0)
        expected = {(None, "alice"), ("acme", "alice"), ("globex", "alice"), (None, "acme/alice")}
        assert shown(told) == expected
        explained = herenow("explain", "alice", "--tenant", "acme", cwd=tmp_path)
        assert explained.returncode == 0
        assert explained.stdout.startswith("● acme/alice is shown busy: 1 connection.")
        nobody = herenow("explain", "alice", "--tenant", "initech", cwd=tmp_path)
        assert "initech/alice is shown offline: never seen here" in nobody.stdout
        assert "4 users left alone" in herenow("cleanup", cwd=tmp_path).stdout
        server.end(signal.SIGKILL)
    dead = herenow("status", cwd=tmp_path)
    assert dead.returncode == 1
    assert {"alice", "acme/alice", "globex/alice", "/acme/alice"} <= set(dead.stdout.split())
    assert shown(answer(herenow("status", "--json", cwd=tmp_path))) == expected
    ghost = herenow("explain", "alice", "--tenant", "acme", cwd=tmp_path)
    assert ghost.returncode == 1
    assert "acme/alice is a ghost: the store says busy" in ghost.stdout
    with serving_process(tmp_path, dev=False, HERENOW_JWT_SECRET=SECRET) as server:
        watcher = await connect(server, tmp_path, "bob", "acme")
        answered = await watcher.watch("alice", "acme/alice")
        assert [user["availability"] for user in answered["users"]] == ["busy", "offline"], "adopted, and no flicker"
        back = await connect(server, tmp_path, "alice", "acme")
        await watcher.settle()
        assert watcher.diffs == []
        cleaned = answer(herenow("cleanup", "--json", cwd=tmp_path))
        assert (cleaned["offline"], cleaned["protectedUsers"]) == (3, 2)
        for client in (watcher, back):
            await client.leave()
    for client in clients:
        await client.close()


async def test_watch_follows_one_tenant(tmp_path: Path) -> None:
    with (
        serving_process(tmp_path, dev=False, HERENOW_JWT_SECRET=SECRET) as server,
        watching(tmp_path, "--tenant", "acme", "--json") as process,
    ):
        coming = asyncio.create_task(line(process))
        while not coming.done():  # the command takes a moment to begin
            for tenant, user in ((None, "stranger"), ("globex", "stranger"), ("acme", "alice")):
                await (await connect(server, tmp_path, user, tenant)).leave()
            await asyncio.wait([coming], timeout=0.2)
        assert [json.loads(await each)["userId"] for each in (coming, line(process))] == ["alice", "alice"]


def test_a_tenants_key_is_shown_with_the_line_for_the_settings(tmp_path: Path) -> None:
    ended = herenow("token", "--api-key", "--tenant", "acme", cwd=tmp_path)
    setting = next(row.removeprefix("setting  ") for row in ended.stdout.splitlines() if row.startswith("setting"))
    settings = Settings.load(**tomllib.loads(setting))
    assert set(settings.tenant_api_keys) == {"acme"}
    made = answer(herenow("token", "--api-key", "--tenant", "acme", "--json", cwd=tmp_path))
    assert (made["setting"], made["tenant"]) == ("tenant_api_keys", "acme")
    ended = herenow("token", "--user", "alice", "--tenant", "acme", cwd=tmp_path, HERENOW_JWT_SECRET=SECRET)
    assert jwt.decode(ended.stdout.strip(), SECRET, algorithms=["HS256"])["tenant"] == "acme"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("token", "--user", "alice", "--tenant", "a b"), "tenant"),
        (("token", "--admin-token", "--tenant", "acme"), "--tenant"),
        (("explain", "alice", "--tenant", ""), "tenant"),
        (("watch", "--tenant", "a/b"), "tenant"),
    ],
)
def test_what_names_no_tenant_is_said_in_a_sentence(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    ended = herenow(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert word in ended.stderr
