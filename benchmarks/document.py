"""``python -m benchmarks.document``: draw the plots, and bring the figures into the pages that show them.

A page marks what is written for it: ``<!-- measured: NAME -->`` to ``<!-- /measured -->``, where ``NAME`` is one of
``BLOCKS``. What stands between is replaced by what ``results/*.json`` says; a block whose suite was not measured stays.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.curves import CURVES
from benchmarks.processes import ROOT
from benchmarks.readme import servers, servers_fr, summary, summary_fr, table
from benchmarks.results import RESULTS, Results
from benchmarks.scaling import USERS, ClusterModel
from benchmarks.sizing import APPLICATIONS, Model, checks
from benchmarks.suites import SUITES

PAGES = ("README.md", "README.fr.md", "docs/performance.md", "docs/cluster.md")

_BLOCK = re.compile(r"(<!-- measured: (?P<name>[a-z-]+) -->\n)(?:(?!<!-- /?measured).)*(<!-- /measured -->)", re.DOTALL)

Block = Callable[[Results], str | None]


def targets(results: Results) -> str | None:
    """Every target of every suite."""
    rows = [
        [
            f"{target['target']['what']} ({target['target']['server']})",
            target["limit"],
            target["text"],
            _verdict(target),
        ]
        for page in results.pages.values()
        for target in page.get("targets", ())
        if "text" in target
    ]
    return table(["what", "target", "measured: median (least to greatest)", ""], rows) if rows else None


def _verdict(target: Mapping[str, Any]) -> str:
    word = str(target["verdict"])
    return f"**{word}**" if word == "short" else word


def machine(results: Results) -> str | None:
    """On what it was measured."""
    for page in results.pages.values():
        facts = page["machine"]
        versions = ", ".join(
            f"{name} {facts[name]}" for name in ("Python", "Node", "socket.io", "uvicorn", "websockets")
        )
        return (
            f"Measured on {facts['measured']}: {facts['CPU']}, {facts['kernel'].split()[0]}, {versions}; pinning: "
            f"{facts['pinning']}."
        )
    return None


def suite_table(name: str) -> Block:
    """Return the block of a suite's figures, as its own page has them."""

    def block(results: Results) -> str | None:
        path = RESULTS / f"{name}.md"
        if name not in results.pages or not path.exists():
            return None
        first = path.read_text(encoding="utf-8").split("\n\n")
        return f"{first[1]}.\n\n{first[2]}"

    return block


def curve_table(name: str) -> Block:
    """Return the block of a curve."""

    def block(results: Results) -> str | None:
        by_server = results.pages.get("curves", {}).get("curves", {}).get(name)
        if not by_server:
            return None
        _, heading, figures = CURVES[name]
        columns = [(server, *figure) for server in by_server for figure in figures]
        rows = [
            [f"{first['x']:,.0f}", *(f"{by_server[server][at][key]:,.{places}f}" for server, key, _, places in columns)]
            for at, first in enumerate(next(iter(by_server.values())))
        ]
        return table([heading, *(f"{server}: {text}" for server, _, text, _ in columns)], rows)

    return block


def model(results: Results) -> str | None:
    """The constants of the sizing model."""
    found = Model.of(results)
    if found is None:
        return None
    rows = [
        ["letting a session in", f"{found.connect_us:,.0f} µs"],
        ["a change: deciding, encoding", f"{found.change_us:,.0f} µs"],
        ["a window in which something changed: a flush, a write", f"{found.window_us:,.0f} µs"],
        ["a delivery to one watcher", f"{found.delivery_us:,.1f} µs"],
        ["an open connection, each second", f"{found.idle_us_per_s:,.1f} µs"],
        ["an empty server", f"{found.empty_mb:,.0f} MB"],
        ["a connection that watches 20", f"{found.connection_kb:,.1f} KB"],
    ]
    return table(["what", "costs"], rows)


def model_checks(results: Results) -> str | None:
    """The model's predictions beside what was measured."""
    found = Model.of(results)
    if found is None:
        return None
    rows = [
        [
            check.what,
            f"{check.predicted:,.1f} {check.unit}",
            f"{check.measured:,.1f} {check.unit}",
            f"{(check.predicted / check.measured - 1) * 100:+.0f} %",
        ]
        for check in checks(results, found)
    ]
    return table(["point", "predicted", "measured", "off by"], rows) if rows else None


def applications(results: Results) -> str | None:
    """What some applications need, and whether one process carries them."""
    found = Model.of(results)
    if found is None:
        return None
    rows = []
    for each in APPLICATIONS:
        percent, memory_mb = each.needs(found)
        carries = "yes" if percent <= 50 else "at its limit" if percent <= 80 else "no"
        rows.append(
            [
                f"{each.online:,}",
                f"{each.contacts:,}",
                f"{each.sessions_a_day:g}",
                f"{percent:,.0f} %",
                f"{memory_mb:,.0f} MB",
                carries,
            ]
        )
    headings = [
        "online at once",
        "contacts a user",
        "sessions a day",
        "CPU of one core",
        "RSS",
        "one process carries it",
    ]
    return table(headings, rows)


