"""A large collection of users: made once for all suites of a run, on MongoDB and on SQLite, as an application has it.

The users are those of an application that has never heard of presence: an id, an address, a password. herenow adopts
them with ``init``, as it would in earnest. They are made inside the databases, which is ten times as fast as to send
them.
"""

import contextlib
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from benchmarks import database
from benchmarks.suite import Plan

MONGODB = "mongodb"
SQLITE = "sqlite"

KEPT = contextlib.ExitStack()
"""What is kept until the run ends: the databases."""

BLOCK = 1000
"""Users are made from a list of blocks, each of so many."""


CACHE_GB = 1.0
"""MongoDB's cache: the users and their indexes fit in, as on a server of that size."""


CORES = frozenset(os.sched_getaffinity(0)) if sys.platform == "linux" else None
"""All cores: it is the database that is measured here, and its work is spread over as many as it has."""


@dataclass(slots=True)
class Million:
    """Where the users are.

    Attributes:
        urls: of the databases, by their kind.
        adopted: the kinds that ``init`` has been through.
    """

    urls: dict[str, str]
    adopted: set[str] = field(default_factory=set)


_made: dict[int, Million] = {}


@contextlib.contextmanager
def lent(plan: Plan) -> Iterator[None]:
    """See that the users are there. They stay until the run ends, for the next suite."""
    if plan.users not in _made:
        with contextlib.ExitStack() as opened:
            directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="herenow-bench-")))
            opened.enter_context(database.running(cache_gb=CACHE_GB, cores=CORES))
            urls = {MONGODB: os.environ[database.URL], SQLITE: f"sqlite:///{directory / 'million.db'}"}
            _fill_mongodb(urls[MONGODB], plan.users)
            _fill_sqlite(directory / "million.db", plan.users)
            _made[plan.users] = Million(urls)
            KEPT.push(opened.pop_all())
            KEPT.callback(_made.clear)
    yield


def of(plan: Plan) -> Million:
    """Return the users, inside ``lent``."""
    return _made[plan.users]


def online(url: str) -> int:
    """How many users a database shows online."""
    if url.startswith("sqlite:"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM users WHERE isOnline").fetchone()
            return int(count)
    with MongoClient[dict[str, Any]](url) as client:
        return client.get_default_database()["users"].count_documents({"isOnline": True})


def _fill_mongodb(url: str, count: int) -> None:
    with MongoClient[dict[str, Any]](url) as client:
        db = client.get_default_database()
        db["blocks"].insert_many([{"_id": start} for start in range(0, count, BLOCK)])
        numbered = {"$concat": ["user", {"$toString": "$n"}, "@example.org"]}
        db["blocks"].aggregate(
            [
                {"$set": {"n": {"$range": ["$_id", {"$min": [{"$add": ["$_id", BLOCK]}, count]}]}}},
                {"$unwind": "$n"},
                {"$project": {"_id": 0, "email": numbered, "password": "x" * 60, "bio": "y" * 80}},
                {"$out": "users"},  # which gives each an ObjectId
            ]
        )
        db["blocks"].drop()


def _fill_sqlite(path: Path, count: int) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT, password TEXT) WITHOUT ROWID")
        connection.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?) "
            "INSERT INTO users SELECT printf('u%07d', n), 'user' || n || '@example.org', ? FROM numbers",
            (count, "x" * 60),
        )
