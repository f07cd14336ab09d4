"""Worlds of three nodes in which anything goes wrong, each from one number: the promises are kept in all of them.

``SEED=7 make simulate`` tells what happened in one. ``test_scenes.py`` tells the stories of those that failed once.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulation import test_scenes
from simulation.mutants import MUTANTS
from simulation.world import run

SEEDS = 200
AT_ONCE = 20
SECONDS = 8.0
"""For so long things go wrong in each."""

SCENES: dict[str, Callable[[], None]] = {
    "no_fence": test_scenes.test_a_commit_that_comes_when_its_node_was_given_up_changes_nothing,
    "lost_is_lost": test_scenes.test_what_was_told_and_is_lost_is_told_anew,
    "time_is_that_of_redis_alone": (test_scenes.test_time_goes_on_evenly_where_redis_has_lost_that_its_clock_was_set),
}
"""In which scene a mutant shows itself, where it takes chance too long."""

MUTANT_SEEDS = 30
"""Worlds within which each of the others is found."""


@pytest.mark.parametrize("first", range(1, SEEDS, AT_ONCE))
def test_whatever_goes_wrong_the_promises_are_kept(first: int) -> None:
    seeds = range(first, first + AT_ONCE)
    failed = {seed: failures for seed in seeds if (failures := run(seed, seconds=SECONDS).failures)}
    assert failed == {}


def test_a_world_is_the_same_each_time() -> None:
    """Also in another process, where sets have another order."""
    said = "from simulation.world import run; print(*run(11, is_traced=True).trace, sep='\\n')"
    traces = []
    for hash_seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])}
        ran = subprocess.run([sys.executable, "-c", said], env=environment, capture_output=True, text=True, check=True)
        traces.append(ran.stdout)
    assert len(traces[0].splitlines()) > 50
    assert traces[0] == traces[1]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_is_broken_on_purpose_is_found(name: str) -> None:
    with MUTANTS[name]():
        if name in SCENES:
            with pytest.raises(AssertionError):
                SCENES[name]()
        else:
            assert any(run(seed).failures for seed in range(1, MUTANT_SEEDS + 1))
