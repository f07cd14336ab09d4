"""What other processes do to a database in the tests: ``python child.py COMMAND PATH``, which prints when it is ready.

own     a server: claims the store and lives until it is killed
lock    another program: keeps the database locked until a line comes in, or it is killed
read    another program: keeps reading the state of now until a line comes in, or it is killed
write   a server in a storm: writes batch after batch, each with a version of its own, and prints it
"""

import asyncio
import sqlite3
import sys
import time
from itertools import count

import msgspec

from herenow.model import Availability, StoredUser
from herenow.store.nodes import Node
from herenow.store.sqlite.store import SqlStore

WRITTEN_USERS = 400
BASE_MS = 1_740_000_000_000


def row_of(number: int, version: int) -> StoredUser:
    """The row of a user at a version: every field follows from the two, so that half a row would show."""
    is_online = version % 2 == 1
    availability = Availability.ONLINE if is_online else Availability.OFFLINE
    return StoredUser(f"user-{number:04}", is_online, availability, BASE_MS + version, None, version)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def own(path: str) -> None:
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    node = Node.here(name="child", epoch=1, address="http://child", now_ms=time.time_ns() // 10**6, lease_ms=60_000)
    await store.claim_node(node)
    (node,) = (await store.roll()).nodes
    say(msgspec.json.encode(node).decode())
    await asyncio.Event().wait()


async def write(path: str) -> None:
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    for version in count(1):
        await store.apply([row_of(number, version) for number in range(WRITTEN_USERS)])
        say(str(version))


def lock(path: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("locked")
    sys.stdin.readline()
    connection.execute("ROLLBACK")
    connection.close()


def read(path: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM users").fetchone()
    say("reading")
    sys.stdin.readline()
    connection.close()


if __name__ == "__main__":
    command, path = sys.argv[1:]
    if command in ("lock", "read"):
        {"lock": lock, "read": read}[command](path)
    else:
        asyncio.run({"own": own, "write": write}[command](path))
