"""Who owns a SQLite store, at a glance: with Python's own module alone.

A command that finds a live server needs nothing else of the store, and SQLAlchemy would be half of its second.
"""

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

import msgspec

from herenow.store.nodes import Node, is_alive

WAIT_S = 1.0
"""How long another program's lock is waited for."""

_COLUMNS = ", ".join(Node.__struct_fields__)


def live_node(path: Path, now_ms: int) -> Node | None:
    """Return the live node of a store; ``None`` if there is none, or on any doubt: ``SqlStore`` says which."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=WAIT_S)) as file:
            found = file.execute(f"SELECT {_COLUMNS} FROM herenow_nodes ORDER BY beat_ms DESC").fetchall()
        nodes = [msgspec.convert(dict(zip(Node.__struct_fields__, row, strict=True)), Node) for row in found]
    except (sqlite3.Error, msgspec.ValidationError):
        return None
    return next((node for node in nodes if is_alive(node, now_ms)), None)
