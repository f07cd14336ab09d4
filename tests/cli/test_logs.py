"""How the log reads on a terminal."""

import sys
from collections.abc import MutableMapping
from typing import Any

import pytest

from herenow.cli.logs import in_one_line


def fault(way: str) -> MutableMapping[str, Any]:
    try:
        raise ZeroDivisionError("a fault\nof two lines")
    except ZeroDivisionError as error:
        given = {"exception": error, "tuple": sys.exc_info(), "flag": True}[way]
        return in_one_line(None, "error", {"event": "event failed", "exc_info": given})


@pytest.mark.parametrize("way", ["exception", "tuple", "flag"])
def test_a_fault_is_one_line_with_what_was_raised_and_where(way: str) -> None:
    line = fault(way)
    assert line.keys() == {"event", "raised"}
    assert line["raised"].startswith("ZeroDivisionError: a fault (")
    assert "test_logs, line " in line["raised"]


@pytest.mark.parametrize("nothing", [{}, {"exc_info": None}, {"exc_info": False}, {"exc_info": True}])
def test_where_nothing_was_raised_nothing_is_said(nothing: dict[str, Any]) -> None:
    assert in_one_line(None, "info", {"event": "connected", **nothing}) == {"event": "connected"}
