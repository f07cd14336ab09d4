"""P9 on MongoDB under a storm of clients, in short; ``make soak`` does it at full length."""

from pathlib import Path

import mongod
from clients import Client
from e2e.troubles import BACK_WITHIN_S, TROUBLES, MongoPresenceServer, troubled_storm
from support import until


async def test_p9_presence_goes_on_through_every_trouble_of_the_database(tmp_path: Path) -> None:
    troubles = await troubled_storm(tmp_path, users=30, seconds=1.5)
    assert [trouble.name for trouble in troubles] == list(TROUBLES)
    for trouble in troubles:
        assert trouble.faults == []
        assert trouble.checks >= 3
        assert trouble.back_after_s < BACK_WITHIN_S


async def test_sigterm_while_the_database_hangs_ends_in_time_and_the_next_start_mends_it(tmp_path: Path) -> None:
    with mongod.running() as database:
        server = MongoPresenceServer(tmp_path, database)
        server.start()
        await Client.connect(server.url, "alice")
        await until(lambda: server.online_rows() == {"alice"})
        database.pause()
        assert server.stop() < 5
        assert "users were not written offline" in server.log()
        database.resume()
        server.start()
        # Its row tells until when alice may have been there. Lines are written beside the serving, a little later.
        await until(lambda: '"dead_nodes": 1' in server.log())
        server.stop()
        assert server.online_rows() == set()
