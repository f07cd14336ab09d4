"""How often a user may connect."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI

from captured import capture_logs
from clients import Client, Refused
from herenow import Presence
from herenow.gateway.access.comings import _SLACK, Comings
from herenow.sparing import A_MINUTE
from raw import Raw, client_frame
from support import serving, until
from wired import mount_wire


def test_all_tabs_may_come_at_once_and_then_each_at_its_time() -> None:
    comings = Comings(5, 100)
    assert [comings.may_come("alice", 0.0) for _ in range(101)] == [True] * 100 + [False]
    assert [comings.may_come("alice", 1.0) for _ in range(6)] == [True] * 5 + [False]
    assert comings.may_come("bob", 1.0)
    assert [comings.may_come("alice", 100.0) for _ in range(101)] == [True] * 100 + [False]


def test_of_a_crowd_that_came_once_nothing_is_kept() -> None:
    comings = Comings(5, 100)
    for number in range(20 * _SLACK):
        assert comings.may_come(f"user-{number}", number / 1000)
    assert len(comings._used_until_s) < 3 * _SLACK


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[tuple[str, Presence]]:
    presence = Presence(f"sqlite:///{directory}/app.db", dev=True)
    app = FastAPI()
    mount_wire(presence, app)
    async with serving(app) as url:
        yield url, presence


async def test_who_connects_and_leaves_in_a_loop_in_one_session_is_slowed_down_and_fills_no_log(tmp_path: Path) -> None:
    """One was let in 493 times a second, with three lines of the log each: 26 GB a day."""
    async with served(tmp_path) as (url, presence):
        bob = await Client.connect(url, "bob")
        await bob.watch("alice")
        raw = await Raw.upgrade(url)
        with capture_logs() as lines:
            for _ in range(400):
                await raw.send(client_frame(b'40{"userId":"alice"}') + client_frame(b"41"))
            refused = presence.meters.refused.labels("rate_limited")
            await until(lambda: refused._value.get() > 5)
            presence.lines.begin(lambda event, **fields: lines.append({"event": event, **fields}))
        assert presence.meters.connects._value.get() <= 2 + 100 + 5 * 60
        events = Counter(line["event"] for line in lines)
        assert (events["connected"], events["disconnected"], events["lines left out"]) == (A_MINUTE, A_MINUTE, 2)
        assert events["change"] <= A_MINUTE
        assert events["connection refused"] == 1
        raw.abort()
        await bob.until(lambda: bob.shows("alice") == "offline")
        await bob.close()


async def test_who_is_told_to_wait_may_come_again_after_that(tmp_path: Path) -> None:
    async with served(tmp_path) as (url, presence):
        for _ in range(presence.settings.max_connections_per_user):
            await (await Client.connect(url, "alice")).leave()
        with pytest.raises(Refused) as refused:
            for _ in range(100):
                await (await Client.connect(url, "alice")).leave()
        data = refused.value.error["data"]
        assert (data["code"], data["temporary"]) == ("rate_limited", True)
        await asyncio.sleep(data["retryAfterMs"] / 1000)
        await (await Client.connect(url, "alice")).leave()
