"""``python -m benchmarks [SUITE]``: start each server in turn, load it, measure it, and write the tables."""

import argparse
import dataclasses
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from benchmarks import curves, million, report
from benchmarks.machine import facts
from benchmarks.processes import BenchmarkError, Cores, pinned
from benchmarks.suite import Plan, Sample, Suite
from benchmarks.suites import SUITES
from benchmarks.suites.connect import WARM_UP

ALL = list(dict.fromkeys(subject for suite in SUITES.values() for subject in suite.subjects))
"""Everything that some suite measures."""

RESULTS = Path(__file__).resolve().parent / "results"

FILE_WIDTH = 200
"""Columns of the tables where the output is no terminal."""

SPARE_FILES = 2_000
"""Open files that a server or the load needs besides its connections: users who come and go, for one."""


def run_suite(suite: Suite, plan: Plan, subjects: Sequence[str], cores: Cores, console: Console) -> report.Samples:
    """Return every subject's samples: all once, then all again, so that a slow minute strikes them alike.

    Raises:
        BenchmarkError: a server did not start, or did not do what was asked.
    """
    chosen = [subject for subject in suite.subjects if subject in subjects]
    samples: dict[str, list[Sample]] = {subject: [] for subject in chosen}
    figure = suite.figures[0]
    for repeat in range(1, suite.times(plan) + 1):
        for name in chosen:
            console.print(f"{suite.name} {repeat}/{suite.times(plan)} {name} ", end="", style="dim")
            sample = suite.sample(name, cores, plan)
            samples[name].append(sample)
            console.print(f"{sample[figure.key]:,.{figure.decimals}f} {figure.heading}", style="dim")
    return samples


def write_results(result: report.Result, into: Path) -> None:
    """Write ``SUITE.json`` and ``SUITE.md``."""
    into.mkdir(parents=True, exist_ok=True)
    (into / f"{result.suite.name}.json").write_bytes(report.as_json(result))
    (into / f"{result.suite.name}.md").write_text(report.markdown(result), encoding="utf-8")


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
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", nargs="?", default="all", choices=[*SUITES, curves.NAME, "all"])
    parser.add_argument("--small", action="store_true", help="see that everything works; the figures mean nothing")
    for size in dataclasses.fields(Plan):
        if size.name != "points":
            parser.add_argument(f"--{size.name}", type=positive, help=f"usually {size.default or 'as the suite says'}")
    parser.add_argument("--servers", type=server_names, default=ALL, help=f"of {','.join(ALL)}")
    parser.add_argument("--into", type=Path, default=RESULTS, help="where the results go")
    return parser.parse_args(arguments)


def plan_of(settings: argparse.Namespace) -> Plan:
    """Return the plan that the command line asks for."""
    given = {
        size.name: value
        for size in dataclasses.fields(Plan)
        if (value := getattr(settings, size.name, None)) is not None
    }
    return dataclasses.replace(Plan.small() if settings.small else Plan(), **given)


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """End on SIGTERM as on Ctrl-C: through the context managers that kill the children."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    """Run, print and write; return the exit code: 0 done (targets met or not), 1 failed, 130 interrupted."""
    settings = parse_arguments(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    plan = plan_of(settings)
    names = [*SUITES, curves.NAME]
    if settings.suite != "all":
        names = [name for name in names if name == settings.suite or name.startswith(f"{settings.suite}-")]
    signal.signal(signal.SIGTERM, interrupt)
    try:
        largest = max(plan.connections, WARM_UP, plan.watchers, *(plan.points if curves.NAME in names else ()))
        allow_open_files(largest + SPARE_FILES)
        cores = Cores.choose()
        machine = facts(cores)
        with pinned(cores.load), million.KEPT:  # the runner, too, stays off the server's core
            for name in names:
                started_s = time.monotonic()
                if name == curves.NAME:
                    million.KEPT.close()  # its database would be in the way
                    curves.run(plan, cores, console, machine, settings.into)
                else:
                    with SUITES[name].surroundings(plan):
                        samples = run_suite(SUITES[name], plan, settings.servers, cores, console)
                    result = report.Result(SUITES[name], plan, samples, machine, time.monotonic() - started_s)
                    write_results(result, settings.into)
                    console.print(*report.screen(result), sep="\n")
                console.print(f"{name} took {time.monotonic() - started_s:.0f} s", style="dim")
    except BenchmarkError as error:
        Console(stderr=True, highlight=False).print(f"\n{error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("\nstopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
