"""What the runner and the load process say to each other: one JSON line an order, one JSON line a reply."""

from typing import Literal

import msgspec

Do = Literal[
    "connect",
    "fanout",
    "close",
    "storm",
    "users",
    "meters",
    "changes",
    "claims",
    "expect",
    "arrivals",
    "join",
    "everybody",
]


class Order(msgspec.Struct, frozen=True):
    """One thing for the load to do, on the load's standard input.

    Of any server: ``connect``: open ``count`` more connections. ``fanout``: ask for ``count`` rounds and receive them
    all. ``close``: close every connection, users' included. ``storm``: let ``count`` users join at once.

    Of a presence server: ``users``: let ``count`` more users in, each with a token; where ``contacts`` are given,
    each watches so many of the first ``among`` users; ``rate`` a second, where it is given, else as fast as they
    can; with ``spread`` over all nodes in turn, else to the first. Where ``audiences`` are given, the first so many
    users watch the subject ``s`` of each size. ``meters``: turn metering and limits on (``count`` 1) or off, in the
    peer made for it. ``changes``: ``count`` changes of the subject whose audience is ``among``, each once the last
    has reached everybody. ``claims``: ``rate`` changes a second by the users themselves for ``seconds``.
    ``expect``: let the users who are in watch those of ``arrivals``, ``contacts`` each. ``arrivals``: ``rate``
    changes a second for ``seconds``, as expected, half of them users who connect, half users whose transport is
    closed; with ``spread`` in ``expect`` they come to the last node. ``join``: let ``user`` in, who is taken at
    their word. ``everybody``: let ``count`` more users in at once, who each watch all, and read all pages;
    ``among`` are online in the end.
    """

    do: Do
    count: int = 0
    contacts: int = 0
    among: int = 0
    audiences: tuple[int, ...] = ()
    rate: float = 0.0
    seconds: float = 0.0
    spread: bool = False
    user: str = ""


class Reply(msgspec.Struct, frozen=True):
    """What came of an order, on the load's standard output.

    ``wall_s`` runs from the first packet sent to the last one awaited, ``cpu_s`` is the load's own CPU time in it.
    ``frames`` and ``bytes`` are what a storm received, ``figures`` what else was measured.
    ``error`` says in a sentence what was missing or wrong; the figures then mean nothing.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    frames: int = 0
    bytes: int = 0
    figures: dict[str, float] = {}
    error: str | None = None
