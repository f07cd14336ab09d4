"""The program: its commands, and nothing else."""

from typing import Annotated

import typer

from herenow.cli.arguments import Command
from herenow.cli.cleanup import cleanup
from herenow.cli.explain import explain
from herenow.cli.init import init
from herenow.cli.output import program
from herenow.cli.restart import restart
from herenow.cli.serve import serve
from herenow.cli.stale import stale
from herenow.cli.status import status
from herenow.cli.test import test
from herenow.cli.token import token
from herenow.cli.watch import watch
from herenow.version import VERSION

app = typer.Typer(
    name="herenow",
    help="Who is online, right now.",
    epilog="Exit codes: 0 good, 1 something was found or failed, 2 it could not be looked at, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(value: bool) -> None:
    if value:
        typer.echo(f"herenow {VERSION}")
        raise typer.Exit


@app.callback()
def herenow(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say which herenow this is.")
    ] = False,
) -> None:
    """Who is online, right now."""


for command in (serve, restart, init, status, cleanup, stale, test, explain, watch, token):
    app.command(cls=Command)(command)


def main() -> None:
    """Run the command line."""
    app(prog_name=program())
