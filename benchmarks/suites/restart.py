"""Restart: what a killed server left online, and how soon the next one serves and has decided about it."""

import http.client
import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from benchmarks import million
from benchmarks.processes import Cores, LoadProcess, RunError, ServerProcess
from benchmarks.servers import DATABASE, python_peer
from benchmarks.suite import Figure, Plan, Sample, Suite, Target
from benchmarks.suites.store import adopt, storing

GRACE_S = 15.0
"""``restart_grace_s``, as it is by default."""

LONGEST_S = 60.0
"""How long to wait before it is a failure."""


def measure(kind: str, cores: Cores, plan: Plan) -> Sample:
    """Start on what a crash left; let one user come back; wait until the others are offline, here and in the store."""
    adopt(kind, cores, plan)
    left = storing("crash", kind, cores, plan, min(plan.crashed, plan.users))
    url, spawned_s = million.of(plan).urls[kind], time.monotonic()
    command = python_peer("herenow_presence", "--dev")
    with ServerProcess(f"herenow on {kind}", command, cores.server, {DATABASE: url}) as server:
        serving_s = time.monotonic() - spawned_s
        with LoadProcess([server], cores.load) as load:
            load.order("join", user=left["somebody"])
            joined_s = time.monotonic() - spawned_s
            status = _get(server, "/v1/admin/status")
            # The moment from which the server itself reckons, which its process has taken some time to reach.
            started = datetime.fromisoformat(status["servers"][0]["started"]).timestamp()
            began_s = started - time.time() + time.monotonic() - spawned_s
            if status["stats"]["users"] != left["users"]:
                raise RunError(f"{server.name}: {status['stats']['users']:,} of {left['users']:,} were taken over")
            decided_s = _wait(server, lambda: int(_get(server, "/v1/stats")["users"]), spawned_s)
            if decided_s - began_s < GRACE_S - 1:
                raise RunError(f"{server.name}: all were offline {decided_s - began_s:.1f} s after the start")
            stored_s = _wait(server, lambda: million.online(url), spawned_s)
            memory = server.gauge.memory()
            cpu_s = server.gauge.cpu_s()
    storing("settle", kind, cores, plan, 1)
    return {
        "serving_s": serving_s,
        "joined_s": joined_s,
        "decided_s": decided_s - began_s,
        "stored_s": stored_s - began_s,
        "cpu_s": cpu_s,
        "rss_mb": memory.rss / 1e6,
    }


def _wait(server: ServerProcess, online: Callable[[], int], spawned_s: float) -> float:
    """Wait until nobody is online but the one who came back; return the seconds since the server's process began.

    Raises:
        RunError: it takes too long, or the one who came back is shown offline.
    """
    while (count := online()) != 1:
        if count == 0:
            raise RunError(f"{server.name}: the user who came back is shown offline")
        if time.monotonic() - spawned_s > LONGEST_S:
            raise RunError(f"{server.name}: {count:,} users are still online after {LONGEST_S:g} s")
        time.sleep(0.02)
    return time.monotonic() - spawned_s


def _get(server: ServerProcess, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RunError(f"{server.name}: {path} answers {response.status}: {body[:200]!r}")
    return json.loads(body)


SUITE = Suite(
    "restart",
    "Restart: a start on what a crash left online",
    (million.MONGODB, million.SQLITE),
    measure,
    (
        Figure("serving_s", "serving s", 2),
        Figure("joined_s", "a user is in, s", 2),
        Figure("decided_s", "all decided, s after the start", 2),
        Figure("stored_s", "and stored, s", 2),
        Figure("cpu_s", "CPU s in all", 1),
        Figure("rss_mb", "RSS MB"),
    ),
    (
        Target(million.MONGODB, 5.0, what="start after a crash: serving, s"),
        Target(million.SQLITE, 5.0, what="start after a crash: serving, s"),
        Target(million.MONGODB, GRACE_S, key="decided_s", what="start after a crash: all decided, s after the start"),
        Target(million.SQLITE, GRACE_S, key="decided_s", what="start after a crash: all decided, s after the start"),
    ),
    lambda plan: f"users: {plan.users:,}; left online by the crash: {plan.crashed:,}, one of whom comes back",
    repeats=1,
    surroundings=million.lent,
)
