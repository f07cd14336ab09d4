"""What the Socket.IO server knows of one connection: the sockets it has in namespaces, and what waits for its turn."""

from collections import deque
from typing import Final

from .namespace import Socket
from .packets import Decoder, Packet

MAX_BACKLOG: Final = 64
"""Packets of one connection that may wait for its handlers; with more, nothing is read from it."""

MAX_BACKLOG_BYTES: Final = 65_536
"""And how much they may hold."""


class Peer:
    """What the server knows of a connection.

    Attributes:
        sockets: by namespace; ``former`` are the namespaces that it was in before.
        running: async handlers that run for it.
        backlog: packets that wait, each with its size; ``backlog_size`` is that of all.
        held: whether nothing is read because of the backlog.
        incoming: the size of the packet that is being received.
        refusals: how often it was not let into a namespace.
    """

    __slots__ = ("backlog", "backlog_size", "decoder", "former", "held", "incoming", "refusals", "running", "sockets")

    def __init__(self, max_packet: int) -> None:
        self.decoder = Decoder(max_packet)
        self.sockets: dict[str, Socket] = {}
        # Made when they are needed: an idle connection should cost little, and there are many.
        self.former: frozenset[str] = frozenset()
        self.running = 0
        self.backlog: deque[tuple[Packet, int]] | None = None
        self.backlog_size = 0
        self.held = False
        self.incoming = 0
        self.refusals = 0

    def is_full(self) -> bool:
        """Whether more waits than may."""
        return len(self.backlog or ()) > MAX_BACKLOG or self.backlog_size > MAX_BACKLOG_BYTES
