"""From one server to a node of a cluster and back, renewed in its place: nobody is seen to go."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

import mongod
import redis_server
from e2e.renewable import Renewable, crowd, renewable
from support import http_get, until

USERS = 20


@pytest.mark.parametrize("database", ["sqlite", "mongodb"])
async def test_a_server_becomes_a_node_and_alone_again_and_nobody_is_seen_to_go(tmp_path: Path, database: str) -> None:
    mongodb = None if database == "sqlite" else mongod.shared().url(mongod.fresh_database())
    settings = tmp_path / "herenow.toml"
    cluster = f'cluster = "{redis_server.shared("redis").url}"\ncluster_prefix = "{redis_server.fresh_prefix()}"\n'
    with renewable(tmp_path, mongodb=mongodb) as server:
        async with crowd(server, USERS) as seen:
            for life, text in ((2, cluster), (3, cluster), (4, "")):
                settings.write_text(text)
                server.hang_up()
                await until(partial(lives, server, life, is_node=bool(text)), 40)
                await until(partial(are_back, server), 30)
            await asyncio.sleep(3)
            assert seen == []
            assert server.counts() == (USERS + 1, 0)


def lives(server: Renewable, life: int, *, is_node: bool) -> bool:
    """Whether the code has begun so often, and serves as it is to."""
    *_, last, _ = ["", *server.said().split("watch it")]
    return server.said().count("watch it") >= life and ("\n  cluster " in last) == is_node


def are_back(server: Renewable) -> bool:
    """Whether all have come back."""
    try:
        return bool(http_get(f"{server.address}/v1/stats", timeout=2).json().get("connections") == USERS + 1)
    except Exception:
        return False
