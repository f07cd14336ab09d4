"""What all commands share: their options, and how they end."""

import asyncio
import functools
import re
import signal
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer

from herenow.cli.interrupt import INTERRUPTED
from herenow.cli.output import COULD_NOT_LOOK, GOOD, TERMINATED, complain, written_out
from herenow.errors import HerenowError
from herenow.tenancy import is_tenant

P = ParamSpec("P")

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        "-d",
        metavar="URL",
        help="The application's database.",
        show_default="sqlite:///herenow.db",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
Tenant = Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="Whose user; by default of no tenant.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

_UNITS_MS = {"": 1000, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST_MS = 10 * 365 * 86_400_000


class CouldNotLook(HerenowError):
    """The command could not do its work: a sentence, and exit code 2."""


def checked_tenant(tenant: str | None) -> str | None:
    """Return what ``--tenant`` said.

    Raises:
        CouldNotLook: no tenant can be called so.
    """
    if tenant is not None and not is_tenant(tenant):
        raise CouldNotLook(
            f"{tenant!r} names no tenant: a tenant has 1 to 64 ASCII letters, digits, dots, underscores and dashes"
        )
    return tenant


def run_quietly(command: Callable[P, int]) -> Callable[P, None]:
    """Let a command end by its exit code, and by a sentence where it fails. No traceback reaches a terminal."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        # Until now a Ctrl-C left at once (``entry.py``); now there may be something to put away, and afterwards not.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            code = command(*args, **kwargs)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except asyncio.CancelledError:  # SIGTERM, where a command has something to put away
            code = TERMINATED
        except HerenowError as error:
            complain(str(error))
            code = COULD_NOT_LOOK
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except OSError as error:  # a full disk behind stdout, no more files: the system's word, and no fault of ours
            of = f" ({error.filename})" if error.filename else ""
            complain(f"the system refuses: {(error.strerror or str(error)).lower()}{of}")
            code = COULD_NOT_LOOK
        except Exception as error:  # the last boundary: a terminal gets a sentence
            complain(f"failed unexpectedly: {describe(error)}. This is a fault of herenow; please report it.")
            code = COULD_NOT_LOOK
        finally:
            signal.signal(signal.SIGINT, before)
        if not written_out() and code == GOOD:
            code = COULD_NOT_LOOK
        raise typer.Exit(code)

    return run


def describe(error: BaseException) -> str:
    """Say in one line what was raised, and where."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = "" if at is None else f" ({at.tb_frame.f_globals.get('__name__')}, line {at.tb_lineno})"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'without a word'}{where}"


def parse_duration_ms(text: str) -> int:
    """Read a duration such as ``300``, ``300s``, ``5m`` or ``1h``; a bare number is seconds.

    Raises:
        typer.BadParameter: it is none, or not above 0, or longer than ten years.
    """
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?) ?(ms|s|m|h|d|)", text.strip().lower(), re.ASCII)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration: write 300, 300s, 5m or 1h")
    time_ms = round(float(found[1]) * _UNITS_MS[found[2]])
    if not 0 < time_ms <= _LONGEST_MS:
        raise typer.BadParameter(f"{text!r} is not between 1 ms and 10 years: write 300, 300s, 5m or 1h")
    return time_ms
