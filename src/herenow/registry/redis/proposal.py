"""What a node proposes for one user: the commands decided on what it read, as the script is to commit it.

It is the ledger's law, said of one user and without the versions, which only the commit can give out. Pure.
"""

from collections.abc import Sequence

import msgspec

from herenow.model import Availability, Evicted, StoredUser, UserPresence
from herenow.registry.commands import Adopt, Command, Connect, Now, SetClaim
from herenow.registry.redis.blob import Held, encode
from herenow.registry.redis.news import write_news
from herenow.registry.rules import Policy, Shift, decide
from herenow.registry.state import HeldUser, presence

COUNTS = ("online", "away", "busy", "connections", "held", "lingers_saved")
"""What is counted, in the order in which a proposal has it."""

_BRINGING = (Connect, SetClaim, Adopt)


class Proposal(msgspec.Struct, frozen=True):
    """One user's part of a commit.

    Attributes:
        user_id: whose it is.
        revision: what must still be there; empty: nothing.
        state: what is to be there, from the schema on; empty: nothing. ``None``: nothing is to be done.
        versions: how many it needs.
        shown_at: which of them is that of what others see, from 1; 0: it has ``version`` already.
        version: see there.
        above: a version that all of these must be above.
        due_ms: when something falls due, on the steady clock or the wall clock; ``None``: nothing will.
        place_ms: where the user stands among those online; ``None``: nowhere.
        counts: by how much each of ``COUNTS`` grows.
        joins: nodes that serve the user from now on.
        leaves: nodes that no longer do.
        news: what the log is to say of it; empty: nothing.
        evicted: the connections that were removed although they may still live.
        brings: whether it is about something new, which has to wait where the memory of Redis is full.
    """

    user_id: str
    revision: bytes
    state: bytes | None
    versions: int
    shown_at: int
    version: int
    above: int
    steady_due_ms: int | None
    wall_due_ms: int | None
    place_ms: int | None
    counts: tuple[int, ...]
    joins: tuple[str, ...]
    leaves: tuple[str, ...]
    news: bytes
    evicted: tuple[Evicted, ...]
    brings: bool


def propose(held: Held, commands: Sequence[Command], now: Now, policy: Policy) -> Proposal:
    """Decide commands of one user, one after the other.

    Args:
        held: the user as Redis has them; altered in place.
        commands: what is done.
        now: the time of all of it.
        policy: how long things last.
    """
    user, version, shown = held.user, held.version, held.user.shown
    nodes, counts = _nodes(user), _counted(user, held=bool(held.revision))
    steps: list[Shift] = []
    evicted: tuple[Evicted, ...] = ()
    row: StoredUser | None = None
    above = connections = saved = shown_at = 0
    is_row_last = False  # and needs a version that no step has
    for command in commands:
        decision = decide(user, command, now, policy)
        steps.extend(decision.changes)
        evicted += decision.evicted
        above = max(above, decision.above)
        connections += decision.connections
        saved += decision.saved_linger
        if decision.row:
            row, is_row_last = user.row(0), not decision.changes
        if user.is_gone():
            user = HeldUser(user.user_id)
        if user.shown is None:
            shown_at = version = 0
        elif decision.changes:
            shown_at = len(steps)
        elif not (version or shown_at):
            version = decision.above  # the look is the one that the store has
    state = b"" if user.is_gone() else encode(user)
    view: UserPresence | None = None
    if user.shown is not None and user.shown is not shown and not shown_at:
        view = presence(user.user_id, user.shown, version)
    has_news = bool(row or evicted or view)  # every step comes with a row
    versions = len(steps) + int(is_row_last)
    after = _counted(user, held=bool(state))
    deltas = [b - a for a, b in zip(counts, after, strict=True)]
    claim = user.claim
    return Proposal(
        user_id=user.user_id,
        revision=held.revision,
        state=None if state == held.state and not has_news else state,
        versions=versions,
        shown_at=shown_at,
        version=version,
        above=above,
        steady_due_ms=user.due_ms(),
        wall_due_ms=None if claim is None else claim.until_ms,
        place_ms=(user.shown.last_active_ms or 0) if user.is_shown_online() and user.shown is not None else None,
        counts=(*deltas[:3], connections, deltas[3], saved),
        joins=tuple(_nodes(user) - nodes),
        leaves=tuple(nodes - _nodes(user)),
        news=write_news(user.user_id, steps, versions, row, evicted, view) if has_news else b"",
        evicted=evicted,
        brings=any(isinstance(command, _BRINGING) for command in commands),
    )


def _nodes(user: HeldUser) -> frozenset[str]:
    return frozenset(connection.node for connection in user.connections.values())


def _counted(user: HeldUser, *, held: bool) -> list[int]:
    """How often a user counts: as online, away and busy, and as one who is held."""
    seen = None if user.shown is None else user.shown.look[0]
    return [seen is Availability.ONLINE, seen is Availability.AWAY, seen is Availability.BUSY, held]
