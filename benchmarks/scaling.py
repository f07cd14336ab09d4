"""The model of a cluster: what so many users need, computed from what was measured, and where it ends.

Each figure of a row comes from one that a suite has measured: CPU a connect and a delivery of a node, and what an
idle connection costs it (``sizing.py``); of Redis the CPU a connect, of which each further node that hears of it
takes a part, the memory of a user, and the bytes that it sends; of a node the CPU of hearing what another has done.
Everybody has one connection, ten sessions a day, four times as many in the busiest minutes, and fifty contacts who
are online.
"""

import math
from dataclasses import dataclass

from benchmarks.results import Results
from benchmarks.servers import FOUR_NODES, NODE_OF_CLUSTER, TWO_NODES
from benchmarks.sizing import Application, Model

USERS = (100_000, 1_000_000, 10_000_000, 100_000_000)

BUSY = 0.6
"""Of a core, what a node or a Redis is to use at most."""

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class ClusterModel:
    """The constants. Microseconds of CPU, and bytes.

    Attributes:
        model: of one server.
        node_connect_us: of a connect, on its node.
        redis_us: of a connect, in Redis, with one node that hears of it.
        hearer_us: what each further node takes of Redis for it.
        heard_us: what it takes of that node.
        sent_bytes: what Redis sends for it to each node.
        user_bytes: what Redis keeps of a user.
    """

    model: Model
    node_connect_us: float
    redis_us: float
    hearer_us: float
    heard_us: float
    sent_bytes: float
    user_bytes: float

    @classmethod
    def of(cls, results: Results) -> "ClusterModel | None":
        """Return the constants that were measured; ``None`` where one is missing."""
        model, figure = Model.of(results), results.figure
        node_connect_us = figure("cluster", NODE_OF_CLUSTER, "cpu_us_per_connect")
        user_bytes = figure("cluster", NODE_OF_CLUSTER, "redis_bytes_per_user")
        redis_us = figure("cluster-nodes", NODE_OF_CLUSTER, "redis_us_per_connect")
        of_four_us = figure("cluster-nodes", FOUR_NODES, "redis_us_per_connect")
        heard_us = figure("cluster-nodes", TWO_NODES, "cpu_us_per_heard")
        sent_bytes = figure("cluster-nodes", NODE_OF_CLUSTER, "redis_bytes_per_connect")
        if model is None or node_connect_us is None or user_bytes is None or redis_us is None:
            return None
        if of_four_us is None or heard_us is None or sent_bytes is None:
            return None
        hearer_us = max(0.0, of_four_us - redis_us) / 3
        return cls(model, node_connect_us, redis_us, hearer_us, heard_us, sent_bytes, user_bytes)

    def needs(self, users: int) -> "Needs":
        """Compute what so many users need: the fewest nodes that are not too busy, if there are any."""
        application = Application(users, 50, 10)
        sessions = users * application.sessions_a_day / 86_400 * application.peak
        changes = 2 * sessions  # each session begins and ends
        own_us = sessions * self.node_connect_us + users * self.model.idle_us_per_s
        own_us += changes * (self.model.change_us + application.contacts * self.model.delivery_us)
        heard = changes * self.heard_us / SECOND_US  # of each node's core
        nodes = math.ceil(own_us / SECOND_US / (BUSY - heard)) if heard < BUSY else None
        if nodes is None:
            return Needs(users, sessions, None, heard, None, users * self.user_bytes / 1e9, None)
        redis = changes * (self.redis_us + (nodes - 1) * self.hearer_us) / SECOND_US
        sent = changes * self.sent_bytes * nodes
        return Needs(users, sessions, nodes, heard, redis, users * self.user_bytes / 1e9, sent / 1e6)


@dataclass(frozen=True, slots=True)
class Needs:
    """What so many users need.

    Attributes:
        users: who are online.
        sessions_per_s: that begin, in the busiest minutes.
        nodes: each with a core; ``None``: there are no such.
        heard: the share of each node's core that goes into hearing of others.
        redis_cores: what Redis uses; above one, its work must be divided among shards.
        redis_gb: its memory.
        redis_mb_per_s: what it sends.
    """

    users: int
    sessions_per_s: float
    nodes: int | None
    heard: float
    redis_cores: float | None
    redis_gb: float
    redis_mb_per_s: float | None

    @property
    def shards(self) -> int | None:
        """Among how many Redis' work must be divided."""
        return None if self.redis_cores is None else max(1, math.ceil(self.redis_cores / BUSY))
