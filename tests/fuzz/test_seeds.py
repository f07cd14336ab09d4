"""What the fuzzer starts from, and what it once found, raises nothing; ``make fuzz`` goes on from there."""

import random
from pathlib import Path

import pytest

from fuzz.targets import TARGETS, one_input

SEEDS = sorted(path for path in (Path(__file__).parent / "seeds").iterdir())


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.name)
def test_a_seed_and_its_mutations_raise_nothing_but_documented_errors(seed: Path) -> None:
    whole = seed.read_bytes()
    one_input(whole)
    rng = random.Random(seed.name)
    for _ in range(200):
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(1, len(changed) + 1)
            changed[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        one_input(bytes(changed))


def test_every_target_has_a_seed() -> None:
    assert {seed.read_bytes()[0] for seed in SEEDS} == set(range(len(TARGETS)))
