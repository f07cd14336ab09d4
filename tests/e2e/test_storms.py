"""P2, P5 and P8 under a storm of clients, in short; ``make soak`` does it at full length."""

from pathlib import Path

from e2e.weather import killing_storm, storm


async def test_nobody_is_shown_wrongly_in_a_storm(tmp_path: Path) -> None:
    weather = await storm(tmp_path / "app.db", users=60, seconds=6)
    assert weather.faults == []
    assert weather.checks > 10
    assert weather.reloads > 10
    assert weather.leaves > 5
    assert weather.deaths > 5


async def test_after_a_kill_in_a_storm_all_agree_again(tmp_path: Path) -> None:
    weather = await killing_storm(tmp_path / "app.db", users=40, kills=1)
    assert weather.faults == []
    assert weather.kills == 1
