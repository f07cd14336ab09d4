"""``python -m benchmarks.profiling [WHAT…]``: where a server's time goes, as a flame graph and as a table.

py-spy looks at the server from outside, 200 times a second, while the load of a suite runs: once for
``results/profile-WHAT.svg``, once for ``results/profile-WHAT.md``. It may need the right to look at other processes of
the same user (Linux: ``kernel.yama.ptrace_scope`` 0, or root). The system calls are in the function that makes them.
"""

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import database
from benchmarks.__main__ import SPARE_FILES, allow_open_files
from benchmarks.processes import ROOT, BenchmarkError, Cores
from benchmarks.results import RESULTS
from benchmarks.servers import GATEWAY, PRESENCE, Run, running
from benchmarks.suite import Plan
from benchmarks.suites.latency import CONTACTS
from benchmarks.suites.storm import HERENOW

RATE = 200

ROWS = 12
"""Functions in the table."""

_FRAME = re.compile(r"^(?P<function>.*) \((?P<file>[^()]*?)(:\d+)?\)$")


def fanout(run: Run, plan: Plan) -> Iterator[None]:
    """Changes of a user to everybody."""
    run.load.order("users", plan.connections, audiences=(plan.connections,))
    yield
    run.load.order("changes", 5 * plan.rounds, among=plan.connections)


def connect(run: Run, plan: Plan) -> Iterator[None]:
    """Users who come in."""
    yield
    run.load.order("users", 3 * plan.connections)


def storm(run: Run, plan: Plan) -> Iterator[None]:
    """Everybody at once."""
    yield
    run.load.order("storm", plan.members)


def latency(run: Run, plan: Plan) -> Iterator[None]:
    """Users who come and go, before a crowd that watches them."""
    run.load.order("users", plan.watchers)
    run.load.order("expect", rate=plan.rate, seconds=plan.seconds, contacts=CONTACTS)
    yield
    run.load.order("arrivals")


LOADS: dict[str, tuple[str, Callable[[Run, Plan], Iterator[None]]]] = {
    "fanout": (GATEWAY, fanout),
    "connect": (PRESENCE, connect),
    "storm": (HERENOW, storm),
    "latency": (PRESENCE, latency),
}
"""By name: the server, and what is done to it. What comes before the ``yield`` is not looked at."""


@contextlib.contextmanager
def watched(run: Run, form: str, path: Path) -> Iterator[None]:
    """Let py-spy look at a server while inside."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        raise BenchmarkError("no py-spy: it comes with the dependency group `bench`")
    pid = str(run.server.process.pid)
    command = [program, "record", "--pid", pid, "--rate", str(RATE), "--format", form, "--output", str(path)]
    looking = subprocess.Popen(
        [*command, "--duration", "600", "--nonblocking"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield
    finally:
        looking.send_signal(2)  # as Ctrl-C: it writes what it has
        watchdog = threading.Timer(20, looking.kill)
        watchdog.start()
        _, said = looking.communicate()
        watchdog.cancel()
    if not path.exists():
        raise BenchmarkError(f"py-spy wrote nothing:\n{said[-1000:]}")


def look(name: str, plan: Plan, cores: Cores, form: str, path: Path) -> None:
    """Run one load on a fresh server, looked at."""
    server, load = LOADS[name]
    with running(server, cores, users=max(plan.members, plan.connections)) as run:
        phases = load(run, plan)
        next(phases)
        with watched(run, form, path):
            next(phases, None)


def functions(raw: str) -> tuple[int, Counter[str], Counter[str]]:
    """Read py-spy's raw form: a stack and its count a line. Return all samples, and those of each function.

    Returns:
        The number of samples; by function, those in which it ran itself; and those in which it or what it called did.
    """
    total, own, whole = 0, Counter[str](), Counter[str]()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    return total, own, whole


def _short(frame: str) -> str:
    """Leave the line out, and of the path all that lies before the package."""
    match = _FRAME.match(frame)
    if match is not None and match["function"] == "Runner.run":
        return "the event loop itself (uvloop, in C), its waiting included"
    if match is None:
        return frame
    file = re.sub(r".*/(site-packages|src|lib/python[\d.]+)/", "", match["file"])
    return f"`{match['function']}` {file}"


def without_places(text: str) -> str:
    """Leave out where things lie on this machine."""
    for place in sorted({str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())}, key=len, reverse=True):
        text = text.replace(place + "/", "")
    return text


def table(raw: str) -> str:
    """Return the functions that take most, by themselves, as Markdown."""
    total, own, whole = functions(raw)
    lines = ["| by itself | with what it calls | function |", "|--:|--:|---|"]
    for function, count in own.most_common(ROWS):
        lines.append(f"| {count / total:.0%} | {whole[function] / total:.0%} | {function} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Look; return 0, or 1 where that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiling", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*LOADS, []], help=f"of {', '.join(LOADS)}; all by default")
    parser.add_argument("--small", action="store_true", help="see that it works")
    parser.add_argument("--into", type=Path, default=RESULTS, help="where the results go")
    settings = parser.parse_args(arguments)
    plan, cores = Plan.small() if settings.small else Plan(), Cores.choose()
    try:
        allow_open_files(plan.watchers + SPARE_FILES)
        settings.into.mkdir(parents=True, exist_ok=True)
        with database.running(), tempfile.TemporaryDirectory() as directory:
            for name in settings.what or LOADS:
                sys.stdout.write(f"profile of {name}\n")
                graph = settings.into / f"profile-{name}.svg"
                look(name, plan, cores, "flamegraph", graph)
                graph.write_text(without_places(graph.read_text(encoding="utf-8")), encoding="utf-8")
                raw = Path(directory) / name
                look(name, plan, cores, "raw", raw)
                page = table(raw.read_text(encoding="utf-8"))
                (settings.into / f"profile-{name}.md").write_text(page, encoding="utf-8")
    except BenchmarkError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
