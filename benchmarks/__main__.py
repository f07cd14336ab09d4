"""``python -m benchmarks [SUITE]``: start each server in turn, load it, measure it, and write the tables."""

import argparse
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from benchmarks import report
from benchmarks.machine import facts
from benchmarks.processes import BenchmarkError, Cores, LoadProcess, ServerProcess, pinned
from benchmarks.suites import SUITES, WARM_UP_CONNECTS, Plan, Suite

ALL = list(dict.fromkeys(server for suite in SUITES.values() for server in suite.servers))
"""Every server that some suite measures."""

RESULTS = Path(__file__).resolve().parent / "results"

FILE_WIDTH = 140
"""Columns of the tables where the output is no terminal."""

SPARE_FILES = 200
"""Open files that a server or the load needs besides its connections."""


def run_suite(suite: Suite, plan: Plan, servers: Sequence[str], cores: Cores, console: Console) -> report.Samples:
    """Return every server's samples: all servers once, then all again, so that a slow minute strikes them alike.

    Raises:
        BenchmarkError: a server did not start, or did not do what was asked.
    """
    servers = [server for server in suite.servers if server in servers]
    samples: dict[str, list[Mapping[str, float]]] = {server: [] for server in servers}
    for repeat in range(1, plan.repeats + 1):
        for name in servers:
            console.print(f"{suite.name} {repeat}/{plan.repeats} {name} ", end="", style="dim")
            suite.prepare(plan)
            with (
                ServerProcess(name, suite.servers[name], cores.server) as server,
                LoadProcess(server, cores.load) as load,
            ):
                sample = suite.measure(server, load, plan)
            samples[name].append(sample)
            figure = suite.figures[0]
            console.print(f"{sample[figure.key]:,.{figure.decimals}f} {figure.heading}", style="dim")
    return samples


def write_results(result: report.Result) -> None:
    """Write ``results/SUITE.json`` and ``results/SUITE.md``."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{result.suite.name}.json").write_bytes(report.as_json(result))
    (RESULTS / f"{result.suite.name}.md").write_text(report.markdown(result), encoding="utf-8")


def allow_open_files(needed: int) -> None:
    """Raise the limit of open files for the children to what they need.

    Raises:
        BenchmarkError: the hard limit is below that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchmarkError(f"{needed:,} open files are needed, and the hard limit is {hard:,} (`ulimit -Hn`)")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def server_names(text: str) -> list[str]:
    """Return the servers that ``--servers a,b`` names."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in ALL:
            raise argparse.ArgumentTypeError(f"no server is named {name!r}; there are {', '.join(ALL)}")
    return names


def positive(text: str) -> int:
    """Return a whole number of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the command line's settings."""
    usual = Plan()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", nargs="?", default="all", choices=[*SUITES, "all"])
    parser.add_argument("--connections", type=positive, default=usual.connections)
    parser.add_argument("--rounds", type=positive, default=usual.rounds, help="of the fan-out: events to everybody")
    parser.add_argument("--members", type=positive, default=usual.members, help="of the storm: users who join")
    parser.add_argument("--repeats", type=positive, default=usual.repeats, help="samples of each server")
    parser.add_argument("--servers", type=server_names, default=ALL, help=f"of {','.join(ALL)}")
    return parser.parse_args(arguments)


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """End on SIGTERM as on Ctrl-C: through the context managers that kill the children."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    """Run, print and write; return the exit code: 0 done (targets met or not), 1 failed, 130 interrupted."""
    settings = parse_arguments(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    plan = Plan(settings.connections, settings.rounds, settings.members, settings.repeats)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        allow_open_files(max(plan.connections, WARM_UP_CONNECTS) + SPARE_FILES)
        cores = Cores.choose()
        machine = facts(cores)
        with pinned(cores.load):  # the runner, too, stays off the server's core
            for name in SUITES if settings.suite == "all" else [settings.suite]:
                with SUITES[name].surroundings():
                    samples = run_suite(SUITES[name], plan, settings.servers, cores, console)
                result = report.Result(SUITES[name], plan, samples, machine)
                write_results(result)
                console.print(*report.screen(result), sep="\n")
    except BenchmarkError as error:
        Console(stderr=True, highlight=False).print(f"\n{error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("\nstopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
