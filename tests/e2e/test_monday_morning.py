"""docs/mongodb.md, typed in: its commands in their order against a real mongod, and its client against the server."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from cli_support import herenow, serving_process
from clients import Client
from e2e.lives import page_of_the_example
from mongod import Mongod
from support import ROOT, until

PAGE = (ROOT / "docs" / "mongodb.md").read_text()
SECRET = "a secret of at least thirty-two bytes"
ADDRESS = "mongodb://127.0.0.1:27017/shop"


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
    """What was printed, without what differs from run to run: ids, the time, and the widths that follow from them."""
    printed = re.sub(r"\b[0-9a-f]{24}\b", "ID", printed)
    printed = re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}", "TIME", printed)
    return " ".join(re.sub("─+", "─", printed).split())


def users(mongod: Mongod) -> list[dict[str, Any]]:
    with mongod.client() as client:
        return list(client["shop"]["users"].find())


def untouched(users: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The users without what is herenow's."""
    ours = {"isOnline", "lastActive", "presence"}
    return [{key: value for key, value in user.items() if key not in ours} for user in users]


async def test_the_page_holds_from_the_first_command_to_the_client(mongod: Mongod, tmp_path: Path) -> None:
    url = mongod.url("shop")
    seeded: list[dict[str, Any]] = []
    ended: list[tuple[str, int]] = []
    for command, printed in steps():
        done = run(command.replace(ADDRESS, url), tmp_path, url)
        ended.append((command, done.returncode))
        assert done.stderr == "", command
        assert same(printed.replace(ADDRESS, url)) == same(done.stdout), command
        seeded = seeded or users(mongod)
    assert [code for command, code in ended if command == "herenow status"] == [1, 0]
    assert [code for command, code in ended if command == "herenow stale"] == [1], "it found some"
    assert {code for command, code in ended if command not in ("herenow status", "herenow stale")} == {0}

    adopted = users(mongod)
    assert len(seeded) == 9
    assert untouched(adopted) == untouched(seeded)
    assert not any(user["isOnline"] for user in adopted)
    assert all("lastActive" in user for user in adopted)

    settings = {"HERENOW_DATABASE": url, "HERENOW_JWT_SECRET": SECRET}
    with serving_process(tmp_path, dev=False, **settings) as server:
        alice, bruno = (str(user["_id"]) for user in adopted[:2])

        def sign(user: str) -> str:
            return jwt.encode({"sub": user}, SECRET)

        async with page_of_the_example(server.address, sign(alice), bruno) as page:
            await until(lambda: page.happened == [f"{bruno} false"])
            client = await Client.connect(server.address, token=sign(bruno))
            await until(lambda: page.happened[1:] == [f"{bruno} true"])
            await until(lambda: users(mongod)[1]["isOnline"])
            await client.leave()
            await until(lambda: page.happened[2:] == [f"{bruno} false"])
        await until(lambda: not any(user["isOnline"] for user in users(mongod)))
        assert untouched(users(mongod)) == untouched(seeded)
