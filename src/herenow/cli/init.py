"""``herenow init``: adopts the application's users, or creates the schema."""

import asyncio
from typing import Annotated, Final

import msgspec
import typer

from herenow.cli.options import Database, DryRun, Json, run_quietly
from herenow.cli.output import GOOD, escape, out, patience, print_json
from herenow.settings import Settings
from herenow.store.base import InitReport, Progress

SERVED: Final = "a server is at work on it, and puts odd values right by itself: it knows who is online"


@run_quietly
def init(
    database: Database = None,
    dry_run: DryRun = False,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="MongoDB: let the collection's validator require the two fields."),
    ] = False,
    json: Json = False,
) -> int:
    """Prepare the database: adopt its users, or create them.

    Adds what presence needs: fields, their defaults, indexes. Idempotent.

    Other fields are never touched. `serve` does it too.
    """
    settings = Settings.load(database=database)
    with patience("Preparing") as progress:
        name, report = asyncio.run(_prepare(settings, dry_run=dry_run, schema=schema, on_progress=progress))
    if json:
        found, steps = list(report.found), list(report.steps)
        print_json({"database": name, "dryRun": dry_run, "found": found, "steps": steps})
        return GOOD
    for sentence in report.found:
        out.print(f"  [dim]·[/] {escape(sentence)}", soft_wrap=True)
    if not report.steps:
        out.print(f"{escape(name)} is ready: nothing to do", soft_wrap=True)
        return GOOD
    out.print(f"{escape(name)}: " + ("would" if dry_run else "done"), soft_wrap=True)
    for step in report.steps:
        out.print(f"  [green]{'·' if dry_run else '✓'}[/] {escape(step)}", soft_wrap=True)
    return GOOD


async def _prepare(settings: Settings, *, dry_run: bool, schema: bool, on_progress: Progress) -> tuple[str, InitReport]:
    from herenow.cli.target import opened
    from herenow.store.liveness import is_served

    async with opened(settings) as store:
        served = await is_served(store.roll)
        report = await store.init(dry_run=dry_run, schema=schema, values=not served, on_progress=on_progress)
        if served:
            report = msgspec.structs.replace(report, found=(*report.found, SERVED))
        return store.name, report
