"""Databases as an application has them, which writes what it likes beside a running server: its own SQLite table, its
MongoDB collection."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import mongod


class Application(Protocol):
    """An application's users, of whom each has a name; herenow creates none."""

    def __init__(self, directory: Path) -> None: ...

    @property
    def url(self) -> str:
        """The database's address."""
        ...

    def add(self, *user_ids: str) -> None:
        """Create users."""
        ...

    def overwrite(self, user_id: str, **fields: Any) -> None:
        """Write raw values: ``isOnline``, ``lastActive``, ``version``, ``availability``, ``claim``."""
        ...

    def save_whole(self, user_id: str, **fields: Any) -> None:
        """Save all of a user that the application knows, as an ODM does: what is herenow's is gone."""
        ...

    def two_fields(self, user_id: str) -> tuple[object, object]:
        """The raw ``isOnline``, and ``lastActive`` in milliseconds or, where it is no time, as it is."""
        ...

    def drop(self) -> None:
        """Drop the table or collection."""
        ...

    def rename(self, name: str, to: str) -> None:
        """Rename it."""
        ...

    def empty(self) -> None:
        """Remove all users."""
        ...

    def drop_indexes(self) -> None:
        """Drop herenow's indexes."""
        ...

    def indexes(self) -> set[str]:
        """The names of those that are there."""
        ...

    def restore(self, *user_ids: str) -> None:
        """Put the table or collection back as it was before herenow came."""
        ...


_COLUMNS = {
    "isOnline": "isOnline",
    "lastActive": "lastActive",
    "version": "presenceVersion",
    "availability": "presenceAvailability",
    "claim": "presenceClaim",
}


class Sqlite:
    """An application with a SQLite file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "shop.db"
        self.restore()

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def add(self, *user_ids: str) -> None:
        for user_id in user_ids:
            self._run("INSERT INTO users (id, name) VALUES (?, ?)", user_id, user_id.title())

    def overwrite(self, user_id: str, **fields: Any) -> None:
        for name, value in fields.items():
            value = _text(value) if isinstance(value, datetime) else value
            self._run(f"UPDATE users SET {_COLUMNS[name]} = ? WHERE id = ?", value, user_id)

    def save_whole(self, user_id: str, **fields: Any) -> None:
        self._run("DELETE FROM users WHERE id = ?", user_id)
        self.add(user_id)
        self.overwrite(user_id, **fields)

    def two_fields(self, user_id: str) -> tuple[object, object]:
        ((is_online, last_active),) = self._run("SELECT isOnline, lastActive FROM users WHERE id = ?", user_id)
        try:
            return is_online, round(datetime.fromisoformat(last_active).timestamp() * 1000)
        except (TypeError, ValueError):
            return is_online, last_active

    def drop(self) -> None:
        self._run("DROP TABLE users")

    def rename(self, name: str, to: str) -> None:
        self._run(f"ALTER TABLE {name} RENAME TO {to}")

    def empty(self) -> None:
        self._run("DELETE FROM users")

    def drop_indexes(self) -> None:
        for name in self.indexes():
            self._run(f"DROP INDEX {name}")

    def indexes(self) -> set[str]:
        found = self._run("SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE 'herenow%'")
        return {name for (name,) in found}

    def restore(self, *user_ids: str) -> None:
        self._run("CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT NOT NULL)")
        self.add(*user_ids)

    def _run(self, statement: str, *values: object) -> list[Any]:
        connection = sqlite3.connect(self.path, timeout=10)
        with connection:
            found = connection.execute(statement, values).fetchall()
        connection.close()
        return found


class Mongo:
    """An application with a collection of MongoDB."""

    def __init__(self, directory: Path) -> None:
        self._name = mongod.fresh_database()
        self.restore()

    @property
    def url(self) -> str:
        return mongod.shared().url(self._name)

    def add(self, *user_ids: str) -> None:
        with mongod.shared().client() as client:
            client[self._name].users.insert_many([{"_id": each, "name": each.title()} for each in user_ids])

    def overwrite(self, user_id: str, **fields: Any) -> None:
        places = {"version": "presence.version", "availability": "presence.availability", "claim": "presence.claim"}
        change = {"$set": {places.get(name, name): value for name, value in fields.items()}}
        with mongod.shared().client() as client:
            client[self._name].users.update_one({"_id": user_id}, change)

    def save_whole(self, user_id: str, **fields: Any) -> None:
        with mongod.shared().client() as client:
            client[self._name].users.replace_one({"_id": user_id}, {"name": user_id.title(), **fields})

    def two_fields(self, user_id: str) -> tuple[object, object]:
        with mongod.shared().client(tz_aware=True) as client:
            found = client[self._name].users.find_one({"_id": user_id}) or {}
        last_active = found.get("lastActive")
        if isinstance(last_active, datetime):
            last_active = round(last_active.timestamp() * 1000)
        return found.get("isOnline"), last_active

    def drop(self) -> None:
        with mongod.shared().client() as client:
            client[self._name].users.drop()

    def rename(self, name: str, to: str) -> None:
        with mongod.shared().client() as client:
            client[self._name][name].rename(to)

    def empty(self) -> None:
        with mongod.shared().client() as client:
            client[self._name].users.delete_many({})

    def drop_indexes(self) -> None:
        with mongod.shared().client() as client:
            client[self._name].users.drop_indexes()

    def indexes(self) -> set[str]:
        with mongod.shared().client() as client:
            return {name for name in client[self._name].users.index_information() if name.startswith("herenow")}

    def restore(self, *user_ids: str) -> None:
        with mongod.shared().client() as client:
            client[self._name].create_collection("users")
        if user_ids:
            self.add(*user_ids)


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


APPLICATIONS: dict[str, type[Application]] = {"sqlite": Sqlite, "mongodb": Mongo}
