"""The plots of ``results/``: each says in its title what it shows, and is drawn only where its suite was measured.

matplotlib comes with the dependency group ``bench``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.results import Results
from benchmarks.servers import FLOOR, GATEWAY, NODE, PRESENCE, PYTHON, SEED
from benchmarks.suites.storm import HERENOW

OURS = "#0b6e4f"
THEIRS = "#8a8f98"
FLOOR_COLOUR = "#c9a227"
LIMIT = "#c0392b"

NAMES = {
    FLOOR: "bare send loop (floor)",
    NODE: "Socket.IO on Node",
    "node_socketio_tuned": "Socket.IO on Node, native frames",
    PYTHON: "python-socketio",
    "websockets_broadcast": "websockets, broadcast",
    "raw_asgi": "ASGI send loop",
    "herenow_fast": "herenow, Socket.IO server",
    "herenow_asgi": "herenow, plain ASGI",
    GATEWAY: "herenow, a user's change",
    PRESENCE: "herenow: JWT, registry, SQLite",
    "herenow_on_mongodb": "herenow: JWT, registry, MongoDB",
    SEED: "the seed's design",
    HERENOW: "herenow",
}

pyplot.rcParams.update(
    {
        "font.size": 11,
        "axes.titlesize": 12.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 110,
        "savefig.bbox": "tight",
    }
)

Plot = Callable[[Results], Any]


def _colour(server: str) -> str:
    return FLOOR_COLOUR if server == FLOOR else OURS if server.startswith("herenow") else THEIRS


def _bars(results: Results, suite: str, key: str, decimals: int, title: str, heading: str) -> Any:
    """One bar a server, its value beside it, its range across it."""
    spreads = [
        (server, figures["figures"][key])
        for server, figures in results.pages[suite]["servers"].items()
        if figures["figures"].get(key)
    ]
    spreads.sort(key=lambda each: -each[1]["median"])
    figure, axes = pyplot.subplots(figsize=(8.2, 0.6 + 0.42 * len(spreads)))
    most = max(spread["greatest"] for _, spread in spreads)
    for place, (server, spread) in enumerate(spreads):
        axes.barh(place, spread["median"], color=_colour(server), height=0.68)
        axes.plot([spread["least"], spread["greatest"]], [place, place], color="black", linewidth=1)
        axes.text(spread["greatest"] + most * 0.012, place, f"{spread['median']:,.{decimals}f}", va="center")
    axes.set_yticks(range(len(spreads)), [NAMES.get(server, server) for server, _ in spreads])
    axes.set_xlim(0, most * 1.12)
    axes.set_xlabel(heading)
    _title(figure, title)
    return figure


def _title(figure: Any, title: str) -> None:
    """Put the title at the left edge of all that is drawn: that of the axes moves with their labels."""
    figure.tight_layout(w_pad=3)
    left = min(each.get_tightbbox().x0 for each in figure.axes) / figure.bbox.width
    figure.suptitle(title, x=left, y=1.0, ha="left", va="bottom", fontsize=12.5, fontweight="bold")


def fanout(results: Results) -> Any:
    """CPU per delivery, by server."""
    node, python = results.ratio("fanout", "herenow_fast", NODE), results.ratio("fanout", "herenow_fast", PYTHON)
    compared = f": {node:.2f} × Node, {python:.2f} × python-socketio" if node and python else ""
    return _bars(
        results, "fanout", "cpu_us_per_delivery", 1, f"What one delivery costs{compared}", "CPU µs per delivery"
    )


def connect(results: Results) -> Any:
    """CPU per connect, by server."""
    node = results.ratio("connect", PRESENCE, NODE)
    compared = f": with all behind it {node:.2f} × Node's bare one" if node else ""
    return _bars(results, "connect", "cpu_us_per_connect", 0, f"What one connect costs{compared}", "CPU µs per connect")


def memory(results: Results) -> Any:
    """RSS per idle connection, by server."""
    ours = results.figure("memory", PRESENCE, "rss_kb_per_connection")
    said = f": {ours:.1f} KB with 20 watches" if ours else ""
    return _bars(
        results,
        "memory",
        "rss_kb_per_connection",
        1,
        f"What an idle connection holds{said}",
        "RSS KB per idle connection",
    )


def _lines(axes: Any, curves: Sequence[tuple[str, list[dict[str, float]], str]], *, decimals: int = 1) -> None:
    """Lines with their names at their ends."""
    for server, points, key in curves:
        xs, ys = [point["x"] for point in points], [point[key] for point in points]
        axes.plot(xs, ys, marker="o", color=_colour(server), linewidth=2)
        axes.annotate(
            f"{NAMES.get(server, server)}: {ys[-1]:,.{decimals}f}",
            (xs[-1], ys[-1]),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=_colour(server),
        )
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)


def _plain_numbers(axis: Any, ticks: Sequence[float]) -> None:
    axis.set_ticks(list(ticks), [f"{tick:,.0f}" for tick in ticks])
    axis.set_minor_locator(matplotlib.ticker.NullLocator())


def connections(results: Results) -> Any:
    """CPU per delivery against the number of connections."""
    curves = [(server, results.curve("connections", server), "cpu_us") for server in (FLOOR, NODE, GATEWAY)]
    figure, axes = pyplot.subplots(figsize=(6.2, 3.6))
    _lines(axes, curves)
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis, [point["x"] for point in curves[-1][1]])
    axes.set_xlabel("connections")
    axes.set_ylabel("CPU µs per delivery")
    growth = {server: points[-1]["cpu_us"] / points[0]["cpu_us"] for server, points, _ in curves}
    first, last = (f"{curves[-1][1][place]['x']:,.0f}" for place in (0, -1))
    _title(
        figure,
        f"From {first} to {last} connections a delivery costs × {growth[GATEWAY]:.1f}; Node's × {growth[NODE]:.1f}",
    )
    return figure


def watchers(results: Results) -> Any:
    """CPU per change against the watchers of a user."""
    points = results.curve("watchers", GATEWAY)
    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    xs, ys = [point["x"] for point in points], [point["cpu_us_per_change"] / 1000 for point in points]
    axes.plot(xs, ys, marker="o", color=OURS, linewidth=2)
    for x, y in zip(xs, ys, strict=True):
        axes.annotate(f"{y:,.1f} ms", (x, y), xytext=(-7, 5), textcoords="offset points", ha="right")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.14, y=0.18)
    _plain_numbers(axes.xaxis, [10**power for power in range(1, 6) if xs[0] <= 10**power <= xs[-1]])
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("watchers of the user who changes")
    axes.set_ylabel("CPU ms per change")
    _title(figure, "A change costs as much as it has watchers, not as there are connections")
    return figure


def changes(results: Results) -> Any:
    """CPU against changes a second."""
    points = results.curve("changes", PRESENCE)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.4, 3.6))
    xs = [point["x"] for point in points]
    left.plot(xs, [point["cpu_percent"] for point in points], marker="o", color=OURS, linewidth=2)
    left.set_ylim(0, 100)
    left.set_ylabel("CPU % of one core")
    right.plot(xs, [point["told_p50_ms"] for point in points], marker="o", color=OURS, linewidth=2)
    right.plot(xs, [point["told_p99_ms"] for point in points], marker="o", color=OURS, linewidth=2, linestyle="--")
    for key, word in (("told_p50_ms", "median"), ("told_p99_ms", "p99")):
        right.annotate(
            word,
            (xs[-1], points[-1][key]),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=OURS,
        )
    right.set_ylim(bottom=0)
    right.set_ylabel("ms until the watcher knows")
    for axes in (left, right):
        axes.set_xlabel("changes a second")
    last = points[-1]
    _title(
        figure,
        f"{last['x']:,.0f} changes a second, each to {last['watchers']:.0f} watchers, "
        f"take {last['cpu_percent']:.0f} % of a core",
    )
    return figure


def storm(results: Results) -> Any:
    """CPU and frames of the join storm against its size."""
    figure, panels = pyplot.subplots(1, 2, figsize=(10.5, 3.7))
    last: dict[str, dict[str, float]] = {}
    for axes, (key, heading, decimals) in zip(panels, (("cpu_s", "CPU s", 2), ("frames", "frames", 0)), strict=True):
        curves = [(server, results.curve("storm", server), key) for server in (SEED, HERENOW)]
        _lines(axes, curves, decimals=decimals)
        last = {server: points[-1] for server, points, _ in curves}
        _plain_numbers(axes.xaxis, [point["x"] for point in curves[0][1]])
        axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel("users who join at once")
        axes.set_ylabel(heading)
    factor = last[SEED]["cpu_s"] / last[HERENOW]["cpu_s"]
    _title(
        figure,
        f"A join storm of {last[SEED]['x']:,.0f}: N² with a broadcast a join, 1/{factor:.0f} of its CPU with a window",
    )
    return figure


def latency(results: Results) -> Any:
    """The distribution of what watchers wait for."""
    sample = results.pages["latency"]["servers"][PRESENCE]["figures"]
    samples = results.pages["latency"]["servers"][PRESENCE]["samples"]
    plan = results.pages["latency"]["plan"]
    figure, panels = pyplot.subplots(1, 2, figsize=(9.4, 3.6))
    shares = (("p50", "50 %"), ("p90", "90 %"), ("p99", "99 %"), ("p999", "99.9 %"), ("max", "all"))
    for axes, (name, limit_ms, heading) in zip(
        panels, (("connect", 100, "a user came"), ("offline", 2000, "a user went")), strict=True
    ):
        values = [max(each[f"{name}_{key}_ms"] for each in samples) for key, _ in shares]
        axes.bar(range(len(shares)), values, color=OURS, width=0.8)
        for place, value in enumerate(values):
            axes.text(place, value, f"{value:,.0f}", ha="center", va="top", color="white", fontsize=10)
        axes.axhline(limit_ms, color=LIMIT, linewidth=1.4, linestyle="--")
        axes.set_ylim(0, max(limit_ms, *values) * 1.22)
        above = max(limit_ms, *values) * 1.11
        axes.text(len(shares) - 0.5, above, f"bound for 99 %: {limit_ms:,} ms", ha="right", color=LIMIT)
        axes.set_xticks(range(len(shares)), [word for _, word in shares])
        axes.set_xlabel(f"of the watchers know that {heading}")
        axes.set_ylabel("ms")
    connect_ms = sample["connect_p99_ms"]["median"] if "connect_p99_ms" in sample else 0.0
    _title(
        figure,
        f"{plan['watchers']:,} connections, {plan['rate']} changes a second: "
        f"99 % of the watchers know within {connect_ms:.0f} ms",
    )
    return figure


PLOTS: dict[str, tuple[Plot, Callable[[Results], bool]]] = {
    "fanout": (fanout, lambda results: "fanout" in results.pages),
    "connect": (connect, lambda results: "connect" in results.pages),
    "memory": (memory, lambda results: "memory" in results.pages),
    "latency": (latency, lambda results: "latency" in results.pages),
    "connections": (connections, lambda results: "curves" in results.pages),
    "watchers": (watchers, lambda results: "curves" in results.pages),
    "changes": (changes, lambda results: "curves" in results.pages),
    "storm": (storm, lambda results: "curves" in results.pages),
}
"""By the name of the file: what draws it, and whether its suite was measured."""


def draw(directory: Path) -> list[Path]:
    """Draw all plots of what was measured into a directory of results; return their files."""
    results, drawn = Results.read(directory), []
    for name, (plot, measured) in PLOTS.items():
        if measured(results):
            figure = plot(results)
            path = directory / f"{name}.png"
            figure.savefig(path, metadata={"Software": None})
            pyplot.close(figure)
            drawn.append(path)
    return drawn
