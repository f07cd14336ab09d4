"""Facts of the machine and the versions that a result depends on. No host name, no path."""

import json
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.processes import ROOT, Cores

PACKAGES = ("herenow", "uvicorn", "uvloop", "httptools", "websockets", "python-socketio", "picows")


def facts(cores: Cores) -> dict[str, str]:
    """Return what a reader needs to compare two results, by name."""
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    pinning = "the server on one core, the load on another" if cores.pinned else "none: the scheduler's choice"
    return {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "pinning": pinning,
        "load average before": load,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Node": _node_version(),
        "socket.io": _socketio_version(),
        **{package: _package_version(package) for package in PACKAGES},
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def _node_version() -> str:
    node = shutil.which("node")
    if node is None:
        return "not installed"
    return subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def _socketio_version() -> str:
    manifest = ROOT / "benchmarks" / "peers" / "node_modules" / "socket.io" / "package.json"
    return str(json.loads(manifest.read_bytes())["version"]) if manifest.exists() else "not installed"


def _package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
