"""Redis is away for a while: what a node keeps meanwhile is bounded by whom it served when that began."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from fastapi import FastAPI

import redis_server
from clients import Client, Refused
from herenow.errors import RegistryUnavailable
from herenow.presence import Presence
from support import serving, until
from wired import mount_wire

CLIENTS = 30


async def test_who_comes_and_goes_while_redis_is_away_leaves_nothing_behind(tmp_path: Path) -> None:
    """Clients try again and again, for as long as it takes: each try was kept, to be told of once Redis is back."""
    redis = redis_server.RedisServer()
    redis.start()
    app = FastAPI()
    presence = Presence(
        f"sqlite:///{tmp_path}/app.db", cluster=redis.url, dev=True, node_beat_s=0.5, node_lease_s=2, restart_grace_s=10
    )
    gateway = mount_wire(presence, app)
    try:
        async with serving(app) as url:
            clients = [await Client.connect(url, f"user-{number}") for number in range(CLIENTS)]
            redis.kill()
            cluster = presence.cluster
            assert cluster is not None
            await until(lambda: cluster.here.away_since_s is not None)
            for client in clients[1:]:
                await client.close()
            for number in range(3 * CLIENTS):
                with pytest.raises(Refused) as refused:
                    await Client.connect(url, f"user-{number % CLIENTS}")
                assert refused.value.error["data"]["code"] == "unavailable"
            await asyncio.sleep(1)
            assert len(gateway._departures._told) == CLIENTS - 1, "who was there, once"
            redis.start()
            await until(lambda: not gateway._departures._told)
            assert (await clients[0].call("presence:active"))["ok"]
            for _ in range(100):
                with contextlib.suppress(RegistryUnavailable):  # until it is known whom the store has
                    if (await presence.stats()).connections == 1:
                        break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError("who has stayed is not said again")
            await clients[0].leave()
    finally:
        redis.close()
