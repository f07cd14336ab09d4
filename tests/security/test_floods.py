"""Floods in small, several at once, with honest clients beside: none of these is lost, falsely shown or overlooked.

How long they wait is for ``make soak`` to judge, which does each flood by itself and at full size.
"""

from pathlib import Path

from e2e.crowd import raise_file_limit
from security.attack import ATTACKS
from security.beside import Outcome, beside
from security.full import SIZES

OF_USERS = {
    "nothing": 0,
    "events": 4,
    "unknown events": 2,
    "watches": 3,
    "watches of all": 2,
    "claims": 4,
    "packets of 1 MB": 2,
    "tiny packets": 2,
}
OF_STRANGERS = {
    "connections of one address": 1_100,
    "packets of 1 MB from strangers": 2,
    "deep JSON": 2,
    "forged tokens in one connection": 2,
    "forged tokens in new connections": 2,
}
SLOW = {"slowloris heads": 60, "slowloris bodies": 60, "slowloris polling": 40, "slowloris websockets": 60}


async def _beside(sizes: dict[str, int], directory: Path) -> Outcome:
    raise_file_limit()
    outcome = await beside(sizes, directory, honest=50, seconds=0.5)
    assert outcome.faults == []
    assert "Traceback" not in outcome.log
    return outcome


async def test_users_who_flood_harm_nobody(tmp_path: Path) -> None:
    got = (await _beside(OF_USERS, tmp_path)).got
    for attack in ("events", "unknown events", "claims"):
        assert got[attack]["rate_limited"] > 0
    assert all(each.get("let in") for name, each in got.items() if name != "nothing")


async def test_strangers_who_flood_harm_nobody(tmp_path: Path) -> None:
    got = (await _beside(OF_STRANGERS, tmp_path)).got
    assert 900 < got["connections of one address"]["status 101"] <= 1_000  # the other attacks come from there too
    assert got["connections of one address"]["status 429"] >= 100
    assert not any("let in" in each for name, each in got.items() if name != "deep JSON")


async def test_who_drips_harms_nobody(tmp_path: Path) -> None:
    await _beside(SLOW, tmp_path)


def test_every_attack_is_tried() -> None:
    assert OF_USERS.keys() | OF_STRANGERS.keys() | SLOW.keys() == ATTACKS.keys() == SIZES.keys()
