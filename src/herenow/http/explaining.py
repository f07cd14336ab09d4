"""Why a user is shown as they are: the facts go in, the verdict in words comes out. No clock and no I/O.

The rule that decides is the first that applies:

1. *invisible*: the user asked not to be seen, and looks offline to all others;
2. *connected*: with a connection, the user is online, away if every device is idle, or what they asked to be;
3. *lingering*: the last connection closed uncleanly, or the server was started again; the grace is running;
4. *gone*: no connection and no grace: offline. If the store says online all the same, that is a ghost.
"""

from collections.abc import Mapping

import msgspec

from herenow.http.models import Explained, ExplainedConnection, NextMoment, PastChange, StoredRow, of_tenant
from herenow.model import Availability, Cause, Change, Claim, Claimed, Connection, StoredUser
from herenow.registry.base import Explanation
from herenow.settings import Settings
from herenow.store.nodes import Node
from herenow.tenancy import shown
from herenow.times import to_iso

SHOWN_CHANGES = 10
"""The latest changes of a user that an explanation names."""


class Facts(msgspec.Struct, frozen=True):
    """What is known of a user.

    Attributes:
        user_id: of whom.
        now_ms: when.
        live: what the registry says; ``None`` if it knows nothing of the user.
        heard_ms: when each connection last answered a heartbeat, by connection id.
        stored: the store's row; ``None`` if it does not have the user.
        is_pending: a newer row is on its way to the store.
        settings: the live ones.
        changes: the user's latest ones, the latest first.
        tenant: whose user it is.
        node: this node of a cluster: only of its own connections it knows when they were heard of; ``None``: alone.
    """

    user_id: str
    now_ms: int
    live: Explanation | None
    heard_ms: Mapping[str, int]
    stored: StoredUser | None
    is_pending: bool
    settings: Settings
    changes: tuple[Change, ...] = ()
    tenant: str | None = None
    node: str | None = None


