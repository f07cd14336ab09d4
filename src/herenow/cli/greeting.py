"""What a server says when it begins to serve: where it is, what it promises, and what to try first."""

import asyncio
from pathlib import Path

from herenow.cli.output import out
from herenow.errors import StoreError
from herenow.logs import get_logger
from herenow.presence import Presence
from herenow.settings import Settings
from herenow.store.address import without_secrets
from herenow.urls import is_loopback
from herenow.version import VERSION

DEFAULT = Settings.model_fields["database"].default

COUNT_S = 2
"""How long the greeting waits for the number of users."""

log = get_logger("herenow.serve")


async def greet(presence: Presence, address: str, page: Path | None) -> None:
    """Greet whoever looks.

    Args:
        presence: started.
        address: where it is reached.
        page: what is served at ``/``.
    """
    settings = presence.settings
    try:
        async with asyncio.timeout(COUNT_S):
            users = f"{(await presence.store.counts()).users:,} users"
    except (StoreError, TimeoutError) as error:  # it may go away at any moment: the server is there all the same
        users = "which cannot be read now"
        log.warning("the store cannot be read", error=str(error) or "timed out")
    out.print(f"[bold]herenow {VERSION}[/]  {address}" + _beyond(settings), soft_wrap=True)
    lines = {
        "store": f"{presence.store.name} ({users})",
        **_cluster(presence),
        "promises": f"a closed tab shows within {settings.offline_within_s:g} s, a silent network loss within "
        f"{settings.silent_loss_s:g} s,\nno ghost later than {settings.restart_grace_s:g} s after a crash and restart",
        "try it": _how_to_try(settings, address, page),
        "api": f"{address}/docs",
        "watch it": f"herenow watch{_which_database(settings)}, herenow status{_which_database(settings)}",
    }
    for name, text in lines.items():
        out.print(f"  [dim]{name:<9}[/] " + text.replace("\n", "\n" + " " * 12), markup=True, soft_wrap=True)
    if settings.dev:
        out.print("  [yellow]dev[/]       any userId is believed, from this machine only", soft_wrap=True)
    out.file.flush()


def _beyond(settings: Settings) -> str:
    return "" if is_loopback(settings.host) else f"  (listening on {settings.host}: reachable from other machines)"


def _cluster(presence: Presence) -> dict[str, str]:
    cluster = presence.cluster
    if cluster is None:
        return {}
    standing = cluster.here.standing
    others = 0 if standing is None else len(standing.beats) - 1
    beside = "alone so far" if others < 1 else f"beside {others} other{'s' if others > 1 else ''}"
    return {"cluster": f"{without_secrets(presence.settings.cluster_url)} (node {cluster.here.name}, {beside})"}


def _which_database(settings: Settings) -> str:
    return "" if settings.database == DEFAULT else f" --database {without_secrets(settings.database)}"


def _how_to_try(settings: Settings, address: str, page: Path | None) -> str:
    if page is not None:
        return f"open {address}/ in two tabs"
    auth = '{ userId: "alice" }' if settings.dev else "{ token }"
    return f'io("{address}", {{ auth: {auth} }})   with the stock socket.io-client'
