"""The small words of the commands: durations in, durations and times out."""

import tomllib

import pytest
import typer

from herenow.cli.app import main
from herenow.cli.options import parse_duration_ms
from herenow.cli.output import ago, clock, duration, escape, plural, until
from support import ROOT

NOW = "2025-03-01T09:30:00.000Z"


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("300", 300_000),
        ("300s", 300_000),
        ("5m", 300_000),
        ("5 m", 300_000),
        ("1h", 3_600_000),
        ("2d", 172_800_000),
        ("250ms", 250),
        ("1.5h", 5_400_000),
        ("5M", 300_000),
        (" 5m ", 300_000),
    ],
)
def test_a_duration_is_read(text: str, time_ms: int) -> None:
    assert parse_duration_ms(text) == time_ms


@pytest.mark.parametrize("text", ["", "m", "5x", "-1", "1e9", "5m3s", "0", "0.0001s", "nan", "inf", "9" * 40, "1,5h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1 s"),
        (9_500, "9.5 s"),
        (2_890, "2.9 s"),
        (59_400, "59.4 s"),
        (59_990, "60 s"),
        (60_000, "1 min"),
        (75_000, "1 min 15 s"),
        (3_600_000, "1 h"),
        (5_400_000, "1 h 30 min"),
        (86_400_000, "1 d"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_a_duration_is_said_with_the_units_that_matter(time_ms: int, text: str) -> None:
    assert duration(time_ms) == text


def test_a_time_is_said_with_its_date_unless_it_is_today() -> None:
    assert clock("2025-03-01T08:15:30.250Z", now=NOW) == "08:15:30"
    assert clock("2025-02-28T08:15:30.250Z", now=NOW) == "2025-02-28 08:15:30"
    assert clock(None, now=NOW) == "never"


def test_a_time_is_said_as_how_long_ago_or_how_far_off() -> None:
    assert ago("2025-03-01T09:29:00.000Z", now=NOW) == "1 min ago"
    assert ago("2025-03-01T09:30:00.003Z", now=NOW) == "just now", "it beat while we looked"
    assert ago("2025-03-01T09:40:00.000Z", now=NOW) == "in 10 min, by its clock"
    assert until("2025-03-01T09:30:10.000Z", now=NOW) == "in 10 s"
    assert until("2025-03-01T09:29:59.999Z", now=NOW) == "now"
    assert ago(None, now=NOW) == "never"


def test_a_number_of_things() -> None:
    assert [plural(number, "user") for number in (0, 1, 1234)] == ["0 users", "1 user", "1,234 users"]


def test_both_names_of_the_program_are_the_same_commands() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == dict.fromkeys(("herenow", "presence-manager"), "herenow.cli.entry:main")
    assert callable(main)


def test_what_a_user_wrote_cannot_turn_a_line_around() -> None:
    assert escape("alice\u202eenilno \u2066[bold]") == r"alice\u202eenilno \u2066\[bold]"
    assert escape("שלום") == "שלום"
