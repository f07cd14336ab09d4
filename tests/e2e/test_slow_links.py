"""Presence over slow links: who reads slowly is served, who reads nothing is ended; at 100 kB/s, to be quick."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec

from clients import Client
from e2e.servers import PresenceServer
from slow_link import SlowLink, slow_link
from support import Poller, connect_socket, receive

PING_S, PONG_S, SLOW_S = 1.0, 0.5, 1.5
RATE = 100_000.0
USERS, A_CALL = 3_000, 1_000
ASKED = [[f"{place:05}{'x' * 60}" for place in range(at, at + A_CALL)] for at in range(0, USERS, A_CALL)]
"""Users with long ids: a snapshot of all of them has some 500 kB."""

MARGIN_S = 1.5


def calls() -> list[str]:
    return [
        f"42{number}" + msgspec.json.encode(["presence:watch", {"users": users}]).decode()
        for number, users in enumerate(ASKED, 1)
    ]


def snapshot_of(answers: list[str]) -> int:
    """How many users the acknowledgements among some packets hold."""
    acks = [msgspec.json.decode(answer[3:]) for answer in answers if answer.startswith("43")]
    return sum(len(ack["users"]) for [ack] in acks)


async def reads_on_websocket(link: SlowLink) -> None:
    """It asks for everything in one go."""
    ws = await connect_socket(link.url, '40{"userId":"slow"}')
    for call in calls():
        await ws.send(call)
    got: list[str] = []
    while snapshot_of(got) < USERS:
        got.append(str(await receive(ws, timeout_s=20)))
    assert link.carried > 3 * PING_S * RATE
    await ws.send("41")
    await ws.close()


async def reads_by_polling(link: SlowLink) -> None:
    async with Poller(link.url) as poller:
        poller.http.timeout = httpx.Timeout(30)
        await poller.open()
        await poller.post('40{"userId":"polls"}')
        await poller.get()
        await poller.post("\x1e".join(calls()))
        got: list[str] = []
        while snapshot_of(got) < USERS:
            answer = await poller.get()
            assert answer.status_code == 200, answer.text
            got += answer.text.split("\x1e")
            if "2" in got[-2:]:
                await poller.post("3")
        await poller.post("41")
        await poller.post("1")


async def reads_nothing(watcher: Client, link: SlowLink, user: str, within_s: float, *, pongs: bool) -> None:
    """It asks, and its link carries no more; with ``pongs`` it answers the pings that it never got."""
    ws = await connect_socket(link.url, f'40{{"userId":"{user}"}}')
    await watcher.until(lambda: watcher.shows(user) == "online")
    for call in calls():
        await ws.send(call)
    while link.carried < link.stops_after:  # noqa: ASYNC110  # it is the relay's
        await asyncio.sleep(0.01)
    began = time.monotonic()
    offline = asyncio.create_task(watcher.until(lambda: watcher.shows(user) == "offline", 20))
    while not offline.done():
        if pongs:
            await ws.send("3")
        await asyncio.sleep(0.2)
    await offline
    assert time.monotonic() - began < within_s + 2.0 + MARGIN_S
    ws.transport.abort()


async def test_who_reads_slowly_gets_a_snapshot_of_3000_users_and_who_reads_nothing_is_ended(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"ping_interval_s": PING_S, "ping_timeout_s": PONG_S, "slow_reader_timeout_s": SLOW_S}
    server = PresenceServer(tmp_path / "app.db", **settings)
    await asyncio.to_thread(server.start)
    try:
        watcher = await Client.connect(server.url, "watcher")
        await watcher.watch("slow", "polls", "dead", "mute")
        async with (
            slow_link(server.url, RATE) as one,
            slow_link(server.url, RATE) as two,
            slow_link(server.url, RATE, stops_after=80_000) as dead,
            slow_link(server.url, RATE, stops_after=80_000) as mute,
        ):
            await asyncio.gather(
                reads_on_websocket(one),
                reads_by_polling(two),
                reads_nothing(watcher, dead, "dead", PING_S + PONG_S, pongs=False),
                reads_nothing(watcher, mute, "mute", SLOW_S * 1.25, pongs=True),
            )
        await watcher.until(lambda: (watcher.shows("slow"), watcher.shows("polls")) == ("offline", "offline"))
        causes = {user: watcher.causes(user) for user in ("slow", "polls", "dead", "mute")}
        assert causes["slow"] == causes["polls"] == ["connect", "left"]
        assert causes["dead"] == ["connect", "timeout"]
        assert causes["mute"] == ["connect", "error"]
        await watcher.leave()
    finally:
        server.stop()
