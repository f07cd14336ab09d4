"""Every attack at full size, each by itself against a server of its own: a part of ``make soak``, or alone.

python -m security.full [NAME…]
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from e2e.crowd import raise_file_limit
from security.beside import GRACE_MS, Outcome, beside

HONEST = 500
SECONDS = 8.0
ATTEMPTS = 2
"""A bound that was missed is looked at once more: on a machine that does other work, too, one look proves little."""

SIZES = {
    "nothing": 0,
    "events": 50,
    "unknown events": 50,
    "watches": 20,
    "watches of all": 20,
    "claims": 50,
    "packets of 1 MB": 20,
    "packets of 1 MB from strangers": 50,
    "tiny packets": 20,
    "deep JSON": 20,
    "forged tokens in one connection": 50,
    "forged tokens in new connections": 50,
    "connections of one address": 10_000,
    "slowloris heads": 5_000,
    "slowloris bodies": 5_000,
    "slowloris polling": 2_000,
    "slowloris websockets": 5_000,
}


def attack_all(names: list[str] | None = None) -> list[Outcome]:
    """Run the attacks one after the other, and print what came of each."""
    raise_file_limit()
    outcomes = []
    for name in names or SIZES:
        for _ in range(ATTEMPTS):
            with tempfile.TemporaryDirectory() as directory:
                sizes = {name: SIZES[name]}
                outcome = asyncio.run(beside(sizes, Path(directory), honest=HONEST, seconds=SECONDS))
            sys.stdout.write(_row(outcome) + "\n")
            sys.stdout.flush()
            if not outcome.late:
                break
        outcomes.append(outcome)
    return outcomes


def _row(outcome: Outcome) -> str:
    """One line of the table."""
    seen, name = outcome.seen, outcome.attack
    got = ", ".join(f"{number:,} {what}" for what, number in sorted(outcome.got[name].items()))
    stored, gone = seen.stored or [0.0], seen.gone or [0.0]
    return (
        f"| {name} | {outcome.sizes[name]:,} | {got or 'nothing'} | {outcome.told_p99_ms:.0f} | {stored[-1]:.0f} | "
        f"{gone[0] / 1000:.2f} to {gone[-1] / 1000:.2f} | {seen.lost} | {seen.false + seen.unseen} |"
    )


def attacks_table(outcomes: list[Outcome]) -> list[str]:
    """What the attacks came to."""
    probes = len(outcomes[0].seen.told) if outcomes else 0
    return [
        f"Attacks, each on a `herenow serve` of its own, with {HONEST} honest clients beside, each of",
        f"which watches ten others. Meanwhile {probes} users come and go, twenty a second. P1 (told: p99 ≤ 100 ms;",
        "stored: ≤ 250 ms, in ms) counts from when a user was to connect, P2 (≤ 2 s, and not before "
        f"{GRACE_MS / 1000:g} s)",
        "from when the connection was closed. *Lost*: honest connections that ended. *False*: users shown offline with",
        "a live connection, or never seen to come or go. Attackers, honest clients and the server share the cores; all",
        "attackers but the slow ones write as fast as they are read, and come again when they are closed.",
        "",
        "| attack | connections | what the attackers got | P1 told | P1 stored | P2, s | lost | false |",
        "|---|---|---|---|---|---|---|---|",
        *map(_row, outcomes),
        "",
    ]


if __name__ == "__main__":
    faults = [fault for outcome in attack_all(sys.argv[1:]) for fault in (*outcome.faults, *outcome.late)]
    sys.stdout.write("\n".join(faults) + "\n")
    sys.exit(1 if faults else 0)
