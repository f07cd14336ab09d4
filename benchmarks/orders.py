"""What the runner and the load process say to each other: one JSON line an order, one JSON line a reply."""

from typing import Literal

import msgspec


class Order(msgspec.Struct, frozen=True):
    """One thing for the load to do, on the load's standard input.

    ``connect``: open ``count`` more connections. ``fanout``: ask for ``count`` rounds and receive them all.
    ``close``: close every connection. ``storm``: let ``count`` users join at once.
    """

    do: Literal["connect", "fanout", "close", "storm"]
    count: int = 0


class Reply(msgspec.Struct, frozen=True):
    """What came of an order, on the load's standard output.

    ``wall_s`` runs from the first packet sent to the last one awaited, ``cpu_s`` is the load's own CPU time in it.
    ``frames`` and ``bytes`` are what a storm received.
    ``error`` says in a sentence what was missing or wrong; the figures then mean nothing.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    frames: int = 0
    bytes: int = 0
    error: str | None = None
