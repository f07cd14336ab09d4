"""The tables of all commands: whole at 80, 100 and 200 columns of a real terminal, and never wrapped in a pipe."""

import os
import pty
import re
import subprocess
import sys

import pytest

from cli_support import ENVIRONMENT
from support import ROOT

PROGRAM = [sys.executable, str(ROOT / "tests/cli/tables.py")]
WIDTHS = (80, 100, 200)
USERS = ("6b08d8069f9a12f8fb70dbcd", "0f8fad5b-d9cd-469f-a165-70867728950e")

HEADERS = [
    ("online", "shown as", "since", "connections", "last active"),
    ("server", "address", "process", "since", "last beat", "state"),
    ("promise", "bound"),
    ("online in the store", "shown as", "last active"),
    ("server", "address", "process", "since", "last beat", "state"),
    ("promise", "bound"),
    ("connection", "on", "over", "from", "age", "used", "heard", "deadline"),
    ("change", "ago", "seen as", "because of"),
    ("promise", "bound", "measured"),
]
ROWS = [2, 1, 5, 2, 1, 5, 1, 1, 2]
KEPT_AT_80 = [
    {"online", "shown as"},
    {"server", "last beat", "state"},
    {"promise", "bound"},
    {"online in the store", "last active"},
    {"server", "last beat", "state"},
    {"promise", "bound"},
    {"connection", "heard", "deadline"},
    {"change", "seen as", "because of"},
    {"promise", "measured"},
]


@pytest.fixture(scope="module")
def on_terminal() -> dict[int, list[str]]:
    """What a terminal shows, by its width."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in ("COLUMNS", "LINES")}
    environment["TERM"] = "xterm-256color"
    with subprocess.Popen([*PROGRAM, *map(str, WIDTHS)], stdout=theirs, stderr=subprocess.PIPE, env=environment) as run:
        os.close(theirs)
        said = b""
        while True:
            try:
                more = os.read(ours, 65_536)
            except OSError:  # on Linux, the end of a terminal
                break
            if not more:
                break
            said += more
        assert run.stderr is not None
        complained = run.stderr.read().decode()
    os.close(ours)
    assert run.returncode == 0, complained
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()).replace("\r", "")
    parts = re.split(r"^== (\d+)\n", plain, flags=re.MULTILINE)[1:]
    return {int(width): text.splitlines() for width, text in zip(parts[::2], parts[1::2], strict=True)}


def tables(lines: list[str]) -> list[tuple[str, list[str]]]:
    """Each table: its header, and its rows. A line of ─ stands between."""
    found = []
    for number, line in enumerate(lines):
        if line and set(line.strip()) == {"─"}:
            rows = lines[number + 1 :]
            found.append((lines[number - 1], rows[: rows.index("") if "" in rows else len(rows)]))
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_on_a_terminal_every_row_is_one_line_and_what_matters_least_is_left_out(
    on_terminal: dict[int, list[str]], width: int
) -> None:
    lines = on_terminal[width]
    assert max(map(len, lines)) <= width
    found = tables([line.rstrip() for line in lines])
    assert len(found) == len(HEADERS)
    for (header, rows), columns, count, kept in zip(found, HEADERS, ROWS, KEPT_AT_80, strict=True):
        shown = {column for column in columns if column in re.split(r" {2,}", header.strip())}
        assert kept <= shown, header
        assert len(re.split(r" {2,}", header.strip())) == len(shown), f"a broken name in: {header}"
        if width == 200:
            assert shown == set(columns)
        assert len(rows[:count]) == count and (len(rows) == count), "\n".join(rows)
    for user in USERS:
        assert any(user in line for line in lines)


@pytest.mark.parametrize("columns", ["20", "80"])
def test_in_a_pipe_nothing_is_wrapped_and_nothing_left_out(columns: str) -> None:
    environment = {**ENVIRONMENT, "COLUMNS": columns}
    ended = subprocess.run([*PROGRAM, "0"], capture_output=True, text=True, env=environment, check=True, timeout=60)
    lines = ended.stdout.splitlines()
    assert all(line == line.rstrip() for line in lines)
    found = tables(lines)
    assert [len(rows) for _, rows in found] == ROWS
    for (header, _), names in zip(found, HEADERS, strict=True):
        assert tuple(re.split(r" {2,}", header.strip())) == names
    assert any(line.startswith("drift: 2 ghosts") and line.endswith(")") for line in lines)
    assert (
        "waits made short for the test: ping_interval_s 10 → 1, ping_timeout_s 5 → 0.5, restart_grace_s 15 → 9.5"
        in (lines)
    )


def test_the_words_of_a_pipe_are_those_of_a_terminal(on_terminal: dict[int, list[str]]) -> None:
    ended = subprocess.run([*PROGRAM, "0"], capture_output=True, text=True, env=ENVIRONMENT, check=True, timeout=60)
    shown = "\n".join(line.rstrip() for line in on_terminal[200])
    assert shown.split() == ended.stdout.partition("\n")[2].split()
