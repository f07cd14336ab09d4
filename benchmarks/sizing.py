"""The sizing model: CPU and memory of a server from what an operator knows, and how far it is from what was measured.

CPU a second is the sum of

- sessions a second, each of which is let in once: ``connect_us``;
- changes a second, two a session, each decided, encoded and put into the outbox: ``change_us``;
- windows a second in which something changed, each a flush and a write to the store: ``window_us``;
- deliveries a second, a change times the contacts who are connected: ``delivery_us``;
- connections, each with its heartbeat: ``idle_us_per_s``.

Memory is that of an empty server, and a part for each connection with its watches.

The constants come from what was measured one thing at a time: the suites ``connect`` and ``memory``, the curves
``watchers`` (to a thousand of them) and ``idle``, and the two ends of the curve ``changes``. The check is against what
they do not come from: the suite ``latency``, in which everything happens at once, and the middle of ``changes``.
"""

from dataclasses import dataclass

from benchmarks.results import Results
from benchmarks.servers import GATEWAY, PRESENCE

SECONDS_A_DAY = 86_400

PERCENT_US = 10_000
"""Microseconds a second that are a percent."""

WINDOWS_A_SECOND = 20
"""At the default ``flush_interval_s``."""

MANY = 1000
"""Watchers up to which a delivery costs the same; beyond, the processor's caches are too small for all sockets."""


@dataclass(frozen=True, slots=True)
class Model:
    """The constants. Microseconds of CPU, and bytes."""

    connect_us: float
    change_us: float
    window_us: float
    delivery_us: float
    idle_us_per_s: float
    empty_mb: float
    connection_kb: float

    @classmethod
    def of(cls, results: Results) -> "Model | None":
        """Return the constants that were measured; ``None`` where one is missing."""
        connect_us = results.figure("connect", PRESENCE, "cpu_us_per_connect")
        empty_mb = results.figure("memory", PRESENCE, "rss_mb_empty")
        connection_kb = results.figure("memory", PRESENCE, "rss_kb_per_connection")
        watchers, idle = results.curve("watchers", GATEWAY), results.curve("idle", PRESENCE)
        changes = results.curve("changes", PRESENCE)
        if connect_us is None or empty_mb is None or connection_kb is None:
            return None
        if len(watchers) < 2 or len(changes) < 2 or not idle:
            return None
        few, many = watchers[0], max((point for point in watchers if point["x"] <= MANY), key=lambda point: point["x"])
        delivery_us = (many["cpu_us_per_change"] - few["cpu_us_per_change"]) / (many["x"] - few["x"])
        idle_us_per_s = idle[0]["cpu_percent"] * PERCENT_US / idle[0]["x"]
        slow, fast = changes[0], changes[-1]
        # What the next change takes with all its deliveries, and what is left of the first point without them.
        whole_us = (fast["cpu_percent"] - slow["cpu_percent"]) * PERCENT_US / (fast["x"] - slow["x"])
        rest_us = slow["cpu_percent"] * PERCENT_US - slow["x"] * whole_us - slow["connections"] * idle_us_per_s
        return cls(
            connect_us=connect_us,
            change_us=max(0.0, whole_us - slow["watchers"] * delivery_us),
            window_us=max(0.0, rest_us / WINDOWS_A_SECOND),
            delivery_us=delivery_us,
            idle_us_per_s=idle_us_per_s,
            empty_mb=empty_mb,
            connection_kb=connection_kb,
        )

    def cpu_percent(
        self, *, connects_per_s: float, changes_per_s: float, watchers: float, connections: float = 0.0
    ) -> float:
        """Return the share of one core that a load takes.

        Args:
            connects_per_s: connections let in a second.
            changes_per_s: users who change a second, for others to see.
            watchers: connections that are told of each.
            connections: that are open.
        """
        each_change_us = self.change_us + watchers * self.delivery_us
        used_us = connects_per_s * self.connect_us + changes_per_s * each_change_us
        used_us += min(changes_per_s, WINDOWS_A_SECOND) * self.window_us + connections * self.idle_us_per_s
        return used_us / PERCENT_US

    def memory_mb(self, connections: float) -> float:
        """Return the RSS of a server with so many connections, each with some twenty watches."""
        return self.empty_mb + connections * self.connection_kb / 1000


@dataclass(frozen=True, slots=True)
class Application:
    """What an operator knows.

    Attributes:
        online: users who are online at the busiest hour, with one connection each.
        contacts: users whom each watches; as many watch each.
        sessions_a_day: that one user begins.
        peak: how much busier the busiest minutes are than the day's average.
    """

    online: int
    contacts: int
    sessions_a_day: float
    peak: float = 4.0

    def needs(self, model: Model) -> tuple[float, float]:
        """Return the share of one core, in percent, and the memory, in MB. All contacts are taken to be online."""
        sessions_per_s = self.online * self.sessions_a_day / SECONDS_A_DAY * self.peak
        percent = model.cpu_percent(
            connects_per_s=sessions_per_s,
            changes_per_s=2 * sessions_per_s,
            watchers=self.contacts,
            connections=self.online,
        )
        return percent, model.memory_mb(self.online)


APPLICATIONS = (
    Application(1_000, 1_000, 10),
    Application(5_000, 50, 10),
    Application(10_000, 50, 10),
    Application(10_000, 500, 10),
    Application(50_000, 50, 10),
    Application(50_000, 200, 20),
)
"""Those of the table in ``docs/performance.md``."""


@dataclass(frozen=True, slots=True)
class Check:
    """A prediction beside what was measured."""

    what: str
    unit: str
    predicted: float
    measured: float


def checks(results: Results, model: Model) -> list[Check]:
    """Hold the model against points that it was not made from."""
    found = []
    latency = results.pages.get("latency", {})
    cpu_percent = results.figure("latency", PRESENCE, "cpu_percent")
    rss_mb = results.figure("latency", PRESENCE, "rss_mb")
    if cpu_percent is not None and rss_mb is not None:
        plan, sample = latency["plan"], latency["servers"][PRESENCE]["samples"][0]
        watchers = sample["told"] / sample["changes"]
        predicted = model.cpu_percent(
            connects_per_s=sample["changes_per_s"] / 2,
            changes_per_s=sample["changes_per_s"],
            watchers=watchers,
            connections=plan["watchers"],
        )
        what = f"{plan['watchers']:,} connections, {plan['rate']} changes/s to {watchers:.0f} watchers each (latency)"
        found.append(Check(what, "% CPU", predicted, cpu_percent))
        found.append(Check("the same", "MB RSS", model.memory_mb(plan["watchers"]), rss_mb))
    for point in results.curve("changes", PRESENCE)[1:-1]:
        predicted = model.cpu_percent(
            connects_per_s=0, changes_per_s=point["x"], watchers=point["watchers"], connections=point["connections"]
        )
        what = f"{point['connections']:,.0f} connections, {point['x']:,.0f} changes/s to {point['watchers']:.0f} each"
        found.append(Check(f"{what} (curves)", "% CPU", predicted, point["cpu_percent"]))
    return found
