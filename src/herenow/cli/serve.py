"""``herenow serve``: runs the server."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from herenow.cli.options import Database, run_quietly
from herenow.errors import SettingsInvalid
from herenow.settings import Settings
from herenow.urls import is_loopback

Level = Literal["debug", "info", "warning", "error"]


@run_quietly
def serve(
    database: Database = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="The port; 0 takes a free one.", show_default="8000")] = None,
    dev: Annotated[
        bool, typer.Option("--dev", help="Believe the userId that a client names; on loopback only.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            help="A directory of static files to serve at /.", exists=True, file_okay=False, resolve_path=True
        ),
    ] = None,
    log_level: Annotated[
        Level, typer.Option(envvar="HERENOW_LOG_LEVEL", help="Log from here on.", case_sensitive=False)
    ] = "info",
    workers: Annotated[
        int | None, typer.Option(help="Serve with so many processes, which need a HERENOW_CLUSTER.", min=1)
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say whether it would start, and end: settings, address, database.")
    ] = False,
) -> int:
    """Run the server.

    The log goes to stderr: for people on a terminal, otherwise as JSON.

    SIGTERM or Ctrl-C: clients are told, everyone is offline, and it ends in 5 s. SIGHUP: the same command begins anew
    in its place, with new code and settings, and who is back in time was never seen to go.
    """
    # Here, because only this command needs the web server: the others start in half the time without.
    from herenow.cli.checking import check_start
    from herenow.cli.server import run
    from herenow.cli.workers import Worker, run_workers

    worker = Worker.of_environment()
    settings = Settings.load(database=database, host=host, port=port, dev=dev or None)
    refuse_strangers(settings)
    if check:
        return check_start(settings)
    if workers is not None and worker is None:
        return run_workers(settings, workers, log_level=log_level)
    return run(settings, page=page, log_level=log_level, worker=worker)


def refuse_strangers(settings: Settings) -> None:
    """See that nobody can speak for anybody.

    Raises:
        SettingsInvalid: whoever reaches this server could, or nobody could speak at all.
    """
    knows = bool(settings.jwt_secret or settings.jwt_public_keys or settings.jwt_jwks_url)
    if is_loopback(settings.host):
        if not knows and not settings.dev:
            raise SettingsInvalid(
                "nothing says who a client is: set HERENOW_JWT_SECRET to the secret that signs your users' tokens (or "
                "jwt_public_keys, or jwt_jwks_url); for a first try on this machine, herenow serve --dev"
            )
        return
    if settings.dev:
        raise SettingsInvalid(
            f"--dev believes whoever names a user, so it listens on this machine only, not on {settings.host}: "
            "leave out --host, or set HERENOW_JWT_SECRET instead of --dev"
        )
    if not knows:
        raise SettingsInvalid(
            f"{settings.host} can be reached from other machines, and nothing says who a client is: "
            "set HERENOW_JWT_SECRET to the secret that signs your users' tokens (or jwt_public_keys, or jwt_jwks_url)"
        )
