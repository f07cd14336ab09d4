"""Fan-out: what it costs to tell everybody one thing."""

import math
import statistics
import time

from benchmarks.servers import FLOOR, GATEWAY, NODE, PYTHON, Run, with_load
from benchmarks.suite import Figure, Plan, Sample, Suite, Target
from benchmarks.suites.common import cpu_s_of

ORDERS = 3
ORDERS_S = 3.0
"""Orders in one sample, at most, and seconds after which no further one is begun."""

WARM_UP_DELIVERIES = 20_000
"""How much of the same work comes first. Node's cost per delivery stops falling at about 10,000."""

PAIRS = 5
"""Orders with metering and as many without, in one sample of the gateway."""


def measure(run: Run, plan: Plan) -> Sample:
    """Measure one server, by the way in which it can be asked."""
    return _through_the_gateway(run, plan) if run.peer.users else _events(run, plan)


def _events(run: Run, plan: Plan) -> Sample:
    """One event to every connection, ``rounds`` times; of a few such orders to the same server, the median.

    Whether the load keeps up just so, or falls behind and reads several events at once, makes a third of the cost.
    """
    run.load.order("connect", plan.connections)
    run.load.order("fanout", math.ceil(WARM_UP_DELIVERIES / plan.connections))
    samples: list[Sample] = []
    ends_s = time.monotonic() + ORDERS_S
    while not samples or (len(samples) < ORDERS and time.monotonic() < ends_s):
        samples.append(_order(run, plan, "fanout"))
    return _median(samples)


def _through_the_gateway(run: Run, plan: Plan) -> Sample:
    """A user's change to all who watch the user, with metering and limits, and in turn without.

    Which of the two comes first alternates, so that a drift strikes both.
    """
    run.load.order("users", plan.connections, audiences=(plan.connections,))
    run.load.order("changes", math.ceil(WARM_UP_DELIVERIES / plan.connections), among=plan.connections)
    metered: list[Sample] = []
    surcharges: list[float] = []
    for pair in range(PAIRS):
        cpu_us: dict[bool, float] = {}
        for on in (True, False) if pair % 2 else (False, True):
            run.load.order("meters", int(on))
            sample = _order(run, plan, "changes", rounds=max(1, plan.rounds // 2))
            cpu_us[on] = sample["cpu_us_per_delivery"]
            if on:
                metered.append(sample)
        surcharges.append((cpu_us[True] / cpu_us[False] - 1) * 100)
    return {**_median(metered), "metering_percent": statistics.median(surcharges)}


def _order(run: Run, plan: Plan, do: str, rounds: int | None = None) -> Sample:
    rounds = rounds or plan.rounds
    wall_s = load_s = 0.0

    def phase() -> None:
        nonlocal wall_s, load_s
        reply = (
            run.load.order("fanout", rounds)
            if do == "fanout"
            else run.load.order("changes", rounds, among=plan.connections)
        )
        wall_s, load_s = reply.wall_s, reply.cpu_s

    cpu_s = cpu_s_of(run, phase)
    deliveries = plan.connections * rounds
    return {
        "cpu_us_per_delivery": cpu_s / deliveries * 1e6,
        "deliveries_per_s": deliveries / wall_s,
        "load_busy_percent": load_s / wall_s * 100,
        "rss_mb": run.server.gauge.memory().rss / 1e6,
    }


def _median(samples: list[Sample]) -> Sample:
    return sorted(samples, key=lambda sample: sample["cpu_us_per_delivery"])[len(samples) // 2]


SUITE = Suite(
    "fanout",
    "Fan-out: one event of about 150 bytes to every connection",
    (
        FLOOR,
        NODE,
        "node_socketio_tuned",
        PYTHON,
        "websockets_broadcast",
        "raw_asgi",
        "herenow_fast",
        "herenow_asgi",
        GATEWAY,
    ),
    with_load(measure),
    (
        Figure("cpu_us_per_delivery", "CPU µs per delivery", 2),
        Figure("deliveries_per_s", "deliveries/s"),
        Figure("load_busy_percent", "load busy %"),
        Figure("rss_mb", "RSS MB", 1),
        Figure("metering_percent", "metering and limits, %", 1),
    ),
    (
        Target("herenow_fast", 1.4, FLOOR, what="CPU per delivery"),
        Target("herenow_fast", 0.6, NODE, what="CPU per delivery"),
        Target("herenow_fast", 0.15, PYTHON, what="CPU per delivery"),
        Target("herenow_asgi", 1.0, NODE, what="CPU per delivery, as plain ASGI"),
        Target(GATEWAY, 0.6, NODE, what="CPU per delivery, a user's change through registry, outbox and store"),
        Target(GATEWAY, 3.0, key="metering_percent", what="metering and limits on the way of a change, %"),
    ),
    lambda plan: f"connections: {plan.connections:,}; rounds: {plan.rounds:,}",
    bases=(FLOOR, NODE, PYTHON),
)
