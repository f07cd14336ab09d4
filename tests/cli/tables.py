"""A program that prints the tables of all commands, at terminal widths that are given; ``test_tables.py`` runs it."""

import fcntl
import struct
import sys
import termios

from herenow.cli import explain, output, status
from herenow.cli import test as proof
from herenow.cli.verdicts import Result
from herenow.http.models import (
    Bounds,
    Drift,
    Explained,
    ExplainedConnection,
    Ghost,
    NextMoment,
    OnlineUser,
    PastChange,
    ServerStatus,
    Stats,
    Status,
    StoreCounts,
)
from herenow.model import Availability, Cause

NOW = "2026-11-28T14:00:00.000Z"
BEFORE = "2026-11-21T09:30:00.000Z"
USERS = ["6b08d8069f9a12f8fb70dbcd", "0f8fad5b-d9cd-469f-a165-70867728950e"]


def found(*, has_server: bool) -> Status:
    """The whole picture, of a server on a machine with a long name."""
    bounds = Bounds(offline_within_ms=2000, silent_loss_ms=17_000, restart_ms=15_000)
    stats = Stats(online=1, away=0, busy=1, connections=12_345, users=2, version=1, bounds=bounds)
    counts = StoreCounts(users=1_234_567, online=2, away=0, busy=1)
    return Status(
        database="mongodb://cluster0-shard-00-00.example.net:27017,cluster0-shard-00-01.example.net:27017/shop",
        time=NOW,
        servers=[
            ServerStatus(
                name="local",
                host="presence-7c9f6d5b4-x2x7k",
                pid=4_194_303,
                address="https://presence.shop.example:8443",
                started=BEFORE,
                last_beat=NOW,
                is_alive=has_server,
            )
        ],
        stored=counts,
        stats=stats if has_server else None,
        writer=None,
        online_total=2,
        online_first=[
            OnlineUser(
                user_id=user,
                availability=Availability.BUSY,
                since=BEFORE if has_server else None,
                connections=12_345,
                last_active=BEFORE,
                tenant="a-tenant",
            )
            for user in USERS
        ],
        bounds=bounds,
        drift=Drift(checked=2, ghosts=2, missing=0, examples=[Ghost(user_id=user, kind="ghost") for user in USERS]),
    )


def explained() -> Explained:
    """One user, with a connection over IPv6."""
    return Explained(
        user_id=USERS[1],
        time=NOW,
        source="server",
        availability=Availability.ONLINE,
        is_online=True,
        verdict=f"{USERS[1]} is shown online: 1 connection.",
        rule="One connection is enough: online until the last one ends.",
        agreement="it agrees",
        agrees=True,
        stored=None,
        connections=[
            ExplainedConnection(
                connection_id="ic3leyxxxxxxxxxxxxxx",
                node="presence-node-1",
                transport="websocket",
                address="2001:db8:85a3:8d3:1319:8a2e:370:7348",
                opened=BEFORE,
                age_ms=622_800_000,
                is_idle=False,
                last_activity=BEFORE,
                last_heard=BEFORE,
                deadline="2026-11-29T14:00:15.000Z",
            )
        ],
        next=NextMoment(at="2026-11-28T14:00:15.000Z", what="without an answer to a heartbeat until then, it is lost"),
        changes=[PastChange(at=BEFORE, availability=Availability.OFFLINE, cause=Cause.NODE_LOST)],
    )


def show() -> None:
    """Print all of them."""
    status.show(found(has_server=True))
    status.show(found(has_server=False))
    explain.show(explained())
    output.say("")
    proof.show(
        [
            Result("P1", "connect: watchers are told (p99)", "100 ms", "52 ms", 52.0, True),
            Result("P6", "page reloaded within the grace", "no change", "0 in 40 reloads", None, False),
        ],
        ["ping_interval_s 10 → 1", "ping_timeout_s 5 → 0.5", "restart_grace_s 15 → 9.5"],
        17.2,
    )


for columns in map(int, sys.argv[1:]):
    if columns:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    print(f"== {columns}")  # noqa: T201  # what the test tells the widths apart by
    sys.stdout.flush()
    show()
