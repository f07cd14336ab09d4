"""The runbook speaks of metrics that exist, and of all of them."""

import json
import re
from pathlib import Path

from prometheus_client import generate_latest

from herenow.http.metrics import metrics
from herenow.metering import Meters
from herenow.presence import Presence
from support import ROOT

DOCS = ROOT / "docs" / "operations"
NAME = re.compile(r"\bherenow_[a-z_]+")


def base(name: str) -> str:
    """A metric's name without what Prometheus adds to it."""
    return re.sub(r"_(total|bucket|count|sum|created)$", "", name)


async def known(directory: Path) -> set[str]:
    presence = Presence(f"sqlite:///{directory}/app.db", dev=True)
    await presence.start()
    try:
        shown = (await metrics(presence)).decode()
    finally:
        await presence.stop()
    assert generate_latest(Meters().registry)
    return {base(name) for name in re.findall(r"^# TYPE (herenow_[a-z_]+)", shown, re.MULTILINE)}


async def test_every_metric_is_explained_and_none_is_made_up(tmp_path: Path) -> None:
    exist = await known(tmp_path)
    runbook = (ROOT / "docs" / "operations.md").read_text()
    assert {base(name) for name in NAME.findall(runbook)} == exist
    for name in ("alerts.yml", "dashboard.json"):
        used = {base(name) for name in NAME.findall((DOCS / name).read_text())}
        assert used <= exist, name


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads((DOCS / "dashboard.json").read_text())
    assert len(dashboard["panels"]) >= 8
    assert all(panel["targets"] for panel in dashboard["panels"])
