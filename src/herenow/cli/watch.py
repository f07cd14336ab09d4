"""``herenow watch``: what changes, as it changes."""

import contextlib
import http.client
import json as json_module
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from herenow.cli.interrupt import leave
from herenow.cli.options import CouldNotLook, Database, Json, checked_tenant, run_quietly
from herenow.cli.output import err, escape, out, plural
from herenow.cli.target import LiveServer, Passing
from herenow.errors import HerenowError
from herenow.http.models import MOST_PER_CALL, Stats, Users
from herenow.settings import Settings
from herenow.times import to_iso

SILENT_S = 45.0
"""A stream that says nothing for so long, not even that it lives, is broken: three times what the server waits."""

RATE_OVER_S = 10.0
"""The rate is that of the last so many seconds."""

ASK_EVERY_S = 1.0
"""Between two questions for the counts."""

LOOK_AGAIN_S = 0.5
"""Between two looks for a server that went away."""

TELL_AFTER_S = 3.0
"""A wait that is longer than a restart is told the reason of."""

_COLOURS = {"online": "green", "away": "yellow", "busy": "magenta", "offline": "dim"}


@run_quietly
def watch(
    users: Annotated[list[str] | None, typer.Argument(metavar="[USER…]", help="Only these; by default all.")] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="NAME", help="Whose users; by default of no tenant.")
    ] = None,
    database: Database = None,
    json: Json = False,
) -> int:
    """Follow the changes live, with their causes and their rate. Ends with Ctrl-C.

    With --json one object a line. A restart of the server is lived through.
    """
    from herenow.cli.target import find_server  # it brings the database's driver, which --help does not need

    of_tenant = "" if checked_tenant(tenant) is None else f"?tenant={tenant}"
    settings = Settings.load(database=database)
    try:
        server = find_server(settings)
        if server is None:
            raise CouldNotLook("no server is running, so there is nothing to follow: start one with `herenow serve`")
    except Passing as error:
        server = _wait_for_another(settings, str(error))
    while True:
        with contextlib.suppress(Passing):
            _follow(server, _as_it_has_them(server, users or [], of_tenant), of_tenant, json=json)
        server = _wait_for_another(settings, f"{server.name} went")


def _as_it_has_them(server: LiveServer, users: list[str], of_tenant: str) -> set[str]:
    """The users under the ids that the server's changes name: it may have 7 for 007."""
    named: set[str] = set()
    for start in range(0, len(users), MOST_PER_CALL):
        question = {"users": users[start : start + MOST_PER_CALL]}
        found = server.post(f"/v1/users:batchGet{of_tenant}", question, Users)
        named |= {user.user_id for user in found.users}
    return named


def _wait_for_another(settings: Settings, why: str) -> LiveServer:
    from herenow.cli.target import find_server

    err.print(f"{escape(why)}: waiting for it", style="yellow")
    said, began_s = why, time.monotonic()
    # Nothing is to be put away here, and asyncio leaves a traceback if a Ctrl-C comes while it makes or ends a loop.
    before = signal.signal(signal.SIGINT, leave)
    try:
        while True:
            try:
                server = find_server(settings)
                if server is not None:
                    server.get("/v1/stats", Stats)
                    return server
            except HerenowError as error:  # it is starting, or its dead row still looks alive
                if str(error) != said and time.monotonic() - began_s > TELL_AFTER_S:
                    said = str(error)
                    err.print(f"{escape(said)}: still waiting", style="yellow")
            time.sleep(LOOK_AGAIN_S)
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(server: LiveServer, users: set[str], of_tenant: str, *, json: bool) -> None:
    """Print the changes of one server until it goes.

    Raises:
        Passing: it is already going, or not there yet.
        CouldNotLook: it refuses.
    """
    counts = _Counts(server, of_tenant)
    live = Live(get_renderable=counts.line, console=out, refresh_per_second=2, transient=True)
    is_watched = out.is_terminal and not json
    try:
        with live if is_watched else contextlib.nullcontext():
            if is_watched:
                counts.start()
            with contextlib.suppress(OSError, http.client.HTTPException):
                for change in _changes(server, of_tenant):
                    counts.add()
                    if not users or change["userId"] in users:
                        _print(change, json=json)
    finally:
        counts.stop()


def _changes(server: LiveServer, of_tenant: str) -> Iterator[dict[str, Any]]:
    with server.stream(f"/v1/changes{of_tenant}", silent_s=SILENT_S) as lines:
        for line in lines:
            name, _, value = line.decode().partition(": ")
            if name == "data":
                yield json_module.loads(value)


def _print(change: dict[str, Any], *, json: bool) -> None:
    if json:
        sys.stdout.write(json_module.dumps(change, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    colour = _COLOURS[change["availability"]]
    moment = to_iso(change["version"] // 1000)[11:23]  # a version is the moment of the change, in microseconds
    text = f"  [dim]“{escape(change['statusText'])}”[/]" if change.get("statusText") else ""
    out.print(
        f"[dim]{moment}[/]  [{colour}]● {change['availability']:<7}[/]  {escape(change['userId'])}  "
        f"[dim]{change['cause']}[/]{text}",
        soft_wrap=True,
    )
    out.file.flush()


class _Counts:
    """The last line on a terminal: who is online, and how fast that changes. A thread of its own asks the server."""

    def __init__(self, server: LiveServer, of_tenant: str) -> None:
        self._server = server
        self._of_tenant = of_tenant
        self._times: deque[float] = deque()
        self._stats: Stats | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to ask the server."""
        threading.Thread(target=self._ask, daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def add(self) -> None:
        """Count a change."""
        self._times.append(time.monotonic())

    def line(self) -> Text:
        """What to show now."""
        while self._times and time.monotonic() - self._times[0] > RATE_OVER_S:
            self._times.popleft()
        parts = [f"{len(self._times) / RATE_OVER_S:g} changes a second"]
        if self._stats is not None:
            parts = [f"{self._stats.users:,} online", plural(self._stats.connections, "connection"), *parts]
        return Text(" · ".join(parts), style="bold")

    def _ask(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(HerenowError):
                self._stats = self._server.get(f"/v1/stats{self._of_tenant}", Stats)
            self._stopped.wait(ASK_EVERY_S)
