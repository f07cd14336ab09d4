"""``GET /metrics``: what the parts counted, and what they know when they are asked, as Prometheus reads it."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from herenow.promises import bounds_s
from herenow.registry.base import RegistryStats
from herenow.service import Service
from herenow.times import steady_s

CONTENT_TYPE = CONTENT_TYPE_LATEST

_OUR_OWN = CollectorRegistry()
ProcessCollector(registry=_OUR_OWN)
GCCollector(registry=_OUR_OWN)


async def metrics(presence: Service) -> bytes:
    """Return all metrics of a started server, and of its process."""
    state = CollectorRegistry(auto_describe=False)
    state.register(_State(presence, await presence.tenants.stats()))
    return generate_latest(presence.meters.registry) + generate_latest(state) + generate_latest(_OUR_OWN)


class _State(Collector):
    """What is known anyway, as of now."""

    def __init__(self, presence: Service, stats: RegistryStats) -> None:
        self._presence = presence
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Give one family a line."""
        stats, presence = self._stats, self._presence
        yield GaugeMetricFamily("herenow_connections", "Connections that are open.", stats.connections)
        users = GaugeMetricFamily("herenow_users", "Users who are shown online, away or busy.", labels=["availability"])
        for availability in ("online", "away", "busy"):
            users.add_metric([availability], getattr(stats, availability))
        yield users
        yield GaugeMetricFamily("herenow_tenants", "Tenants in memory.", len(presence.tenants.names()) - 1)
        yield GaugeMetricFamily("herenow_users_held", "Users in memory: also the invisible, and claims.", stats.held)
        yield CounterMetricFamily(
            "herenow_lingers_saved", "Returns within the grace: what nobody saw.", stats.lingers_saved
        )
        yield from self._cluster()
        yield from self._store()
        yield from self._drift()
        bounds = GaugeMetricFamily("herenow_promise_bound_seconds", "What each promise says.", labels=["promise"])
        for promise, bound_s in bounds_s(presence.settings).items():
            bounds.add_metric([promise], bound_s)
        yield bounds

    def _cluster(self) -> Iterable[Metric]:
        cluster = self._presence.cluster
        if cluster is None:
            return
        here, every = cluster.here, cluster.memberships
        nodes = len(here.standing.beats) if here.standing is not None else 0
        away_s = 0.0 if cluster.away_since_s is None else steady_s() - cluster.away_since_s
        yield GaugeMetricFamily("herenow_cluster_nodes", "Nodes that are members.", nodes)
        yield GaugeMetricFamily("herenow_cluster_leads", "1 while this node keeps the store.", cluster.leads)
        yield GaugeMetricFamily("herenow_cluster_away_seconds", "For how long Redis has not answered.", away_s)
        returns = sum(each.here.returns for each in every)
        yield CounterMetricFamily("herenow_cluster_returns", "Times that this node was given up.", returns)
        commits = sum(each.shard.commits for each in every)
        yield CounterMetricFamily("herenow_cluster_commits", "Commits that were sent to Redis.", commits)
        lost_races = sum(each.shard.conflicts for each in every)
        conflicts = "Users with whom another node was faster."
        yield CounterMetricFamily("herenow_cluster_conflicts", conflicts, lost_races)
        pages = sum(each.shard.pages for each in every)
        yield CounterMetricFamily("herenow_cluster_pages", "Pages of users that were read from Redis.", pages)

    def _store(self) -> Iterable[Metric]:
        writer = self._presence.writer.state()
        yield GaugeMetricFamily("herenow_store_healthy", "1 while the store takes what it is given.", writer.healthy)
        yield GaugeMetricFamily("herenow_store_pending_rows", "Users whose row is on its way.", writer.pending)
        yield GaugeMetricFamily("herenow_store_lag_seconds", "How long the oldest of them waits.", writer.lag_ms / 1000)
        yield CounterMetricFamily("herenow_store_flushes", "Batches that the store took.", writer.flushes)
        yield CounterMetricFamily("herenow_store_errors", "Batches that it did not take.", writer.failures)
        rows = CounterMetricFamily("herenow_store_rows", "What became of each row.", labels=["outcome"])
        for outcome in ("written", "skipped", "unknown", "refused"):
            rows.add_metric([outcome], getattr(writer, outcome))
        yield rows

    def _drift(self) -> Iterable[Metric]:
        audit = self._presence.audit
        totals = audit.totals
        troubles = len(audit.troubles)
        yield GaugeMetricFamily("herenow_store_troubles", "What is missing of that which init makes.", troubles)
        yield CounterMetricFamily("herenow_audit_rounds", "Comparisons of the store with the registry.", totals.rounds)
        yield CounterMetricFamily("herenow_audit_failures", "Comparisons that could not be made.", totals.failures)
        drift = CounterMetricFamily("herenow_drift", "Users of whom the two disagreed.", labels=["kind"])
        drift.add_metric(["ghost"], totals.ghosts)
        drift.add_metric(["missing"], totals.missing)
        drift.add_metric(["wrong"], totals.wrong)
        yield drift
        yield CounterMetricFamily("herenow_drift_repaired", "Users who were put right.", totals.repaired)
