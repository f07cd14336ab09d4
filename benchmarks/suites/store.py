"""The store at a size: adopting an application's users, counting them, a burst of changes."""

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks import million
from benchmarks.processes import ROOT, Cores, RunError, pinned
from benchmarks.suite import Figure, Plan, Sample, Suite, Target

BURST = 50_000
LOOKS = 5

INIT_S = 300.0
"""How long adopting the users may take."""


def storing(what: str, kind: str, cores: Cores, plan: Plan, count: int) -> dict[str, Any]:
    """Let ``benchmarks.storing`` do something, on the server's core; return its figures.

    Raises:
        RunError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.storing", what, million.of(plan).urls[kind], str(count)]
    with pinned(cores.server):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=INIT_S, check=False)
    if done.returncode:
        raise RunError(f"{kind}: {what} failed\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def adopt(kind: str, cores: Cores, plan: Plan) -> dict[str, Any]:
    """Have the users adopted, if they are not yet; return the figures of the first time only."""
    users = million.of(plan)
    if kind in users.adopted:
        return {}
    figures = storing("init", kind, cores, plan, plan.users)
    users.adopted.add(kind)
    return figures


def measure(kind: str, cores: Cores, plan: Plan) -> Sample:
    """Adopt, write, look."""
    adopted = adopt(kind, cores, plan)
    burst = storing("burst", kind, cores, plan, min(BURST, plan.users))
    storing("crash", kind, cores, plan, min(plan.crashed, plan.users))
    try:
        looks_s = [_status_s(kind, cores, plan) for _ in range(LOOKS)]
    finally:
        storing("settle", kind, cores, plan, 1)
    return {"status_s": statistics.median(looks_s), "status_longest_s": max(looks_s), **burst, **adopted}


def _status_s(kind: str, cores: Cores, plan: Plan) -> float:
    """How long the command takes as a process, from its start to its end, and whether it has counted right."""
    command = [sys.executable, "-m", "herenow.cli", "status", "--json", "--database", million.of(plan).urls[kind]]
    began_s = time.monotonic()
    with pinned(cores.server):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    took_s = time.monotonic() - began_s
    if done.returncode > 1:  # 1: no server is running, so all of them are ghosts
        raise RunError(f"{kind}: herenow status failed\n{done.stderr[-2000:]}")
    stored = json.loads(done.stdout)["stored"]
    if (stored["users"], stored["online"]) != (plan.users, min(plan.crashed, plan.users)):
        raise RunError(f"{kind}: herenow status counts {stored}")
    return took_s


SUITE = Suite(
    "store",
    "Store: adopting users, a burst of changes, and `herenow status` as a process",
    (million.MONGODB, million.SQLITE),
    measure,
    (
        Figure("status_s", "status s", 2),
        Figure("status_longest_s", "longest", 2),
        Figure("burst_per_s", "burst, users/s"),
        Figure("burst_least_per_s", "least"),
        Figure("init_s", "init s", 1),
        Figure("init_peak_mb", "init's peak MB", 0),
        Figure("init_before_mb", "before it", 0),
    ),
    (
        Target(million.MONGODB, 25_000, key="burst_per_s", what="burst of changed users a second", at_least=True),
        Target(million.SQLITE, 25_000, key="burst_per_s", what="burst of changed users a second", at_least=True),
        Target(million.MONGODB, 1.0, what="`status`, s"),
        Target(million.SQLITE, 1.0, what="`status`, s"),
    ),
    lambda plan: (
        f"users: {plan.users:,}; of them online for `status`: {plan.crashed:,}, the median of {LOOKS} looks; a burst: "
        f"{BURST:,}, the median of 4"
    ),
    repeats=1,
    surroundings=million.lent,
)
