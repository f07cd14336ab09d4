"""From samples to medians, ratios and verdicts, and these as a table on the screen, as JSON and as Markdown.

A ratio is taken between two servers' samples of the same repeat, seconds apart, and then the median of these: a
machine that is slower for a minute is slower for both.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.table import Table

from benchmarks.suite import Plan, Suite, Target

Samples = Mapping[str, Sequence[Mapping[str, float]]]
"""By server: one sample for each repeat, in order."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, and the least and greatest of them."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, decimals: int) -> str:
        """Return ``median (least-greatest)``; without the range where there is none."""
        median = f"{self.median:,.{decimals}f}"
        if self.least == self.greatest:
            return median
        return f"{median} ({self.least:,.{decimals}f}–{self.greatest:,.{decimals}f})"  # noqa: RUF001  a range's dash


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target beside what was measured; ``None`` where a server that it needs did not run."""

    target: Target
    measured: Spread | None

    @property
    def word(self) -> str:
        """``ok``, ``short``, or ``not measured``."""
        if self.measured is None:
            return "not measured"
        return "ok" if self._keeps(self.measured) else "short"

    def _keeps(self, measured: Spread) -> bool:
        if self.target.at_least:
            return (measured.least if self.target.worst else measured.median) >= self.target.limit
        return (measured.greatest if self.target.worst else measured.median) <= self.target.limit


@dataclass(frozen=True, slots=True)
class Result:
    """All samples of one suite, and what follows from them."""

    suite: Suite
    plan: Plan
    samples: Samples
    machine: Mapping[str, str]
    took_s: float = 0.0

    def spread(self, server: str, key: str) -> Spread | None:
        """Return the spread of one figure of one server; ``None`` where it has no such figure."""
        values = [sample[key] for sample in self.samples.get(server, ()) if key in sample]
        return Spread.of(values) if values else None

    def ratio(self, server: str, base: str, key: str | None = None) -> Spread | None:
        """Return a figure (the suite's first) of ``server`` over that of ``base``, or ``None`` if one did not run.

        Also ``None`` where the base's figure is not above zero (memory that did not grow): a ratio would say nothing.
        """
        key = key or self.suite.figures[0].key
        pairs = list(zip(self.samples.get(server, ()), self.samples.get(base, ()), strict=False))
        if not pairs or any(below[key] <= 0 for _, below in pairs):
            return None
        return Spread.of([above[key] / below[key] for above, below in pairs])

    def verdicts(self) -> list[Verdict]:
        """Return every target of the suite with its measured value."""
        return [Verdict(target, self._measured(target)) for target in self.suite.targets]

    def _measured(self, target: Target) -> Spread | None:
        if target.base is not None:
            return self.ratio(target.server, target.base, target.key)
        return self.spread(target.server, target.key or self.suite.figures[0].key)

    def figure_rows(self) -> tuple[list[str], list[list[str]]]:
        """Return the headings and the rows of the table of servers."""
        bases = [base for base in self.suite.bases if base in self.samples]
        headings = ["server", *(figure.heading for figure in self.suite.figures), *(f"x {base}" for base in bases)]
        rows = []
        for server in self.samples:
            ratios = [self.ratio(server, base) for base in bases]
            rows.append(
                [
                    server,
                    *(_text(self.spread(server, figure.key), figure.decimals) for figure in self.suite.figures),
                    *(_text(ratio, 2) for ratio in ratios),
                ]
            )
        return headings, rows

    def target_rows(self) -> tuple[list[str], list[list[str]]]:
        """Return the headings and the rows of the table of targets."""
        rows = []
        for verdict in self.verdicts():
            target = verdict.target
            rows.append([f"{target.server}: {target.what}", limit(target), measured(verdict), verdict.word])
        return ["target", "limit", "measured", "verdict"], rows

    def caption(self) -> str:
        """Return how much was done, and how to read the figures."""
        repeats = self.suite.times(self.plan)
        return f"{self.suite.size(self.plan)}; repeats, interleaved: {repeats}; each figure: median (least to greatest)"


def _text(spread: Spread | None, decimals: int) -> str:
    return "-" if spread is None else spread.text(decimals)


def limit(target: Target) -> str:
    """Return a target's limit as a person reads it."""
    sign = "≥" if target.at_least else "≤"
    return f"{sign} {target.limit:,g}" + (f" × {target.base}" if target.base else "")


def measured(verdict: Verdict) -> str:
    """Return what was measured of a target, with as many decimals as its limit deserves."""
    bound = verdict.target.limit
    return _text(verdict.measured, 3 if bound < 0.2 else 2 if bound < 50 else 0)


def screen(result: Result) -> list[Table]:
    """Return the two tables of a result, for a terminal."""
    tables = []
    for title, (headings, rows) in (
        (f"{result.suite.title}\n{result.caption()}", result.figure_rows()),
        ("Targets", result.target_rows()),
    ):
        table = Table(title=title, title_justify="left")
        for position, heading in enumerate(headings):
            table.add_column(heading, justify="left" if position == 0 else "right", overflow="fold")
        for row in rows:
            colour = {"ok": "green", "short": "red", "not measured": "yellow"}.get(row[-1])
            table.add_row(*row, style=colour)
        tables.append(table)
    return tables


def markdown(result: Result) -> str:
    """Return the result as a Markdown page."""
    parts = [f"# {result.suite.title}", "", result.caption(), ""]
    for headings, rows in (result.figure_rows(), result.target_rows()):
        parts.append("| " + " | ".join(headings) + " |")
        parts.append("|---" + "|--:" * (len(headings) - 1) + "|")
        parts.extend("| " + " | ".join(row) + " |" for row in rows)
        parts.append("")
    parts.extend(f"- {name}: {value}" for name, value in result.machine.items())
    return "\n".join(parts) + "\n"


def as_json(result: Result) -> bytes:
    """Return the result as indented JSON, every sample included."""
    servers: dict[str, Any] = {}
    for server, samples in result.samples.items():
        servers[server] = {
            "figures": {figure.key: result.spread(server, figure.key) for figure in result.suite.figures},
            "ratios": {base: result.ratio(server, base) for base in result.suite.bases},
            "samples": samples,
        }
    targets = [
        {
            "figure": verdict.target.key or result.suite.figures[0].key,
            "target": verdict.target,
            "limit": limit(verdict.target),
            "measured": verdict.measured,
            "text": measured(verdict),
            "verdict": verdict.word,
        }
        for verdict in result.verdicts()
    ]
    page = {
        "suite": result.suite.name,
        "caption": result.caption(),
        "plan": result.plan,
        "took_s": result.took_s,
        "machine": result.machine,
        "servers": servers,
        "targets": targets,
    }
    return msgspec.json.format(msgspec.json.encode(page), indent=2) + b"\n"
