"""The MongoDB store at a size: adopting, counting, a burst of changes, and the start after a crash.

python -m benchmarks.mongo_store mongodb://127.0.0.1:27017/scratch [--users 1000000] [--online 100000]

The database must be empty; it is dropped at the end. Prints what DESIGN and the README promise, and what was measured.
"""

import argparse
import asyncio
import logging
import random
import resource
import sys
import time
from collections.abc import Sequence

import structlog
from bson import ObjectId
from pymongo import MongoClient

from herenow.model import Availability, StoredUser
from herenow.presence import Presence
from herenow.store.mongo import MongoStore
from herenow.store.nodes import Node

BATCH = 1000


def say(what: str, measured: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{what:<58} {measured}\n")
    sys.stdout.flush()


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seed(url: str, users: int) -> list[str]:
    """Create users as an application does; return some of their ids."""
    with MongoClient[dict[str, object]](url) as client:
        collection = client.get_default_database()["users"]
        kept: list[str] = []
        for start in range(0, users, 10_000):
            documents = [
                {"_id": ObjectId(), "email": f"user{n}@example.org", "password": "x" * 60, "bio": "y" * 80}
                for n in range(start, min(users, start + 10_000))
            ]
            collection.insert_many(documents, ordered=False)
            kept += [str(each["_id"]) for each in documents][: max(1, 200_000 * 10_000 // users)]
        return kept


def rows(user_ids: Sequence[str], *, online: bool) -> list[StoredUser]:
    """Rows as the registry gives them: each with a time and a version of its own."""
    now_us = time.time_ns() // 1000
    availability = Availability.ONLINE if online else Availability.OFFLINE
    return [
        StoredUser(user_id, online, availability, now_us // 1000, None, now_us + place)
        for place, user_id in enumerate(user_ids)
    ]


async def burst(store: MongoStore, user_ids: list[str], *, online: bool) -> float:
    """Write batch after batch, as the writer does; return the rows a second."""
    random.shuffle(user_ids)
    began_s = time.monotonic()
    for start in range(0, len(user_ids), BATCH):
        await store.apply(rows(user_ids[start : start + BATCH], online=online))
    return len(user_ids) / (time.monotonic() - began_s)


async def measure(url: str, users: int, online: int) -> None:
    """Do it all."""
    ids = seed(url, users)
    store = MongoStore(url)
    before_mb = peak_mb()
    began_s = time.monotonic()
    await store.init()
    say(f"init of {users:,} users", f"{time.monotonic() - began_s:.1f} s, {peak_mb():.0f} MB ({before_mb:.0f} before)")
    sample = ids[:50_000]
    for turned in (True, False, True, False):
        say(f"a burst of {len(sample):,} changed users", f"{await burst(store, sample, online=turned):,.0f} a second")
    await burst(store, ids[:online], online=True)
    now_ms = time.time_ns() // 10**6
    await store.claim_node(Node("local", 1, "elsewhere", 1, "", "", now_ms - 60_000, now_ms - 60_000, 5000))
    began_s = time.monotonic()
    counts = await store.counts()
    say(f"counts, {counts.online:,} online", f"{(time.monotonic() - began_s) * 1000:.0f} ms")
    await store.close()

    presence = Presence(url, dev=True)
    began_s = time.monotonic()
    await presence.start()
    say(f"start after a crash that left {online:,} online", f"{time.monotonic() - began_s:.1f} s")
    while (await presence.store.counts()).online:  # noqa: ASYNC110  # another program's state sets no event
        await asyncio.sleep(0.1)
    say("all of them decided after the start", f"{time.monotonic() - began_s:.1f} s (restart_grace 15 s)")
    await presence.stop()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--online", type=int, default=100_000)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with MongoClient[dict[str, object]](options.url) as client:
        database = client.get_default_database()
        if database.list_collection_names():
            raise SystemExit(f"the database {database.name} is not empty")
        try:
            asyncio.run(measure(options.url, options.users, options.online))
        finally:
            client.drop_database(database.name)


if __name__ == "__main__":
    main()
