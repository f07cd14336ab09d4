"""A storm over three nodes, in short; ``make soak-cluster`` does it at full length."""

from pathlib import Path

from cluster.storms import FAULTS, storm


async def test_nobody_who_is_there_is_shown_offline_and_nobody_stays_whatever_fails(tmp_path: Path) -> None:
    seen = await storm(tmp_path, users=20, seconds=4.0, seed=1, names=["the node that leads is killed"])
    assert [each.wrong for each in seen] == [[]]
    assert all(each.checks >= 10 for each in seen)
    assert len(FAULTS) == 8
