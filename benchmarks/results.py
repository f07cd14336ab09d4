"""What the suites have written, read again: for the plots, the pages and the sizing model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Results:
    """The pages of a directory.

    Attributes:
        pages: by suite, those that are there.
    """

    pages: dict[str, Any]

    @classmethod
    def read(cls, directory: Path = RESULTS) -> "Results":
        """Read all pages that the suites have written into a directory."""
        pages = {path.stem: msgspec.json.decode(path.read_bytes()) for path in sorted(directory.glob("*.json"))}
        return cls({name: page for name, page in pages.items() if "suite" in page})

    def figure(self, suite: str, server: str, key: str) -> float | None:
        """Return the median of a server's figure, or ``None`` where it was not measured."""
        spread = self.pages.get(suite, {}).get("servers", {}).get(server, {}).get("figures", {}).get(key)
        return None if spread is None else float(spread["median"])

    def ratio(self, suite: str, server: str, base: str) -> float | None:
        """Return how a server stands to another in the suite's first figure: the median of the ratios of each round."""
        spread = self.ratios(suite, server, base)
        return None if spread is None else spread["median"]

    def ratios(self, suite: str, server: str, base: str) -> dict[str, float] | None:
        """Return the same with the least and the greatest of them."""
        servers = self.pages.get(suite, {}).get("servers", {})
        found: dict[str, float] | None = servers.get(server, {}).get("ratios", {}).get(base)
        return found

    def servers(self, suite: str) -> list[str]:
        """Return who was measured, in order."""
        return list(self.pages.get(suite, {}).get("servers", {}))

    def curve(self, name: str, server: str) -> list[dict[str, float]]:
        """Return the points of a curve; none where it was not measured."""
        points: list[dict[str, float]] = self.pages.get("curves", {}).get("curves", {}).get(name, {}).get(server, [])
        return points