def limits(results: Results) -> str | None:
    """What one core carries, if it does only one thing."""
    found = Model.of(results)
    if found is None:
        return None
    busy_us = 0.5 * 1e6  # half of a core: the rest is for bursts
    rows = [
        ["logins a second", f"{busy_us / found.connect_us:,.0f}"],
        ["deliveries a second", f"{busy_us / found.delivery_us:,.0f}"],
        ["changes a second, to 50 watchers each", f"{busy_us / (found.change_us + 50 * found.delivery_us):,.0f}"],
        ["changes a second, to 1,000 watchers each", f"{busy_us / (found.change_us + 1000 * found.delivery_us):,.0f}"],
        ["idle connections in 1 GB", f"{(1000 - found.empty_mb) / found.connection_kb * 1000:,.0f}"],
    ]
    return table(["half of one core carries", ""], rows)


def cluster_constants(results: Results) -> str | None:
    """From what the model of a cluster is computed."""
    model = ClusterModel.of(results)
    if model is None:
        return None
    rows = [
        ["a connect, on its node", f"{model.node_connect_us:,.0f} µs"],
        [
            "a change, on its node; each delivery of it",
            f"{model.model.change_us:,.0f} µs; {model.model.delivery_us:,.1f} µs",
        ],
        ["an idle connection, on its node", f"{model.model.idle_us_per_s:,.0f} µs a second"],
        ["a change that another node has made, heard", f"{model.heard_us:,.0f} µs"],
        ["a change, in Redis", f"{model.redis_us:,.0f} µs"],
        ["and for each further node that hears of it", f"{model.hearer_us:,.0f} µs"],
        ["what Redis sends of it to each node", f"{model.sent_bytes:,.0f} bytes"],
        ["what Redis keeps of a user online", f"{model.user_bytes:,.0f} bytes"],
    ]
    return table(["what was measured", ""], rows)


def cluster_model(results: Results) -> str | None:
    """What so many users need."""
    model = ClusterModel.of(results)
    if model is None:
        return None
    rows = []
    for needs in map(model.needs, USERS):
        none = needs.nodes is None or needs.redis_cores is None or needs.redis_mb_per_s is None
        rows.append(
            [
                f"{needs.users:,}",
                f"{needs.sessions_per_s:,.0f}",
                "none" if none else f"{needs.nodes:,}",
                f"{needs.heard:.0%}",
                "none" if none else f"{needs.redis_cores:,.2f}",
                "none" if none else f"{needs.shards:,}",
                f"{needs.redis_gb:,.1f} GB",
                "none" if none else f"{needs.redis_mb_per_s:,.1f} MB",
            ]
        )
    columns = [
        "users online",
        "sessions a second",
        "nodes",
        "of each, to hear",
        "Redis cores",
        "shards",
        "Redis memory",
    ]
    return table([*columns, "Redis sends a second"], rows)


def profile(name: str) -> Block:
    """Return the block of a profile's table."""

    def block(results: Results) -> str | None:
        path = RESULTS / f"profile-{name}.md"
        return path.read_text(encoding="utf-8").strip() if path.exists() else None

    return block


BLOCKS: Mapping[str, Block] = {
    "targets": targets,
    "servers": servers,
    "servers-fr": servers_fr,
    "machine": machine,
    "summary": summary,
    "summary-fr": summary_fr,
    **{name: suite_table(name) for name in ("fanout", "connect", "memory", "storm", "latency", "store", "restart")},
    **{name: suite_table(name) for name in SUITES if name.startswith("cluster")},
    "cluster-model": cluster_model,
    "cluster-constants": cluster_constants,
    **{f"curve-{name}": curve_table(name) for name in CURVES},
    "model": model,
    "model-checks": model_checks,
    "applications": applications,
    "limits": limits,
    **{f"profile-{name}": profile(name) for name in ("fanout", "storm", "connect", "latency")},
}
"""By their name in the pages."""


def fill(text: str, results: Results) -> str:
    """Return a page with its blocks written anew.

    Raises:
        KeyError: it marks a block that there is not.
    """

    def written(match: re.Match[str]) -> str:
        block = BLOCKS[match["name"]](results)
        return match[0] if block is None else f"{match[1]}{block}\n{match[3]}"

    return _BLOCK.sub(written, text)


def main(arguments: Sequence[str]) -> int:
    """Draw and fill; return 0."""
    argparse.ArgumentParser(prog="python -m benchmarks.document", description=__doc__).parse_args(arguments)
    results = Results.read()
    try:
        from benchmarks import plots
    except ModuleNotFoundError as error:
        sys.stderr.write(f"no plots without {error.name}: it comes with the dependency group `bench`\n")
    else:
        plots.draw(RESULTS)
    for name in PAGES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = fill(before, results)
        if after != before:
            path.write_text(after, encoding="utf-8")
            sys.stdout.write(f"{name} written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
