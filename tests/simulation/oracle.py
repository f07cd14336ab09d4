"""What a simulated world must keep to: the promises P1 to P8 and C1 to C8, told by who is really there.

What each node is told is looked at at once; what each node shows, every half second; what is left, once all is calm.
"""

from collections.abc import Callable

from herenow.model import Cause, Change
from herenow.registry.base import Batch
from herenow.settings import DISPATCH_BUDGET_S, Settings
from herenow.tenancy import key_of, tenant_of
from simulation.nodes import TENANTS, Node
from simulation.people import How, Session, User
from simulation.troubles import Troubles

TRIM_S = 1.0
"""A clock that is set by less than this is taken to be trimmed: a grace may end so much earlier or later."""

SOON_S = 1.0
"""What the network and a busy moment may add to a bound."""

BACK_S = 6.0
"""Within which a node that nothing keeps from it has said again what it serves."""


class Oracle:
    """Watches a world.

    Args:
        users: who may be there, by tenant and name.
        troubles: what is wrong at the moment.
        settings: of the nodes.
        note: told what happens, for whoever reads the trace.

    Attributes:
        failures: what was not as it must be, a sentence each.
        changes: how many the nodes were told.
    """

    def __init__(
        self,
        users: dict[tuple[str | None, str], User],
        troubles: Troubles,
        settings: Settings,
        note: Callable[[str], None],
    ) -> None:
        self._note = note
        self.failures: list[str] = []
        self.changes = 0
        self._users = users
        self._troubles = troubles
        self._settings = settings
        self._told: dict[tuple[Node, str | None, str], int] = {}
        self._order: dict[tuple[Node, str | None], list[int]] = {}
        self._meaning: dict[tuple[str | None, int], tuple[object, ...]] = {}
        self._committed: dict[str, list[tuple[int, float]]] = {}
        self._restart_grace_s = settings.restart_grace_s - DISPATCH_BUDGET_S

    @property
    def _now_s(self) -> float:
        return self._troubles.now_s

    def fail(self, sentence: str) -> None:
        """Note that something is not as it must be."""
        self.failures.append(f"{self._now_s:.3f} s: {sentence}")
        self._note(f"!! {sentence}")

    # -- what is told --------------------------------------------------------------------------------------------------

    def heard(self, node: Node, tenant: str | None, batch: Batch) -> None:
        """A node was told a batch."""
        for change in batch.changes:
            self.changes += 1
            user = self._users[tenant, change.user_id]
            said = f"{node.name} is told that {user} is {change.availability} ({change.cause})"
            self._note(f"{said} v{change.version}")
            before = self._told.get((node, tenant, change.user_id), 0)
            has_lost = self._troubles.has_lost(self._now_s - 30.0)  # two masters may give versions out for a while
            if change.version == before or (change.version < before and not has_lost):
                self.fail(f"{said} with version {change.version}, after {before}: twice, or out of order")
            self._told[node, tenant, change.user_id] = change.version
            order = self._order.setdefault((node, tenant), [])
            if order and change.version <= order[-1] and not has_lost:
                self.fail(f"{said} with version {change.version}, after one of somebody's that is {order[-1]}")
            order.append(change.version)
            meaning = (change.user_id, change.availability, change.status_text, change.cause)
            if self._meaning.setdefault((tenant, change.version), meaning) != meaning:
                self.fail(f"{said} with version {change.version}, which another change has")
            if not change.is_online:
                self._see_that_they_may_be_offline(user, change, said)

    def committed(self, fields: dict[bytes, bytes]) -> None:
        """A log has a new entry: so its changes are of this moment, whenever they are told."""
        for name in fields:
            first, _, number = name.partition(b":")
            if number:
                self._committed.setdefault(fields[b"tenant"].decode(), []).append((int(first), self._now_s))

    def _committed_s(self, tenant: str | None, version: int) -> float:
        """When a version was given out."""
        said = self._committed[tenant or ""]
        return max((each for each in said if each[0] <= version), default=(0, 0.0))[1]

    def _see_that_they_may_be_offline(self, user: User, change: Change, said: str) -> None:
        if user.may_hide or change.cause in (Cause.CLEANUP, Cause.STALE):
            return
        at_s = self._committed_s(user.tenant, change.version)
        open_then = [session for session in user.sessions if session.was_open(at_s)]
        living = [session for session in open_then if not self._may_be_given_up(session, at_s)]
        if living:
            nodes = ", ".join(session.node.name for session in living)
            self.fail(f"{said}, committed at {at_s:.3f} s, who was connected to {nodes}")
        if open_then:
            return
        ended = [(session.ended_s, session) for session in user.sessions if session.had_ended(at_s)]
        while_s = 40.0 if self._troubles.is_disturbed(30.0) else 10.0  # until that somebody left was told
        if not ended or any(
            session.how in (How.LEFT, How.EVICTED) and at_s - (ended_s or 0) < while_s for ended_s, session in ended
        ):
            return
        ended_s, last = max(ended, key=lambda each: each[0] or 0)
        early_s = (ended_s or 0) + self._grace_s(last) - at_s
        slack_s = TRIM_S + 0.2 if self._troubles.was_trimmed() else 0.3
        if early_s > slack_s and not self._may_be_given_up(last, at_s):
            self.fail(f"{said}, who was {last.how} at {ended_s:.3f} s: {early_s:.2f} s before the grace ends")

    def _grace_s(self, session: Session) -> float:
        """How long somebody lingers whose session ended so."""
        if session.how in (How.LOST, How.HANDED_ON):
            return self._restart_grace_s
        return self._settings.grace_s if session.how is How.CLOSED else 0.0

    def _may_be_given_up(self, session: Session, at_s: float) -> bool:
        """Whether the grace of whoever is on a node may have ended, since it has been out of reach for long.

        Of a user who has come anew elsewhere meanwhile, nobody can tell that this is not the connection which was lost.
        """
        settings = self._settings
        given_up_s = settings.node_lease_s - 2 * settings.node_beat_s - 0.3
        if self._troubles.has_lost(at_s - 60.0):
            given_up_s = -0.3  # from the moment on at which others let it in for what was lost
        for least_s in (given_up_s + self._restart_grace_s, given_up_s):
            if self._troubles.was_out_of_reach(session.node, at_s, least_s, BACK_S):
                return True
            others = (each for each in session.user.sessions if each is not session)
            if not any(at_s - 30 < (each.opened_s or -1000) <= at_s for each in others):
                return False
        return False

    # -- what is shown -------------------------------------------------------------------------------------------------

    def look(self, nodes: list[Node]) -> None:
        """Hold what the nodes show against who is there."""
        for node in nodes:
            if node.is_serving and self._troubles.is_sound(node, BACK_S):
                for user in self._users.values():
                    if not user.may_hide:
                        self._look_at(node, user)

    def _look_at(self, node: Node, user: User) -> None:
        now_s = self._now_s
        seen = node.views[user.tenant].get(user.name)
        is_shown = seen is not None and seen.is_online
        if user.living():
            is_certain = now_s - user.swept_s > BACK_S and any(
                now_s - (session.opened_s or 0) > SOON_S and self._troubles.is_sound(session.node, BACK_S)
                for session in user.living()
            )
            if is_certain and not is_shown and not self._troubles.is_disturbed(BACK_S):
                self.fail(f"{node.name} does not show {user} online, who is connected")
        elif is_shown and not user.maybe() and (late_s := now_s - self._gone_by_s(user)) > 0:
            self.fail(f"{node.name} still shows {user} online, {late_s:.2f} s after the last bound: {_last(user)}")

    def _gone_by_s(self, user: User) -> float:
        """When somebody who is not there must be shown offline."""
        ends = [(session.ended_s or 0.0) + SOON_S + self._longest_grace_s(session) for session in user.sessions]
        gone_by_s = max(ends, default=0.0)
        last_s = max((session.ended_s or 0.0 for session in user.sessions), default=0.0)
        return max(gone_by_s, self._troubles.settled_s(last_s, self._ghost_s()))

    def _ghost_s(self) -> float:
        return self._settings.node_lease_s + self._settings.restart_grace_s + 3.0

    def _longest_grace_s(self, session: Session) -> float:
        match session.how:
            case How.LOST:
                return self._settings.node_lease_s + 1.0 + self._settings.restart_grace_s
            case How.HANDED_ON:
                return self._settings.restart_grace_s
            case _:
                return self._settings.offline_within_s

    # -- what is left once all is calm ---------------------------------------------------------------------------------

    def judge(self, nodes: list[Node], online_rows: set[str], held: dict[str | None, dict[str, set[str]]]) -> None:
        """Hold all against each other, once everything is over.

        Args:
            nodes: all that live.
            online_rows: whom the store shows online, by key.
            held: by tenant and user the connections in Redis.
        """
        for tenant in TENANTS:
            views = {node.name: {name for name, seen in node.views[tenant].items() if seen.is_online} for node in nodes}
            there = {user.name for user in self._users.values() if user.tenant == tenant and user.living()}
            hidden = {user.name for user in self._users.values() if user.tenant == tenant and user.may_hide}
            first = views[nodes[0].name]
            for name, view in views.items():
                if (view ^ there) - hidden:
                    self.fail(f"at the end {name} shows {sorted(view)} online, and there are {sorted(there)}")
                if view != first:
                    self.fail(f"at the end {name} shows {sorted(view)}, and {nodes[0].name} {sorted(first)}")
            looks = [_looks(node, tenant) for node in nodes]
            if any(look != looks[0] for look in looks):
                self.fail(f"at the end the nodes show somebody of {tenant} differently: {looks}")
            stored = {key for key in online_rows if tenant_of(key) == tenant}
            if stored != (shown := {key_of(tenant, name) for name in first}):
                self.fail(f"at the end the store shows {sorted(stored)} online, and the nodes {sorted(shown)}")
            self._see_that_all_is_registered(tenant, held[tenant])

    def _see_that_all_is_registered(self, tenant: str | None, held: dict[str, set[str]]) -> None:
        for user in self._users.values():
            if user.tenant == tenant:
                sessions = {session.connection_id for session in user.living()}
                if sessions != held.get(user.name, set()):
                    found = sorted(held.get(user.name, set()))
                    self.fail(f"at the end Redis has the connections {found} of {user}, who has {sorted(sessions)}")


def _looks(node: Node, tenant: str | None) -> dict[str, tuple[object, ...]]:
    # Not the version: whoever is let in again from the store has that of their row, which may be above the one of the
    # change that others were told, though nothing looks different.
    return {
        name: (seen.availability, seen.status_text, seen.last_active_ms)
        for name, seen in node.views[tenant].items()
        if seen.is_online
    }


def _last(user: User) -> str:
    if not user.sessions:
        return "never there"
    last = max(user.sessions, key=lambda session: session.ended_s or 0)
    return f"{last.how} at {last.ended_s:.3f} s on {last.node.name}"
