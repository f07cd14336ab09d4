"""Connect: what it costs to let somebody in."""

import time

from benchmarks import database
from benchmarks.orders import Do
from benchmarks.servers import FLOOR, NODE, PRESENCE, PYTHON, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target, by_connections
from benchmarks.suites.common import cpu_s_of, wait_until_stored

WARM_UP = 500
"""Connections that come first and do not count, for code to load and compile."""

GONE_S = 2.5
"""Until a user whose transport was closed is offline, and that is stored."""


def measure(run: Run, plan: Plan) -> Sample:
    """Open all connections: from TCP to the answer to CONNECT; of a presence server, until the store shows all online.

    A token is signed beforehand, and checked by the server.
    """
    do: Do = "users" if run.peer.users else "connect"
    run.load.order(do, WARM_UP)
    run.load.order("close")
    if run.peer.users:
        time.sleep(GONE_S)
        wait_until_stored(run, 0)
    wall_s = load_s = 0.0

    def phase() -> None:
        nonlocal wall_s, load_s
        reply = run.load.order(do, plan.connections)
        wall_s, load_s = reply.wall_s, reply.cpu_s
        if run.peer.users:
            wait_until_stored(run, plan.connections)

    cpu_s = cpu_s_of(run, phase)
    return {
        "cpu_us_per_connect": cpu_s / plan.connections * 1e6,
        "connects_per_s": plan.connections / wall_s,
        "load_busy_percent": load_s / wall_s * 100,
    }


SUITE = Suite(
    "connect",
    "Connect: TCP, WebSocket, Engine.IO and Socket.IO handshakes; of presence servers also JWT, registry and store",
    (
        FLOOR,
        NODE,
        "node_socketio_tuned",
        PYTHON,
        "raw_asgi",
        "herenow_fast",
        "herenow_asgi",
        PRESENCE,
        "herenow_on_mongodb",
    ),
    with_load(measure, users=lambda plan: max(WARM_UP, plan.connections)),
    (
        Figure("cpu_us_per_connect", "CPU µs per connect"),
        Figure("connects_per_s", "connects/s"),
        Figure("load_busy_percent", "load busy %"),
    ),
    (
        Target("herenow_fast", 0.5, NODE, what="CPU per connect, the Socket.IO server alone"),
        Target(PRESENCE, 0.6, NODE, what="CPU per connect with JWT, registry and SQLite, of Node's bare Socket.IO"),
        Target(
            "herenow_on_mongodb", 0.6, NODE, what="CPU per connect with JWT, registry and MongoDB, of Node's bare one"
        ),
    ),
    by_connections,
    surroundings=lambda plan: database.running(),
    bases=(FLOOR, NODE),
)
