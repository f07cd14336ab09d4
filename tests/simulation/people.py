"""Who is really there in a simulated world, known beside all nodes: users, and their sessions."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from simulation.loop import VirtualLoop

if TYPE_CHECKING:
    from simulation.nodes import Node


class How(StrEnum):
    """How a session ended, as the client or the world knows it."""

    LEFT = "left on purpose"
    CLOSED = "closed"
    LOST = "the node was killed"
    HANDED_ON = "the node was stopped"
    EVICTED = "sent away by an operator"


@dataclass(eq=False)
class User:
    """One user.

    Attributes:
        tenant: whose user it is.
        name: the id.
        may_hide: they may ask to be invisible: then nobody can say how they should look.
        sessions: all that they ever had.
        swept_s: when an operator sent them away last.
    """

    tenant: str | None
    name: str
    may_hide: bool = False
    sessions: "list[Session]" = field(default_factory=list)
    swept_s: float = -1000.0

    def __str__(self) -> str:
        return self.name if self.tenant is None else f"{self.tenant}/{self.name}"

    def living(self) -> "list[Session]":
        """The sessions that are open, from the moment that the client was let in."""
        return [session for session in self.sessions if session.is_open]

    def maybe(self) -> bool:
        """Whether somebody is just being let in, or was refused a moment ago: they may count already, or still."""
        return any(session.is_asked for session in self.sessions)


@dataclass(eq=False)
class Session:
    """One connection of a client to a node.

    Attributes:
        user: whose it is.
        node: which serves it.
        connection_id: as the node calls it.
        clock: tells the time of the world (s).
        is_asked: the client has asked to be let in, and has no answer yet.
        opened_s: when it was let in.
        ended_s: when it ended, and how.
    """

    user: User
    node: "Node"
    connection_id: str
    clock: VirtualLoop
    is_asked: bool = True
    opened_s: float | None = None
    ended_s: float | None = None
    how: How | None = None

    @property
    def is_open(self) -> bool:
        return self.opened_s is not None and self.ended_s is None

    def was_open(self, at_s: float) -> bool:
        """Whether it was open at a moment."""
        return self.opened_s is not None and self.opened_s <= at_s and (self.ended_s is None or self.ended_s > at_s)

    def had_ended(self, at_s: float) -> bool:
        """Whether the client had been in, and gone, at a moment."""
        return self.opened_s is not None and self.ended_s is not None and self.ended_s <= at_s

    def opened(self) -> None:
        """The client is in."""
        self.is_asked = False
        if self.ended_s is None:
            self.opened_s = self.clock.now_s

    def ended(self, how: How) -> None:
        """It is over."""
        self.is_asked = False
        if self.ended_s is None:
            self.ended_s, self.how = self.clock.now_s, how

    def handed_on(self) -> None:
        """The node stops."""
        self.ended(How.HANDED_ON)

    def dropped(self, *, is_evicted: bool) -> None:
        """The node sends it away."""
        self.ended(How.EVICTED if is_evicted else How.CLOSED)
