"""docs/mongodb.md, typed in: its commands in their order against a real mongod, and its client against the server."""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from cli_support import herenow, serving_process
from clients import Client
from e2e.lives import Life, page_of_the_example
from mongod import Mongod
from support import ROOT, until

PAGE = (ROOT / "docs" / "mongodb.md").read_text()
SECRET = "a secret of at least thirty-two bytes"
ADDRESS = "mongodb://127.0.0.1:27017/shop"
OUR_INDEXES = ["herenow_away_or_busy", "herenow_claims", "herenow_online"]


@pytest.fixture
def mongod() -> Iterator[Mongod]:
    server = Mongod()
    server.start()
    yield server
    server.close()


def steps() -> Iterator[tuple[str, str]]:
    """The commands of the page, each with what the page says that it prints."""
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed


def run(command: str, directory: Path, url: str) -> "subprocess.CompletedProcess[str]":
    """Type a command."""
    program, *arguments = shlex.split(command)
    if program == "python":
        return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return herenow(*arguments, cwd=directory, HERENOW_DATABASE=url)


def same(printed: str) -> str:
    """What was printed, without what differs from run to run: ids, times, and the widths that follow from them."""
    printed = re.sub(r"\b[0-9a-f]{24}\b", "ID", printed)
    printed = re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}", "TIME", printed)
    printed = re.sub(r"\b[0-9.]+ (ms|s|min|h|d) ago", "AGO", printed)
    return " ".join(re.sub("─+", "─", printed).split())


def users(mongod: Mongod) -> list[dict[str, Any]]:
    with mongod.client() as client:
        return list(client["shop"]["users"].find())


def indexes(mongod: Mongod) -> list[str]:
    with mongod.client() as client:
        return list(client["shop"]["users"].index_information())


def untouched(users: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The users without what is herenow's."""
    ours = {"isOnline", "lastActive", "presence"}
    return [{key: value for key, value in user.items() if key not in ours} for user in users]


async def test_the_page_holds_from_the_old_code_to_the_new_and_back(mongod: Mongod, tmp_path: Path) -> None:
    url = mongod.url("shop")
    ended: list[tuple[str, int]] = []
    typed = steps()
    type_in(next(typed), tmp_path, mongod)
    seeded = users(mongod)
    assert len(seeded) == 1_000
    assert sum("isOnline" in user for user in seeded) == 40
    async with Life.lived("node", "node/shop.mjs", url, "old") as old:
        await until(lambda: old.happened, 20)
        assert json.loads(old.happened[0])["online"] == 40
        ended.append(type_in(next(typed), tmp_path, mongod))
    ended += [type_in(step, tmp_path, mongod) for step in typed]
    assert ended == [
        ("herenow init --dry-run", 0),
        ("herenow init", 0),
        ("herenow status", 1),
        ("herenow cleanup", 0),
        ("herenow status", 0),
    ]
    adopted = users(mongod)
    assert untouched(adopted) == untouched(seeded)
    assert not any(user["isOnline"] for user in adopted)
    assert all("lastActive" in user for user in adopted)

    settings: dict[str, Any] = {"HERENOW_DATABASE": url, "HERENOW_JWT_SECRET": SECRET, "HERENOW_AUDIT_EVERY_S": "2"}
    with serving_process(tmp_path, dev=False, **settings) as server:
        alice, bruno = (str(user["_id"]) for user in adopted[:2])

        def sign(user: str) -> str:
            return jwt.encode({"sub": user}, SECRET)

        async with page_of_the_example(server.address, sign(alice), bruno) as page:
            await until(lambda: page.happened == [f"{bruno} false"])
            client = await Client.connect(server.address, token=sign(bruno))
            await until(lambda: page.happened[1:] == [f"{bruno} true"])
            await until(lambda: users(mongod)[1]["isOnline"])
            assert await new_shop(url) == {"online": 2, "toDrop": [], "tells": False}
            await client.call("presence:claim", {"availability": "invisible", "text": "at the dentist"})
            await until(lambda: page.happened[2:] == [f"{bruno} false"])
            await until(lambda: "claim" in users(mongod)[1]["presence"])
            assert await new_shop(url) == {"online": 1, "toDrop": [], "tells": False}
            await client.leave()

        async with Life.lived("node", "node/shop.mjs", url, "sync") as shop:
            await until(lambda: shop.happened, 20)
        assert sorted(json.loads(shop.happened[0])["toDrop"]) == OUR_INDEXES
        for command in ("status", "stale", "explain x", "cleanup --dry-run"):
            ended_so = herenow(*command.split(), cwd=tmp_path, **settings)
            assert ended_so.returncode == 0, (command, ended_so.stderr)
            assert "not prepared" not in ended_so.stdout + ended_so.stderr
        await until(lambda: set(OUR_INDEXES) <= set(indexes(mongod)), 20)
        await until(lambda: not any(user["isOnline"] for user in users(mongod)))
        assert untouched(users(mongod)) == untouched(seeded)

    [back] = re.findall(r"```js\n(db\..*?)```", PAGE, re.DOTALL)
    async with Life.lived("node", "node/mongosh.mjs", url, *back.splitlines()) as shell:
        await until(lambda: shell.happened == ["done"], 20)
    freed = users(mongod)
    assert untouched(freed) == untouched(seeded)
    assert not any("presence" in user or user["isOnline"] for user in freed)
    with mongod.client() as client_of_mongodb:
        assert client_of_mongodb["shop"].list_collection_names() == ["users"]
    assert set(indexes(mongod)) == {"_id_", "email_1"}
    async with Life.lived("node", "node/shop.mjs", url, "old") as old:
        await until(lambda: old.happened, 20)
        assert json.loads(old.happened[0])["online"] == 0


def type_in(step: tuple[str, str], directory: Path, mongod: Mongod) -> tuple[str, int]:
    """Type a command of the page, and see that it prints what the page says; return it, and its exit code."""
    command, printed = step
    url = mongod.url("shop")
    done = run(command.replace(ADDRESS, url), directory, url)
    assert done.stderr == "", command
    assert same(printed.replace(ADDRESS, url)) == same(done.stdout), command
    return command, done.returncode


async def new_shop(url: str) -> dict[str, Any]:
    """What an application sees that has the page's schema, and what it tells in the JSON of all its users."""
    with program_of_the_new_shop() as program:
        async with Life.lived("node", program, url, "new") as shop:
            await until(lambda: shop.happened, 20)
    seen: dict[str, Any] = json.loads(shop.happened[0])
    return seen


@contextlib.contextmanager
def program_of_the_new_shop() -> Iterator[str]:
    [schema] = re.findall(r"```js\n(import mongoose.*?)```", PAGE, re.DOTALL)
    with tempfile.TemporaryDirectory(dir=ROOT / "tests/node", prefix=".shop-") as directory:
        Path(directory, "user.mjs").write_text(schema)
        yield shutil.copy(ROOT / "tests/node/shop.mjs", directory)
