"""What is measured, a suite each."""

from collections.abc import Mapping

from benchmarks.suite import Suite
from benchmarks.suites import (
    cluster,
    cluster_crowd,
    cluster_hop,
    cluster_nodes,
    cluster_storm,
    connect,
    fanout,
    latency,
    memory,
    restart,
    store,
    storm,
)

SUITES: Mapping[str, Suite] = {
    module.SUITE.name: module.SUITE
    for module in (
        fanout,
        connect,
        memory,
        storm,
        latency,
        store,
        restart,
        cluster,
        cluster_crowd,
        cluster_hop,
        cluster_nodes,
        cluster_storm,
    )
}
