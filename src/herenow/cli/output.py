"""How the commands speak: results on stdout, as tables or as JSON; everything else on stderr, as sentences."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from typing import Literal

from pydantic import BaseModel
from rich import box, markup
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

from herenow.store.address import hide_passwords
from herenow.store.base import Progress
from herenow.times import from_iso

GOOD, FOUND, COULD_NOT_LOOK, TERMINATED = 0, 1, 2, 143
"""The exit codes: all is good; something was found or failed; it could not be looked at; Ctrl-C; SIGTERM."""

PATIENCE_S = 1.0
"""After this long, a command shows that it is still at work."""

WIDE = 10_000
"""Columns of what is no terminal: a line stays one line there, for a program to read."""


class _Errors(Console):
    def on_broken_pipe(self) -> None:
        """Go on without: Rich would end the program here, and stdout with it."""
        self.quiet = True


out = Console(highlight=False, emoji=False)
err = _Errors(stderr=True, highlight=False, emoji=False, soft_wrap=True)

_endings: list[Callable[[], object]] = []

SAME_MOMENT_MS = 5_000
"""Clocks of machines that are kept in step differ by less."""

_TURNING = {code: f"\\u{code:04x}" for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Characters that turn the direction of what follows: in an id or a text, they could make a line read otherwise."""


def escape(text: str) -> str:
    """Make an id, or what a user wrote, fit to be printed: it is shown as it is, and changes nothing around it."""
    return markup.escape(text.translate(_TURNING))


def program() -> str:
    """What this program was called as."""
    name = Path(sys.argv[0]).name
    return name if name in ("herenow", "presence-manager") else "herenow"


def complain(sentence: str) -> None:
    """Say on stderr why a command could not do what it was asked, if anybody can be told there."""
    with suppress(OSError, ValueError):
        err.print(f"{program()}: {hide_passwords(sentence)}", markup=False)


def at_the_end(flush: Callable[[], object]) -> None:
    """Have what was said written out before the program ends."""
    _endings.append(flush)


def written_out() -> bool:
    """Write out what was printed; return whether that could be done.

    What could not be written would be tried again by Python itself as it ends, which would make the exit code 120.
    """
    for flush in _endings:
        flush()
    done = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            done = False
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return done


def print_json(answer: BaseModel | dict[str, object]) -> None:
    """Print an answer for a script: one JSON object."""
    if isinstance(answer, BaseModel):
        text = answer.model_dump_json(by_alias=True, exclude_none=False, indent=2)
    else:
        text = json.dumps(answer, indent=2, ensure_ascii=False)
    out.file.write(text + "\n")


def say(text: RenderableType) -> None:
    """Print for people: wrapped to the terminal, and never wrapped where there is none."""
    if out.is_terminal:
        out.print(text)
        return
    wide = Console(file=io.StringIO(), width=WIDE, highlight=False, emoji=False, color_system=None)
    with wide.capture() as captured:  # another console: one never prints wider than it is
        wide.print(text)
    out.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


class Rows:
    """A table in the house's style. Where a terminal is too narrow for it, its least important columns are left out.

    Args:
        columns: their names, as they stand.
        right: those that hold numbers.
        spare: those that may be left out, the first one first.
    """

    def __init__(self, *columns: str, right: Sequence[str] = (), spare: Sequence[str] = ()) -> None:
        self._columns = columns
        self._right = right
        self._spare = spare
        self._rows: list[tuple[str, ...]] = []

    def add(self, *cells: str) -> None:
        """Add a row: markup, for each column."""
        self._rows.append(cells)

    def say(self) -> None:
        """Print it."""
        for left_out in range(len(self._spare) + 1):
            made = self._without(self._spare[:left_out])
            if not out.is_terminal or Measurement.get(out, out.options.update(width=WIDE), made).maximum <= out.width:
                break
        say(made)

    def _without(self, spared: Sequence[str]) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
        shown = [place for place, column in enumerate(self._columns) if column not in spared]
        for place in shown:
            column = self._columns[place]
            justify: Literal["left", "right"] = "right" if column in self._right else "left"
            # Where even so there is no room, it is the name in the first column that is folded, and no other.
            made.add_column(column, justify=justify, overflow="fold", no_wrap=place > 0, min_width=len(column))
        for row in self._rows:
            made.add_row(*(row[place] for place in shown))
        return made


@contextmanager
def patience(doing: str) -> Iterator[Progress]:
    """Show, after a second and on a terminal, that work goes on. Gives a function that is told how far it is."""
    status = err.status(doing)
    timer = Timer(PATIENCE_S, status.start)
    timer.daemon = True
    if err.is_terminal:
        timer.start()

    def progress(done: int, total: int) -> None:
        width = 24
        filled = width if not total else width * done // total
        bar = f"[green]{'━' * filled}[/][dim]{'━' * (width - filled)}[/]"
        status.update(f"{doing} {bar} {done:,} of {total:,} users")

    try:
        yield progress
    finally:
        timer.cancel()
        status.stop()


# -- words for times -------------------------------------------------------------------------------------------------


def clock(time: str | None, *, now: str) -> str:
    """A time as a person says it: the clock's, with the date unless it is today (UTC)."""
    if time is None:
        return "never"
    then = datetime.fromtimestamp(from_iso(time) / 1000, UTC)
    today = datetime.fromtimestamp(from_iso(now) / 1000, UTC).date()
    return f"{then:%H:%M:%S}" if then.date() == today else f"{then:%Y-%m-%d %H:%M:%S}"


def ago(time: str | None, *, now: str) -> str:
    """How long ago something was that has happened."""
    if time is None:
        return "never"
    passed_ms = from_iso(now) - from_iso(time)
    if passed_ms >= 0:
        return f"{duration(passed_ms)} ago"
    # It happened while we looked; or somebody's clock is wrong, and the time is told as it was written.
    return "just now" if passed_ms > -SAME_MOMENT_MS else f"in {duration(-passed_ms)}, by its clock"


def until(time: str, *, now: str) -> str:
    """How far off something is that is still to happen."""
    left_ms = from_iso(time) - from_iso(now)
    return f"in {duration(left_ms)}" if left_ms > 0 else "now"


def duration(time_ms: float) -> str:
    """A duration with the two units that matter."""
    if time_ms < 1000:
        return f"{time_ms:.0f} ms"
    if time_ms < 60_000:
        return f"{time_ms / 1000:.1f}".removesuffix(".0") + " s"
    minutes, hours, days = int(time_ms // 60_000), int(time_ms // 3_600_000), int(time_ms // 86_400_000)
    if minutes < 60:
        big, small = f"{minutes} min", f"{int(time_ms // 1000) % 60} s"
    elif hours < 24:
        big, small = f"{hours} h", f"{minutes % 60} min"
    else:
        big, small = f"{days} d", f"{hours % 24} h"
    return big if small.startswith("0 ") else f"{big} {small}"


def plural(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
