"""The work of the suites ``store`` and ``restart`` in a process of its own, so that its memory is its own.

``python -m benchmarks.storing WHAT URL COUNT`` prints one JSON object of figures.

- ``init``: adopt the users that are there.
- ``burst``: write COUNT changed users online and offline again, twice, with the server's own writer.
- ``crash``: leave COUNT users online, of a server that is dead.
- ``settle``: everyone offline.
"""

import asyncio
import contextlib
import json
import sqlite3
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from herenow.keeper.writer import Writer
from herenow.model import Availability, StoredUser
from herenow.settings import Settings
from herenow.store.base import Store
from herenow.store.nodes import Node
from herenow.store.opening import open_store

US_BETWEEN = 40
"""Microseconds between two changes of a burst: 25,000 a second."""

WRITTEN_S = 120.0
"""How long a burst may take."""

Figures = dict[str, Any]


def peak_mb() -> float:
    """The most memory that this process has held, in MB.

    It is read from Linux: ``getrusage`` goes on from what the parent held when this process was started.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kib * 1024 / 1e6


def some_ids(url: str, count: int) -> list[str]:
    """Return the ids of so many users, spread over all of them."""
    if url.startswith("sqlite:"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            (users,) = connection.execute("SELECT count(*) FROM users").fetchone()
            every = max(1, users // count)
            rows = connection.execute("SELECT id FROM users WHERE CAST(substr(id, 2) AS INTEGER) % ? = 0", (every,))
            return [user_id for (user_id,) in rows.fetchmany(count)]
    with MongoClient[dict[str, Any]](url) as client:
        collection = client.get_default_database()["users"]
        every = max(1, collection.estimated_document_count() // count)
        found = (str(each["_id"]) for each in collection.find({}, {"_id": 1}))
        return [user_id for place, user_id in enumerate(found) if place % every == 0][:count]


def rows(user_ids: Sequence[str], *, online: bool) -> list[StoredUser]:
    """Rows as the registry gives them in a burst: each with a version of its own, some with the same millisecond."""
    now_us = time.time_ns() // 1000
    availability = Availability.ONLINE if online else Availability.OFFLINE
    return [
        StoredUser(user_id, online, availability, (now_us + place * US_BETWEEN) // 1000, None, now_us + place)
        for place, user_id in enumerate(user_ids)
    ]


async def write(store: Store, user_ids: Sequence[str], *, online: bool) -> float:
    """Let the product's own writer write them; return the rows a second."""
    writer = Writer(store)
    work = asyncio.create_task(writer.run())
    changed = rows(user_ids, online=online)
    began_s = time.monotonic()
    writer.submit(changed)
    waiting = await writer.drain(WRITTEN_S)
    took_s = time.monotonic() - began_s
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert not waiting and writer.state().written == len(user_ids), writer.state()
    return len(user_ids) / took_s


async def init(store: Store, url: str, count: int) -> Figures:
    """Adopt the users."""
    before_mb, began_s = peak_mb(), time.monotonic()
    await store.init()
    return {"init_s": time.monotonic() - began_s, "init_peak_mb": peak_mb(), "init_before_mb": before_mb}


async def burst(store: Store, url: str, count: int) -> Figures:
    """Write many changed users at once."""
    user_ids = some_ids(url, count)
    rates = [await write(store, user_ids, online=online) for online in (True, False, True, False)]
    return {"burst_per_s": statistics.median(rates), "burst_least_per_s": min(rates), "burst_us": 1e6 / min(rates)}


async def crash(store: Store, url: str, count: int) -> Figures:
    """Leave what a killed server leaves."""
    user_ids = some_ids(url, count)
    await write(store, user_ids, online=True)
    await store.claim_node(Node("local", 1, "elsewhere", 1, "", "", 0, 0, lease_ms=1))
    return {"users": len(user_ids), "somebody": user_ids[0]}


async def settle(store: Store, url: str, count: int) -> Figures:
    """Set everyone offline."""
    return {"were_online": await store.reset(version=time.time_ns() // 1000)}


async def main(what: str, url: str, count: int) -> Figures:
    """Do it."""
    store = open_store(Settings.load(database=url, database_timeout_s=120))
    await store.open()
    try:
        return await {"init": init, "burst": burst, "crash": crash, "settle": settle}[what](store, url, count)
    finally:
        await store.close()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))) + "\n")
