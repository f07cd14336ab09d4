"""``herenow status`` with many users, in short; ``make soak`` does it with 100,000 and 10,000."""

import asyncio
from pathlib import Path

from e2e.at_size import fill, status_looks


def test_a_look_at_a_server_with_many_users_takes_a_second_at_most(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path / "app.db", 20_000))
    # The best of three: the others may have met whatever else runs on the machine.
    assert status_looks(tmp_path / "app.db", connected=500, looks=3).seconds[0] <= 1
