"""herenow itself, as :mod:`benchmarks.peers.herenow_presence` runs it, as a node of a cluster (``BENCH_CLUSTER``)."""

import os
import sys

from benchmarks import wire
from benchmarks.peers.herenow_presence import AnnouncingServer, run

if __name__ == "__main__":
    sys.exit(run(AnnouncingServer, cluster=os.environ["BENCH_CLUSTER"], api_keys=[wire.API_KEY]))
