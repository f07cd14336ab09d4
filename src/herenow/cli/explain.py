"""``herenow explain``: why a user is shown as they are, to be understood in five seconds at 3 a.m."""

import asyncio
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer
from rich.table import Table

from herenow.cli.options import CouldNotLook, Database, Json, Tenant, checked_tenant, run_quietly
from herenow.cli.output import FOUND, GOOD, Rows, ago, clock, duration, escape, patience, print_json, say, until
from herenow.http.models import Explained
from herenow.settings import Settings
from herenow.wire import UserId

_COLOURS = {"online": "green", "away": "yellow", "busy": "magenta", "offline": "bold"}


@run_quietly
def explain(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    tenant: Tenant = None,
    database: Database = None,
    json: Json = False,
) -> int:
    """Say why a user is shown as they are.

    The verdict first, then the rule, the store's row beside it, the next moment
    that changes the answer, each connection, and the last ten changes.

    Exit code 1: the store disagrees.
    """
    from herenow.cli import alone  # these bring the database's driver, which --help does not need
    from herenow.cli.target import ask

    settings = Settings.load(database=database)
    try:
        msgspec.convert(user, UserId)
    except msgspec.ValidationError as error:
        raise CouldNotLook(
            f"{user[:40]!r} is no user id: one has 1 to 128 characters, and no control characters"
        ) from error
    checked_tenant(tenant)
    with patience("Looking"):
        of_tenant = "" if tenant is None else f"?tenant={tenant}"
        found, _ = ask(
            settings,
            lambda server: server.get(f"/v1/admin/users/{quote(user, safe='')}/explain{of_tenant}", Explained),
            lambda: asyncio.run(alone.explain(settings, user, tenant)),
        )
    if json:
        print_json(found)
    else:
        show(found)
    return GOOD if found.agrees else FOUND


def show(found: Explained) -> None:
    """Print an explanation for a person: the verdict first."""
    colour = _COLOURS[found.availability] if found.agrees else "red"
    say(f"[{colour}]●[/] [bold]{escape(found.verdict)}[/]")
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column()
    lines.add_row("  rule", escape(found.rule))
    lines.add_row("  store", _store(found))
    if found.next is not None:
        when = f"{clock(found.next.at, now=found.time)} UTC, {until(found.next.at, now=found.time)}"
        lines.add_row("  next", f"{when}: {escape(found.next.what)}")
    elif found.source == "server":
        does = "asks for it" if found.connections else "connects"
        lines.add_row("  next", f"nothing changes by itself until the user {does}")
    say(lines)
    if found.connections:
        say("")
        _connections(found).say()
    if found.changes:
        say("")
        _changes(found).say()


def _store(found: Explained) -> str:
    row = found.stored
    says = found.agreement if found.agrees else f"[red]{escape(found.agreement)}[/]"
    if row is None:
        return says
    facts = f"{row.availability}, last active {ago(row.last_active, now=found.time)}"
    if row.claim is not None:
        facts += f", asked to be {row.claim}"
    if row.claim_text is not None:
        facts += f", says “{escape(row.claim_text)}”"
    if row.claim_until is not None:
        facts += f" until {clock(row.claim_until, now=found.time)}"
    return f"{facts}: {says}"


def _connections(found: Explained) -> Rows:
    columns = ("connection", "on", "over", "from", "age", "used", "heard", "deadline")
    connections = Rows(*columns, spare=("on", "used", "from", "age", "over"))
    for each in found.connections:
        connections.add(
            escape(each.connection_id[:6]),
            escape(each.node),
            each.transport or "?",
            escape(each.address or "?"),
            duration(each.age_ms),
            "idle" if each.is_idle else ago(each.last_activity, now=found.time),
            "not yet" if each.last_heard is None else ago(each.last_heard, now=found.time),
            "its node knows" if each.deadline is None else clock(each.deadline, now=found.time),
        )
    return connections


def _changes(found: Explained) -> Rows:
    changes = Rows("change", "ago", "seen as", "because of", spare=("ago",))
    for each in found.changes:
        colour = _COLOURS[each.availability]
        when = clock(each.at, now=found.time)
        changes.add(when, ago(each.at, now=found.time), f"[{colour}]{each.availability}[/]", each.cause)
    return changes
