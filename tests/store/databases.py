"""SQLite files as the application and the operator see them: through the plain driver and the file system."""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def insert(path: Path, table: str, rows: Iterable[Sequence[object]]) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for row in rows:
            connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    connection.close()


def select(path: Path, query: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    found: list[tuple[object, ...]] = connection.execute(query, parameters).fetchall()
    connection.close()
    return found


def files_of(path: Path) -> list[Path]:
    """The database and what stands beside it."""
    return sorted(path.parent.glob(f"{path.name}*"))


def put_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def read_file(path: Path) -> bytes:
    return path.read_bytes()


def link(path: Path, *, to: Path) -> None:
    path.symlink_to(to)
