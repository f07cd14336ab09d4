"""P2, P5 and P8 under a storm of clients, on both databases, in short; ``make soak`` does it at full length."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import mongod
from e2e.servers import PresenceServer
from e2e.troubles import MongoPresenceServer
from e2e.weather import RESTART_GRACE_S, killing_storm, storm


@pytest.fixture(params=["sqlite", "mongodb"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PresenceServer]:
    if request.param == "sqlite":
        yield PresenceServer(tmp_path / "app.db", restart_grace_s=RESTART_GRACE_S)
    else:
        database = mongod.shared(replica_set=True)
        yield MongoPresenceServer(tmp_path, database, restart_grace_s=RESTART_GRACE_S)


async def test_nobody_is_shown_wrongly_in_a_storm(server: PresenceServer) -> None:
    weather = await storm(server, users=60, seconds=6)
    assert weather.faults == []
    assert weather.checks > 10
    assert weather.reloads > 10
    assert weather.leaves > 5
    assert weather.deaths > 5
    measured = (weather.told_ms, weather.stored_ms, weather.gone_told_ms, weather.gone_stored_ms)
    assert {len(delays) for delays in measured} == {96}  # twenty a second, for four fifths of the time


async def test_after_a_kill_in_a_storm_all_agree_again(server: PresenceServer) -> None:
    weather = await killing_storm(server, users=40, kills=1)
    assert weather.faults == []
    assert weather.kills == 1
