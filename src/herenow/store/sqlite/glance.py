"""Who owns a SQLite store, at a glance: with Python's own module alone.

A command that finds a live server needs nothing else of the store, and SQLAlchemy would be half of its second.
"""

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

from herenow.store.nodes import Node, read_roll

WAIT_S = 1.0
"""How long another program's lock is waited for."""

_COLUMNS = ", ".join(Node.__struct_fields__)


def live_node(path: Path, now_ms: int) -> Node | None:
    """Return the live node of a store; ``None`` if there is none, or on any doubt: ``SqlStore`` says which."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=WAIT_S)) as file:
            found = file.execute(f"SELECT {_COLUMNS} FROM herenow_nodes").fetchall()
    except sqlite3.Error:
        return None
    rows = (dict(zip(Node.__struct_fields__, row, strict=True)) for row in found)
    roll = read_roll(rows, database_ms=now_ms, here_ms=now_ms)
    return next((sighting.node for sighting in roll.sightings if sighting.is_fresh), None)
