"""What is measured of a running server. The parts count here; ``/metrics`` shows it.

Names and units follow Prometheus: seconds, ``_total`` for what only grows. ``docs/operations.md`` says of each what to
do when it moves. What a part knows anyway (how many are online, how far the store lags) is not counted twice: it is
asked for when somebody looks.

Nothing here is touched for each delivery: a flush adds its sums once.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from herenow.model import Cause

PROMISES = ("connect", "closed", "left", "silent")
"""The promises whose times are measured as they happen: P1, P2, P3 and P4 of the README's table."""

STRAYS = ("unserved", "unregistered")
"""Connections that the registry has without a socket, and the reverse."""

_SOON = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_LATER = (0.1, 0.25, 0.5, 1.0, 1.5, 1.75, 1.9, 2.0, 2.5, 5.0, 10.0, 15.0, 17.0, 20.0, 30.0, 60.0)
_MANY = (1, 2, 5, 10, 50, 100, 500, 1000, 5000, 10_000, 50_000, 100_000)


class Meters:
    """One server's counters and distributions.

    Attributes:
        registry: where they are collected; not the process-wide one, so that an application's own stay apart.
        changes_by: the counter of each cause.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.changes = Counter("herenow_changes", "Changes that others could see.", ["cause"], registry=self.registry)
        self.changes_by = {cause: self.changes.labels(cause.value) for cause in Cause}
        self.connects = Counter("herenow_connects", "Connections let in.", registry=self.registry)
        self.refused = Counter("herenow_connects_refused", "Connections refused.", ["code"], registry=self.registry)
        self.faults = Counter(
            "herenow_protocol_faults", "What peers sent that is no valid Socket.IO.", ["reason"], registry=self.registry
        )
        self.descriptors_short = Gauge(
            "herenow_descriptors_short",
            "1 while new connections are refused for want of file descriptors.",
            registry=self.registry,
        )
        self.cut = Counter(
            "herenow_requests_cut", "HTTP connections that kept the server waiting.", ["what"], registry=self.registry
        )
        self.disconnects = Counter("herenow_disconnects", "Connections ended.", ["reason"], registry=self.registry)
        self.errors = Counter(
            "herenow_event_errors", "Events answered with an error.", ["code"], registry=self.registry
        )
        self.frames = Counter("herenow_frames", "Diffs encoded, each once for all who get it.", registry=self.registry)
        self.deliveries = Counter("herenow_deliveries", "Diffs sent, one for each connection.", registry=self.registry)
        self.merged = Counter(
            "herenow_changes_merged", "Changes that a newer one replaced before they were sent.", registry=self.registry
        )
        self.strays = Counter(
            "herenow_strays",
            "Connections that only the registry had, or only the server: ended.",
            ["kind"],
            registry=self.registry,
        )
        self.task_failures = Counter(
            "herenow_task_failures", "Parts that failed, and went on.", ["task"], registry=self.registry
        )
        self.lines_dropped = Counter(
            "herenow_log_lines_dropped", "Lines of the log that could not be written.", registry=self.registry
        )
        self.hook_drops = Counter(
            "herenow_change_handler_drops", "Changes that a slow on_change handler never got.", registry=self.registry
        )
        self.slow_closed = Counter(
            "herenow_slow_readers_closed", "Clients that read nothing for too long.", registry=self.registry
        )
        self.flush_changes = Histogram(
            "herenow_flush_changes", "Changes told in one flush.", buckets=_MANY, registry=self.registry
        )
        self.flush_seconds = Histogram(
            "herenow_flush_seconds", "Time that one flush took.", buckets=_SOON, registry=self.registry
        )
        self.loop_lag = Histogram(
            "herenow_event_loop_lag_seconds", "How late the event loop is.", buckets=_SOON, registry=self.registry
        )
        self.promise = Histogram(
            "herenow_promise_seconds",
            "From what happened to its diff: a connect, a close, leaving on purpose, a silent loss.",
            ["promise"],
            buckets=_SOON + _LATER[4:],
            registry=self.registry,
        )
        for promise in PROMISES:
            self.promise.labels(promise)  # shown from the start, as zero; so are those that alerts look at
        for kind in STRAYS:
            self.strays.labels(kind)
        codes = ("unauthorized", "token_expired", "overloaded", "too_many_connections", "forbidden", "internal")
        for code in (*codes, "unavailable", "no_descriptors"):
            self.refused.labels(code)
