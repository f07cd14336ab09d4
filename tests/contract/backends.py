"""The databases that the contract suite runs against, each as its application sees it.

To add a store, write its ``Backend`` and put it into ``BACKENDS``.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from bson import Int64, Regex
from pymongo import UpdateOne

import mongod
from herenow.store.base import Store
from herenow.store.mongo.store import MongoStore
from herenow.store.sqlite.store import SqlStore


class Backend(Protocol):
    """One scratch database."""

    def __init__(self, directory: Path) -> None: ...

    def store(self) -> Store:
        """Give a further handle on the database, as another process would have; not opened yet."""
        ...

    async def add_users(self, user_ids: Iterable[str]) -> None:
        """Create users as the application does, knowing nothing of presence. The store is prepared already."""
        ...

    async def overwrite(self, user_id: str, *, is_online: bool) -> None:
        """Set ``isOnline`` of a user who is there and leave the rest, as another program might."""
        ...

    async def age_nodes(self, ms: int) -> None:
        """Let the last beats be so much older: as if the clock of the database had been set ahead."""
        ...

    def ways_to_damage_nodes(self) -> Sequence[object]:
        """What an operator might do to the row of a server by hand."""
        ...

    async def damage_nodes(self, way: object) -> None:
        """Do it."""
        ...

    async def forget_locks(self) -> None:
        """Remove the lock, as an operator might, so that only the rows say who owns the store."""
        ...


class Sqlite:
    """A file that herenow made."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "herenow.db"

    def store(self) -> Store:
        return SqlStore(f"sqlite:///{self.path}")

    async def add_users(self, user_ids: Iterable[str]) -> None:
        self._change("INSERT OR IGNORE INTO users (id) VALUES (?)", [(user_id,) for user_id in user_ids])

    async def overwrite(self, user_id: str, *, is_online: bool) -> None:
        self._change('UPDATE users SET "isOnline" = ? WHERE id = ?', [(is_online, user_id)])

    async def age_nodes(self, ms: int) -> None:
        self._change("UPDATE herenow_nodes SET beat_ms = beat_ms - ?", [(ms,)])

    def ways_to_damage_nodes(self) -> Sequence[object]:
        second = "('two', 2, 'here', 1, '', '', 0, 0, 5000)"
        return (
            "UPDATE herenow_nodes SET pid = 'a word', beat_ms = 'soon'",
            "UPDATE herenow_nodes SET lease_ms = -1",
            "UPDATE herenow_nodes SET epoch = 99",
            "UPDATE herenow_nodes SET name = x'ff00'",
            f"INSERT INTO herenow_nodes VALUES {second}",
            "DELETE FROM herenow_nodes",
            "DROP TABLE herenow_nodes",
        )

    async def damage_nodes(self, way: object) -> None:
        self._change(str(way), [()])

    async def forget_locks(self) -> None:
        self.path.with_name(f"{self.path.name}-lock").unlink()

    def _change(self, statement: str, parameters: Sequence[tuple[object, ...]]) -> None:
        connection = sqlite3.connect(self.path)
        with connection:
            connection.executemany(statement, parameters)
        connection.close()


class AdoptedSqlite(Sqlite):
    """An application's file, with its own ``users`` table."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._change("CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT NOT NULL, isOnline BOOLEAN)", [()])

    async def add_users(self, user_ids: Iterable[str]) -> None:
        rows = [(user_id, f"{user_id}@example.org") for user_id in user_ids]
        self._change("INSERT OR IGNORE INTO users (id, email) VALUES (?, ?)", rows)


class Mongo:
    """A database of a MongoDB server that herenow made, and creates users in."""

    replica_set = False
    create_users = True

    def __init__(self, directory: Path) -> None:
        self.server = mongod.shared(replica_set=self.replica_set)
        self.database = mongod.fresh_database()

    def store(self) -> Store:
        return MongoStore(self.server.url(self.database), create_users=self.create_users)

    async def add_users(self, user_ids: Iterable[str]) -> None:
        writes = [
            UpdateOne({"_id": user_id}, {"$setOnInsert": {"email": f"{user_id}@example.org"}}, upsert=True)
            for user_id in user_ids
        ]
        with self.server.client() as client:
            client[self.database].users.bulk_write(writes, ordered=False)

    async def overwrite(self, user_id: str, *, is_online: bool) -> None:
        with self.server.client() as client:
            client[self.database].users.update_one({"_id": user_id}, {"$set": {"isOnline": is_online}})

    async def age_nodes(self, ms: int) -> None:
        with self.server.client() as client:
            client[self.database].herenow_nodes.update_many({}, {"$inc": {"beat_ms": Int64(-ms)}})

    def ways_to_damage_nodes(self) -> Sequence[object]:
        return (
            {"$set": {"pid": "a word", "beat_ms": "soon"}},
            {"$unset": {"host": 1, "lease_ms": 1}},
            {"$set": {"epoch": 99}},
            {"$set": {"name": Regex("^o"), "address": float("nan")}},
            {"$set": {"lease_ms": -1}},
            "a second row",
            "removed",
            "dropped",
        )

    async def damage_nodes(self, way: object) -> None:
        with self.server.client() as client:
            nodes = client[self.database].herenow_nodes
            match way:
                case "a second row":
                    nodes.insert_one({"name": "two"})
                case "removed":
                    nodes.delete_many({})
                case "dropped":
                    nodes.drop()
                case dict():
                    nodes.update_one({"_id": "users"}, way)

    async def forget_locks(self) -> None:
        """There is none."""


class AdoptedMongo(Mongo):
    """An application's own collection, on the primary of a replica set."""

    replica_set = True
    create_users = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        with self.server.client() as client:
            client[self.database].create_collection("users")


BACKENDS: dict[str, type[Backend]] = {
    "sqlite": Sqlite,
    "sqlite, adopted": AdoptedSqlite,
    "mongodb": Mongo,
    "mongodb, adopted": AdoptedMongo,
}
