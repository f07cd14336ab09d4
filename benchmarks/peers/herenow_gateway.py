"""herenow itself, made for measuring its fan-out: a change through registry and outbox to all who watch.

As ``herenow_presence``, but changes may follow each other closely: no flush window but that under load, and no limit
that the load would reach. The event ``bench:meters`` swaps the metering and the limits of this process for nothing and
back, so that both can be measured in turn, seconds apart, on the same connections. herenow has no such switch.
"""

import socket
import sys
from collections.abc import Callable

from benchmarks import wire
from benchmarks.peers.herenow_presence import run
from herenow.cli import server
from herenow.gateway.handlers import Gateway
from herenow.socketio_server import Socket


class NoMeter:
    """A counter or a distribution that keeps nothing."""

    def labels(self, *values: str) -> "NoMeter":
        """Ignore them."""
        return self

    def inc(self, amount: float = 1) -> None:
        """Ignore it."""

    observe = inc


def meter_nothing(gateway: Gateway) -> Callable[[], None]:
    """Swap what meters and limits the fan-out for nothing; return what swaps it back."""
    presence, outbox = gateway.presence, gateway._audiences[None].outbox
    kept = [
        (presence.meters, name, meter)
        for name, meter in vars(presence.meters).items()
        if hasattr(meter, "inc") or hasattr(meter, "observe")
    ]
    for owner, name, _ in kept:
        setattr(owner, name, NoMeter())
    by_cause = presence.meters.changes_by
    # What is measured is the way of a change without them: there is no setting for that, and no user wants one.
    presence.meters.changes_by = dict.fromkeys(by_cause, NoMeter())  # type: ignore[arg-type]
    told, outbox._told = outbox._told, lambda changes: None
    gateway._throttle._charge = lambda client, cost: None  # type: ignore[method-assign]

    def undo() -> None:
        for owner, name, meter in kept:
            setattr(owner, name, meter)
        presence.meters.changes_by = by_cause
        outbox._told = told
        del gateway._throttle._charge

    return undo


class GatewayServer(server._Server):
    """Says ``ready``, and takes ``bench:meters``."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then announce."""
        await super().startup(sockets)
        gateway = self._process._mounted.gateway
        undo: list[Callable[[], None]] = []

        async def meters(socket: Socket, on: bool) -> None:
            while on and undo:
                undo.pop()()
            if not on and not undo:
                undo.append(meter_nothing(gateway))

        gateway._namespace.on("bench:meters")(meters)
        wire.announce_ready()


if __name__ == "__main__":
    sys.exit(run(GatewayServer, flush_interval_s=0.001, max_events_per_s=100_000.0, max_events_per_s_of_user=100_000.0))
