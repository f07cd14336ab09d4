"""``make simulate``: thousands of simulated worlds over all cores, and a table of what they came to.

``SEED=n make simulate`` lives one of them through again, and tells what happened in it.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable

from simulation.world import Outcome, run

TOLD_AT_MOST = 40
"""Failures that are written out."""


def _try(seed: int) -> Outcome:
    try:
        return run(seed)
    except Exception as error:
        return Outcome(seed, [f"the world itself ended: {error!r}"], 0, 0, {}, 0.0)


def replay(seed: int) -> int:
    """Tell what happens in one world."""
    outcome = run(seed, is_traced=True)
    sys.stdout.writelines(f"{line}\n" for line in outcome.trace)
    _tell_table([outcome], 0.0)
    return 1 if outcome.failures else 0


def simulate(seeds: range) -> int:
    """Live all of them through; say what they came to."""
    began_s, outcomes, told = time.monotonic(), [], 0
    with multiprocessing.Pool() as pool:
        for done, outcome in enumerate(pool.imap_unordered(_try, seeds, chunksize=10), 1):
            outcomes.append(outcome)
            if outcome.failures and told < TOLD_AT_MOST:
                told += 1
                sys.stdout.write(f"seed {outcome.seed}: {outcome.failures[0]}\n")
            if done % 500 == 0:
                failed = sum(bool(each.failures) for each in outcomes)
                sys.stdout.write(f"{done} of {len(seeds)} worlds, {failed} failed\n")
            sys.stdout.flush()
    _tell_table(outcomes, time.monotonic() - began_s)
    return 1 if any(outcome.failures for outcome in outcomes) else 0


def _tell_table(outcomes: Iterable[Outcome], took_s: float) -> None:
    outcomes = list(outcomes)
    faults = Counter[str]()
    for outcome in outcomes:
        faults.update({kind: number for kind, number in outcome.faults.items() if number})
    failed = [outcome for outcome in outcomes if outcome.failures]
    lines = [
        ("worlds", f"{len(outcomes):,}"),
        ("connections of clients", f"{sum(each.lives for each in outcomes):,}"),
        ("changes told to nodes", f"{sum(each.changes for each in outcomes):,}"),
        ("hours in these worlds", f"{sum(each.hours for each in outcomes):,.1f}"),
        ("minutes that it took", f"{took_s / 60:,.1f}"),
        *((kind, f"{number:,}") for kind, number in faults.most_common()),
        ("worlds that failed", f"{len(failed):,}"),
    ]
    sys.stdout.writelines(f"{name:<46}{number:>12}\n" for name, number in lines)
    sys.stdout.writelines(f"seed {each.seed}: {each.failures[0]}\n" for each in failed[:TOLD_AT_MOST])


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=1)
    given = parser.parse_args()
    seed = os.environ.get("SEED")
    return replay(int(seed)) if seed else simulate(range(given.first, given.first + given.seeds))


if __name__ == "__main__":
    sys.exit(main())
