"""``herenow status``: who is online, who serves, what is promised, and whether the store agrees."""

import asyncio

from herenow.cli.options import Database, Json, run_quietly
from herenow.cli.output import FOUND, GOOD, Rows, ago, clock, duration, escape, patience, plural, print_json, say
from herenow.http.models import ServerStatus, Status
from herenow.settings import Settings
from herenow.tenancy import shown


@run_quietly
def status(database: Database = None, json: Json = False) -> int:
    """Show who is online, the servers, the promises and the drift.

    Users of all tenants; alice of the tenant acme is acme/alice.

    Exit code 1: the store disagrees with who is connected, or cannot be written.
    """
    from herenow.cli import alone  # these bring the database's driver, which --help does not need
    from herenow.cli.target import ask

    settings = Settings.load(database=database)
    with patience("Looking"):
        found, _ = ask(
            settings,
            lambda server: server.get("/v1/admin/status", Status),
            lambda: asyncio.run(alone.status(settings)),
        )
    if json:
        print_json(found)
    else:
        show(found)
    is_writing = found.writer is None or found.writer.healthy
    return GOOD if found.drift.is_none and is_writing else FOUND


def show(found: Status) -> None:
    """Print a status for a person."""
    _show_head(found)
    if found.online_first:
        _who(found).say()
        more = found.online_total - len(found.online_first)
        if more:
            all_of_them = ": GET /v1/online lists all" if found.stats is not None else ""
            say(f"[dim]and {plural(more, 'more user')}{all_of_them}[/]")
        say("")
    if found.servers:
        _servers(found).say()
        say("")
    for complaint in found.complaints:
        say(f"[yellow]{escape(complaint)}[/]; a server that lives writes it anew with its next beat\n")
    _promises(found).say()
    say("")
    _show_drift(found)


def _show_head(found: Status) -> None:
    stats, stored = found.stats, found.stored
    if stats is not None:
        of_them = ", ".join(f"{n:,} {what}" for n, what in ((stats.away, "away"), (stats.busy, "busy")) if n)
        online = f"[bold]{stats.users:,}[/] online" + (f" ({of_them})" if of_them else "")
        parts = [online, plural(stats.connections, "connection")]
    else:
        parts = ["[bold red]no server is running[/]", f"{stored.online:,} online in the store"]
    say(" · ".join([*parts, f"{plural(stored.users, 'user')} stored"]))
    say(f"[dim]{escape(found.database)}, at {clock(found.time, now='1970-01-01T00:00:00Z')} UTC[/]\n")


def _who(found: Status) -> Rows:
    if found.stats is None:
        who = Rows("online in the store", "shown as", "last active", spare=("shown as",))
        for user in found.online_first:
            last = ago(user.last_active, now=found.time)
            who.add(escape(shown(user.tenant, user.user_id)), user.availability, last)
        return who
    columns = ("online", "shown as", "since", "connections", "last active")
    who = Rows(*columns, right=("connections",), spare=("since", "last active", "connections"))
    for user in found.online_first:
        since = "lingers" if user.since is None else clock(user.since, now=found.time)
        last = ago(user.last_active, now=found.time)
        who.add(escape(shown(user.tenant, user.user_id)), user.availability, since, f"{user.connections:,}", last)
    return who


def _servers(found: Status) -> Rows:
    if any(server.cluster for server in found.servers):
        return _nodes(found)
    columns = ("server", "address", "process", "since", "last beat", "state")
    servers = Rows(*columns, spare=("since", "process", "address"))
    for server in found.servers:
        servers.add(
            escape(server.name),
            escape(server.address) if server.address else "in an application",
            f"{server.pid} on {escape(server.host)}",
            clock(server.started, now=found.time),
            ago(server.last_beat, now=found.time),
            _state(server),
        )
    return servers


def _nodes(found: Status) -> Rows:
    columns = ("node", "address", "process", "version", "since", "users", "last beat", "state")
    nodes = Rows(*columns, right=("users",), spare=("version", "since", "process", "address"))
    for server in found.servers:
        node = server.cluster
        nodes.add(
            escape(server.name),
            escape(server.address) if server.address else "in an application",
            f"{server.pid} on {escape(server.host)}",
            "" if node is None else escape(node.version),
            clock(server.started, now=found.time),
            "" if node is None else f"{node.users:,}",
            ago(server.last_beat, now=found.time),
            _state(server),
        )
    return nodes


def _state(server: ServerStatus) -> str:
    if not server.is_alive:
        return "[red]dead[/]"
    leads = server.cluster is not None and server.cluster.is_leader
    return "[green]lives[/], keeps the store" if leads else "[green]lives[/]"


def _promises(found: Status) -> Rows:
    bounds = found.bounds
    promises = Rows("promise", "bound", right=("bound",))
    for promise, bound in (
        ("a user connects: watchers are told, the store says so", "100 ms, 250 ms"),
        ("the last connection closes: shown offline", duration(bounds.offline_within_ms)),
        ("the client leaves on purpose: shown offline", "100 ms"),
        ("the network dies silently: shown offline", duration(bounds.silent_loss_ms)),
        ("after a crash and a restart: no ghost left", duration(bounds.restart_ms)),
    ):
        promises.add(promise, bound)
    return promises


def _show_drift(found: Status) -> None:
    drift, writer = found.drift, found.writer
    for trouble in found.troubles:
        say(f"[yellow]warning:[/] {escape(trouble)}")
    if writer is not None and not writer.healthy:
        waiting = f"{plural(writer.pending, 'row')} waiting for {duration(writer.lag_ms)}"
        say(f"[red]store is not writing:[/] {waiting}: {escape(writer.last_error or 'it does not answer')}")
    if drift.is_none:
        say("[green]no drift[/]: the store agrees with who is connected")
        return
    kinds = [plural(drift.ghosts, "ghost")] if drift.ghosts else []
    kinds += [f"{drift.missing:,} missing"] if drift.missing else []
    kinds += [f"{drift.wrong:,} wrong"] if drift.wrong else []
    names = ", ".join(escape(shown(each.tenant, each.user_id)) for each in drift.examples[:5])
    more = ", …" if drift.ghosts + drift.missing + drift.wrong > 5 else ""
    say(f"[red]drift: {' and '.join(kinds)}[/]" + (f" ({names}{more})" if names else ""))
    if found.stats is None:
        grace = duration(found.bounds.restart_ms)
        say(f"A start of the server mends it within {grace}; `herenow cleanup` mends it now.")
    else:
        say("The audit mends it within two rounds; `herenow cleanup` mends ghosts now.")
