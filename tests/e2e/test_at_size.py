"""``herenow status`` with many users, in short; ``make soak`` does it with 100,000 and 10,000."""

import asyncio
from pathlib import Path

from e2e.at_size import fill, status_looks


def test_a_look_at_a_server_with_many_users_finds_them_all(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path / "app.db", 5_000))
    assert len(status_looks(tmp_path / "app.db", connected=300, looks=1).seconds) == 1
