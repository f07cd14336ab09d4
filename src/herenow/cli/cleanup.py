"""``herenow cleanup``: everyone offline, but for those who are really there."""

import asyncio
from typing import Annotated

import typer

from herenow.cli.options import Database, DryRun, Json, run_quietly
from herenow.cli.output import GOOD, out, patience, plural, print_json
from herenow.http.models import Cleaned
from herenow.settings import Settings


@run_quietly
def cleanup(
    database: Database = None,
    disconnect: Annotated[bool, typer.Option("--disconnect", help="Close live connections too.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> int:
    """Set everyone offline.

    With a live server, whoever has a connection is left alone, unless --disconnect closes it.
    """
    from herenow.cli import alone  # these bring the database's driver, which --help does not need
    from herenow.cli.target import ask

    settings = Settings.load(database=database)
    with patience("Cleaning up") as progress:
        done, has_server = ask(
            settings,
            lambda server: server.post("/v1/admin/cleanup", {"disconnect": disconnect, "dryRun": dry_run}, Cleaned),
            lambda: asyncio.run(alone.reset(settings, older_than_ms=None, dry_run=dry_run, on_progress=progress)),
        )
    if json:
        print_json(done)
    else:
        tell(done, has_server=has_server, nobody="nobody to set offline")
    return GOOD


def tell(done: Cleaned, *, has_server: bool, nobody: str) -> None:
    """Say what a clean-up did, or would do."""
    would = "would be " if done.dry_run else ""
    sentence = f"{plural(done.offline, 'user')} {would}set offline" if done.offline else nobody
    if done.closed:
        sentence += f", {plural(done.closed, 'connection')} {would}closed"
    out.print(sentence + ("" if has_server else " [dim](no server is running)[/]"), soft_wrap=True)
    if done.protected_users:
        left = "would be left" if done.dry_run else "left"
        out.print(f"{plural(done.protected_users, 'user')} {left} alone: connected", soft_wrap=True)
