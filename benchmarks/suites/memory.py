"""Memory: what an idle connection holds."""

import time

from benchmarks.measure import kernel_tcp_bytes
from benchmarks.servers import FLOOR, NODE, PRESENCE, PYTHON, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target, by_connections

IDLE_S = 2.0
"""How long a server is left alone before its memory is read."""

CONTACTS = 20
"""Users whom each connection of a presence server watches."""


def measure(run: Run, plan: Plan) -> Sample:
    """Growth of the server's memory from no connection to all of them, idle.

    The warm-up is a twentieth of them, closed again. Memory that it leaves behind is used again and so missing from
    the growth: a larger one would flatter.
    """
    _connect(run, max(1, plan.connections // 20))
    run.load.order("close")
    time.sleep(IDLE_S)
    empty, kernel = run.server.gauge.memory(), kernel_tcp_bytes()
    _connect(run, plan.connections)
    time.sleep(IDLE_S)
    full = run.server.gauge.memory()
    return {
        "rss_kb_per_connection": (full.rss - empty.rss) / plan.connections / 1000,
        "pss_kb_per_connection": (full.pss - empty.pss) / plan.connections / 1000,
        "rss_mb_empty": empty.rss / 1e6,
        "rss_mb_full": full.rss / 1e6,
        **({} if kernel is None else {"kernel_kb": ((kernel_tcp_bytes() or 0) - kernel) / plan.connections / 1000}),
    }


def _connect(run: Run, count: int) -> None:
    if run.peer.users:
        run.load.order("users", count, contacts=CONTACTS, among=count)
    else:
        run.load.order("connect", count)


SUITE = Suite(
    "memory",
    f"Memory: growth per idle connection; of {PRESENCE}, each a user who watches {CONTACTS} (KB = 1,000 bytes)",
    (FLOOR, NODE, PYTHON, "raw_asgi", "herenow_fast", "herenow_asgi", PRESENCE),
    with_load(measure),
    (
        Figure("rss_kb_per_connection", "RSS KB per connection", 1),
        Figure("pss_kb_per_connection", "PSS KB per connection", 1),
        Figure("rss_mb_empty", "RSS MB, none", 1),
        Figure("rss_mb_full", "RSS MB, all", 1),
        Figure("kernel_kb", "kernel's socket buffers, both ends, KB", 1),
    ),
    (
        Target("herenow_fast", 8.0, what="RSS per idle connection, the Socket.IO server alone, KB"),
        Target(PRESENCE, 12.0, what=f"RSS per idle connection of a user who watches {CONTACTS}, KB"),
    ),
    by_connections,
    repeats=2,
    bases=(FLOOR, NODE),
)
