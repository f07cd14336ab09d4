"""P9 on MongoDB under a storm of clients, in short; ``make soak`` does it at full length."""

from pathlib import Path

from e2e.troubles import BACK_WITHIN_S, TROUBLES, troubled_storm


async def test_p9_presence_goes_on_through_every_trouble_of_the_database(tmp_path: Path) -> None:
    troubles = await troubled_storm(tmp_path, users=30, seconds=1.5)
    assert [trouble.name for trouble in troubles] == list(TROUBLES)
    for trouble in troubles:
        assert trouble.faults == []
        assert trouble.checks >= 3
        assert trouble.back_after_s < BACK_WITHIN_S
