"""The table of the limits in docs/operations.md is that of the settings, and what it counts by exists."""

import re
from pathlib import Path
from typing import get_args

from prometheus_client import generate_latest

from herenow.gateway.events import Code
from herenow.http.errors import STATUSES
from herenow.metering import Meters
from herenow.settings import Settings
from support import ROOT

ROW = re.compile(
    r"^\| [^|]+ \| `(?P<setting>\w+)` \| (?P<default>[\d.]+) \| [^|]+ \| (?P<code>[^|]*)\| (?P<counter>[^|]+) \|$"
)

NAMES_A_LIMIT = re.compile(r"^max_|_timeout_s$|^overload_")

NOT_OF_PEERS = {"ping_timeout_s", "database_timeout_s"}
"""A promise's part, and a patience with the database."""


def rows(document: Path) -> dict[str, re.Match[str]]:
    section = document.read_text().partition("## Limits")[2].partition("\n## ")[0]
    return {found["setting"]: found for found in map(ROW.match, section.splitlines()) if found}


def test_every_limit_is_in_the_table_with_its_default() -> None:
    table = rows(ROOT / "docs" / "operations.md")
    limits = {name for name in Settings.model_fields if NAMES_A_LIMIT.search(name)} - NOT_OF_PEERS
    assert table.keys() == limits
    for name, row in table.items():
        assert float(row["default"]) == Settings.model_fields[name].default, name


def test_every_limit_has_a_code_of_the_contract_and_a_counter() -> None:
    shown = generate_latest(Meters().registry).decode()
    for name, row in rows(ROOT / "docs" / "operations.md").items():
        for code in re.findall(r"`(\w+)`", row["code"]):
            assert code in {*get_args(Code), *STATUSES}, name
        counter = row["counter"].strip()
        if not counter.startswith(("refused", "errors")):
            metric = re.findall(r"`(herenow_\w+?)(?:_total)?[`{]", counter)
            assert metric, name
            assert f"# TYPE {metric[0]}" in shown, name