def explain(facts: Facts) -> Explained:
    """Explain a user as a live server shows them."""
    live, stored = facts.live, facts.stored
    view = None if live is None else live.view
    is_online = view is not None and view.is_online
    availability = Availability.OFFLINE if view is None else view.availability
    agrees = is_online == (stored is not None and stored.is_online)
    connections = [_connection(facts, each) for each in live.connections] if live else []
    explained = Explained(
        user_id=facts.user_id,
        time=to_iso(facts.now_ms),
        source="server",
        availability=availability,
        is_online=is_online,
        verdict=f"{_name(facts.user_id, facts.tenant)} is shown {availability}: {_because(facts)}.",
        rule=_rule(facts),
        connections=connections,
        stored=None if stored is None else _row(stored, agrees=agrees, pending=facts.is_pending),
        agreement=_agreement(facts, is_online=is_online),
        agrees=agrees or facts.is_pending,
        next=_next(facts, connections),
        changes=[
            PastChange(at=to_iso(each.version // 1000), availability=each.availability, cause=each.cause)
            for each in facts.changes
        ],
    )
    return of_tenant(explained, facts.tenant)


def explain_without_server(
    user_id: str,
    *,
    now_ms: int,
    stored: StoredUser | None,
    last: Node | None,
    settings: Settings,
    tenant: str | None = None,
) -> Explained:
    """Explain a user when no server lives: nobody can be online, whatever the store says.

    Args:
        user_id: of whom.
        now_ms: when.
        stored: the store's row.
        last: the server that died last, if the store knows of one.
        settings: what the next server would be started with.
        tenant: whose user it is.
    """
    name = _name(user_id, tenant)
    is_ghost = stored is not None and stored.is_online
    if stored is None:
        verdict, rule = f"{name} is not in the store: never seen.", "Nobody of this id has ever been here."
    elif is_ghost:
        since = "" if last is None else f", whose last beat was at {to_iso(last.beat_ms)}"
        verdict = f"{name} is a ghost: the store says {stored.availability}, and no server is running."
        rule = (
            f"A connection lives in a server. The last one ended without a goodbye{since}. "
            f"The next start waits {settings.restart_grace_s:g} s for the user to come back, then says offline; "
            "`herenow cleanup` says it now."
        )
    else:
        verdict = f"{name} is offline, and no server is running."
        rule = "A connection lives in a server, and none runs; the store says offline, which is true."
    explained = Explained(
        user_id=user_id,
        time=to_iso(now_ms),
        source="store",
        availability=Availability.OFFLINE,
        is_online=False,
        verdict=verdict,
        rule=rule,
        connections=[],
        stored=None if stored is None else _row(stored, agrees=not is_ghost, pending=False),
        agreement=(
            "it does not have this user" if stored is None else "that is wrong" if is_ghost else "that is right"
        ),
        agrees=not is_ghost,
        next=None,
    )
    return of_tenant(explained, tenant)


# -- the verdict -----------------------------------------------------------------------------------------------------


def _name(user_id: str, tenant: str | None) -> str:
    return user_id if tenant is None else shown(tenant, user_id)


def _because(facts: Facts) -> str:
    """The verdict's second half."""
    live = facts.live
    if live is None:
        return "no connection" if facts.stored is not None else "never seen here"
    count = _count(len(live.connections), "connection")
    if _asked(live.claim) is Claimed.INVISIBLE and live.own_view.is_online:
        return f"asked to be invisible ({count})"
    if live.connections:
        return f"{count}, all idle" if all(each.is_idle for each in live.connections) else count
    if live.lingers_ms is not None:
        return f"no connection, but {live.lingers_ms / 1000:.1f} s of grace are left"
    return "no connection"


def _rule(facts: Facts) -> str:
    live, settings = facts.live, facts.settings
    if live is None or (not live.connections and live.lingers_ms is None):
        return "Who has no connection, and no grace running, is offline."
    asked = _asked(live.claim)
    if asked is Claimed.INVISIBLE:
        return f"An invisible user looks offline to everyone else{_until(live.claim)}; their own devices see the truth."
    if not live.connections:
        return _linger_rule(live.linger_cause, settings)
    if asked is not None:
        return f"The user asked to be {asked}{_until(live.claim)}; that beats idleness, and lasts over reconnects."
    if live.lingers_ms is not None:
        return "The device in use dropped and has its grace to come back; the others are idle, so away comes next."
    if all(each.is_idle for each in live.connections):
        return "Away: every device is idle. One sign of use makes the user online again."
    return "One connection is enough: online until the last one ends."


def _linger_rule(cause: Cause | None, settings: Settings) -> str:
    if cause is Cause.RESTART:
        return (
            f"Online when the last server died. Users have {settings.restart_grace_s:g} s from the start to come back "
            "without anyone noticing."
        )
    return (
        f"The last connection ended without a goodbye ({cause}). A reload looks the same, so the user stays online for "
        f"{settings.grace_s:g} s."
    )


def _asked(claim: Claim | None) -> Claimed | None:
    return None if claim is None else claim.availability


def _until(claim: Claim | None) -> str:
    return "" if claim is None or claim.until_ms is None else f" until {to_iso(claim.until_ms)}"


# -- the facts beside it ---------------------------------------------------------------------------------------------


def _connection(facts: Facts, connection: Connection) -> ExplainedConnection:
    heard_ms = facts.heard_ms.get(connection.connection_id)
    is_ours = facts.node in (None, connection.node)
    settings = facts.settings
    wait_ms = round((settings.ping_interval_s + settings.ping_timeout_s) * 1000)
    return ExplainedConnection(
        connection_id=connection.connection_id,
        transport=connection.transport,
        address=connection.address,
        node=connection.node,
        opened=to_iso(connection.opened_ms),
        age_ms=max(0, facts.now_ms - connection.opened_ms),
        last_activity=to_iso(connection.last_activity_ms),
        is_idle=connection.is_idle,
        last_heard=None if heard_ms is None else to_iso(heard_ms),
        deadline=to_iso((heard_ms or connection.opened_ms) + wait_ms) if is_ours else None,
    )


def _row(stored: StoredUser, *, agrees: bool, pending: bool) -> StoredRow:
    claim, asked = stored.claim, _asked(stored.claim)
    return StoredRow(
        is_online=stored.is_online,
        availability=stored.availability,
        last_active=None if stored.last_active_ms is None else to_iso(stored.last_active_ms),
        claim=None if asked is None else asked.value,
        claim_text=None if claim is None else claim.text,
        claim_until=None if claim is None or claim.until_ms is None else to_iso(claim.until_ms),
        agrees=agrees,
        pending=pending,
    )


def _agreement(facts: Facts, *, is_online: bool) -> str:
    stored = facts.stored
    says_online = stored is not None and stored.is_online
    if says_online == is_online:
        return "it agrees" if stored is not None else "it does not have this user"
    if facts.is_pending:
        return "it does not know yet: the row is on its way"
    if says_online:
        return f"it says online: a ghost, repaired within {facts.settings.audit_every_s * 2:g} s"
    if stored is None:
        return "it does not have this user"
    return f"it says offline: missing, repaired within {facts.settings.audit_every_s * 2:g} s"


def _next(facts: Facts, connections: list[ExplainedConnection]) -> NextMoment | None:
    """The first moment at which the answer changes by itself, if nothing else happens."""
    live = facts.live
    if live is None:
        return None
    moments: list[tuple[int, str]] = []
    if live.lingers_ms is not None:
        end = facts.now_ms + live.lingers_ms
        then = "away, unless the device comes back" if live.connections else "offline, unless the user comes back"
        moments.append((end, f"the grace ends: {then}"))
    if live.claim is not None and live.claim.until_ms is not None:
        moments.append((live.claim.until_ms, "what the user asked to be expires"))
    if facts.settings.idle_after_s is not None and live.connections and any(not c.is_idle for c in live.connections):
        busy = [each.last_activity_ms for each in live.connections if not each.is_idle]
        moments.append((max(busy) + round(facts.settings.idle_after_s * 1000), "the last device counts as idle: away"))
    if moments:
        at, what = min(moments)
        return NextMoment(at=to_iso(at), what=what)
    deadlines = [each.deadline for each in connections if each.deadline]
    if len(deadlines) < len(connections) or not deadlines or _asked(live.claim) is Claimed.INVISIBLE:
        return None
    what = "without an answer to a heartbeat until then, the last connection is lost and the grace begins"
    return NextMoment(at=max(deadlines), what=what)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
