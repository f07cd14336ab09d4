"""``herenow stale``: offline for those who have been silent for long and are not here."""

import asyncio
from typing import Annotated

import typer

from herenow.cli.cleanup import tell
from herenow.cli.options import Database, DryRun, Json, parse_duration_ms, run_quietly
from herenow.cli.output import FOUND, GOOD, duration, patience, print_json
from herenow.http.models import Cleaned
from herenow.settings import Settings


@run_quietly
def stale(
    database: Database = None,
    older_than: Annotated[
        int | None,
        typer.Option(
            parser=parse_duration_ms,
            metavar="TIME",
            help="Silent for longer than 300, 300s, 5m or 1h.",
            show_default="5m",
        ),
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> int:
    """Set users offline who were silent for long and have no live connection.

    Exit code 1: there were some. A server leaves none, so something is wrong.
    """
    from herenow.cli import alone  # these bring the database's driver, which --help does not need
    from herenow.cli.target import ask

    settings = Settings.load(database=database)
    older_than_ms = round(settings.stale_after_s * 1000) if older_than is None else older_than
    with patience("Looking for stale users") as progress:
        order = {"olderThanMs": older_than_ms, "dryRun": dry_run}
        done, has_server = ask(
            settings,
            lambda server: server.post("/v1/admin/stale", order, Cleaned),
            lambda: asyncio.run(
                alone.reset(settings, older_than_ms=older_than_ms, dry_run=dry_run, on_progress=progress)
            ),
        )
    if json:
        print_json(done)
    else:
        nobody = f"nobody is online who was silent for {duration(older_than_ms)} and is not here"
        tell(done, has_server=has_server, nobody=nobody)
    return FOUND if done.offline else GOOD
