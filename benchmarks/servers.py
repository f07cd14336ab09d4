"""Every server that some suite measures, and how one is started, loaded and measured once."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import database, redis
from benchmarks.processes import Cores, LoadProcess, ServerProcess
from benchmarks.redis import RunningRedis
from benchmarks.suite import Plan, Sample

FLOOR = "bare_send"
NODE = "node_socketio"
PYTHON = "python_socketio"
SEED = "node_seed"
PRESENCE = "herenow_presence"
GATEWAY = "herenow_gateway"
NODE_OF_CLUSTER = "herenow_node"
TWO_NODES = "herenow_2_nodes"
FOUR_NODES = "herenow_4_nodes"
THREE_NODES_ON_MONGODB = "herenow_3_nodes_on_mongodb"
THREE_SEEDS = "node_seed_3_servers"

DATABASE = "BENCH_DATABASE"
"""The environment variable in which a presence server finds its database."""


CLUSTER = "BENCH_CLUSTER"
"""And the Redis of its cluster."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One server.

    Attributes:
        command: what starts it, without its port.
        database: what it writes to, if anything; the MongoDB must run.
        users: whether its clients are users with a token, whom it lets in, and not anybody.
        cluster: whether it is a node, with a Redis of its own beside it.
        nodes: how many of them there are.
    """

    command: tuple[str, ...]
    database: Literal["sqlite", "mongodb"] | None = None
    users: bool = False
    cluster: bool = False
    nodes: int = 1


def python_peer(name: str, *options: str) -> tuple[str, ...]:
    """Return the command of a peer in Python, without its port."""
    return (sys.executable, "-m", f"benchmarks.peers.{name}", *options)


def node_peer(name: str, *options: str) -> tuple[str, ...]:
    """Return the command of a peer on Node, without its port."""
    return (shutil.which("node") or "node", f"benchmarks/peers/{name}.mjs", *options)


PEERS: Mapping[str, Peer] = {
    FLOOR: Peer(python_peer("bare_send")),
    NODE: Peer(node_peer("node_socketio")),
    "node_socketio_tuned": Peer(node_peer("node_socketio", "--tuned")),
    PYTHON: Peer(python_peer("python_socketio")),
    "websockets_broadcast": Peer(python_peer("websockets_broadcast")),
    "raw_asgi": Peer(python_peer("raw_asgi")),
    "herenow_fast": Peer(python_peer("herenow_fast")),
    "herenow_asgi": Peer(python_peer("herenow_asgi")),
    GATEWAY: Peer(python_peer("herenow_gateway"), "sqlite", users=True),
    PRESENCE: Peer(python_peer("herenow_presence"), "sqlite", users=True),
    "herenow_on_mongodb": Peer(python_peer("herenow_presence"), "mongodb", users=True),
    NODE_OF_CLUSTER: Peer(python_peer("herenow_node"), "sqlite", users=True, cluster=True),
    TWO_NODES: Peer(python_peer("herenow_node"), "sqlite", users=True, cluster=True, nodes=2),
    FOUR_NODES: Peer(python_peer("herenow_node"), "sqlite", users=True, cluster=True, nodes=4),
    THREE_NODES_ON_MONGODB: Peer(python_peer("herenow_node", "--dev"), "mongodb", cluster=True, nodes=3),
    THREE_SEEDS: Peer(node_peer("node_seed"), "mongodb", cluster=True, nodes=3),
    SEED: Peer(node_peer("node_seed"), "mongodb"),
    "node_seed_tuned": Peer(node_peer("node_seed", "--tuned"), "mongodb"),
    "herenow_dev_on_mongodb": Peer(python_peer("herenow_presence", "--dev"), "mongodb"),
}
"""By name, in the order in which they run. Those of one suite are its ``subjects``."""


@dataclass(frozen=True, slots=True)
class Run:
    """One freshly started server with its load.

    Attributes:
        name: the server's.
        peer: what it is.
        servers: its processes.
        load: that of its load.
        database: where it writes to; empty if nowhere.
        redis: that of its cluster; ``None``: it is in none.
    """

    name: str
    peer: Peer
    servers: tuple[ServerProcess, ...]
    load: LoadProcess
    database: str
    redis: RunningRedis | None = None

    @property
    def server(self) -> ServerProcess:
        """The first process; of most there is no other."""
        return self.servers[0]

    def cpu_s(self) -> float:
        """The CPU seconds that all of them have used."""
        return sum(server.gauge.cpu_s() for server in self.servers)


@contextlib.contextmanager
def running(name: str, cores: Cores, *, users: int = 0) -> Iterator[Run]:
    """Start a server and its load, on a database of its own with so many users."""
    peer = PEERS[name]
    with tempfile.TemporaryDirectory(prefix="herenow-bench-") as directory:
        url = ""
        if peer.database == "sqlite":
            url = f"sqlite:///{Path(directory) / 'bench.db'}"
        elif peer.database == "mongodb":
            database.seed(users)
            url = os.environ[database.URL]
        with contextlib.ExitStack() as stack:
            environment, beside = {DATABASE: url}, None
            if peer.cluster:
                beside = stack.enter_context(redis.running(cores.load))
                environment[CLUSTER] = beside.url
            servers = tuple(
                stack.enter_context(ServerProcess(name, [*peer.command], cores.server, environment))
                for _ in range(peer.nodes)
            )
            load = stack.enter_context(LoadProcess(servers, cores.load))
            yield Run(name, peer, servers, load, url, beside)


def with_load(
    measure: Callable[[Run, Plan], Sample], *, users: Callable[[Plan], int] = lambda plan: 0
) -> Callable[[str, Cores, Plan], Sample]:
    """Turn a measurement of a running server into that of a suite.

    Args:
        measure: takes one sample.
        users: how many users a MongoDB must have.
    """

    def sample(name: str, cores: Cores, plan: Plan) -> Sample:
        with running(name, cores, users=users(plan)) as run:
            return measure(run, plan)

    return sample
