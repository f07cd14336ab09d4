"""What all users are together: who is held, and what follows from each decision.

The rules decide for one user and remember nothing; a *commit* enters what they decided. It gives out the versions,
counts, keeps who is online in the order of activity, and knows what falls due when. Its law:

Versions. `max(last + 1, the wall clock in µs)`, one sequence for all users, beginning above whatever the store holds.
Clocks. The wall clock is as ``wall.py`` takes it. Versions go on from the highest, whatever it does.
Memory. Whoever is gone (neither present nor claiming anything) is not held.

Pure, and whole: nothing is half entered, and what its methods return is immutable.
"""

from collections.abc import Iterator
from itertools import islice

from herenow.model import Availability, Cause, Change, Claim, Connection, StoredUser, UserPresence
from herenow.registry.changelog import ChangeLog
from herenow.registry.commands import Command, Effects, Now
from herenow.registry.dues import Dues
from herenow.registry.recency import Entry, Recency, place_of
from herenow.registry.rules import Decision, Policy, decide
from herenow.registry.state import HeldUser, Shown, presence
from herenow.registry.wall import Wall


class Ledger:
    """The users, and the one way to alter them: :meth:`apply`.

    Args:
        policy: how long things last.
        last_version: the highest version that the store has ever held; all that come are above it.
        log_capacity: changes kept, at least 1; some 250 bytes each.
    """

    def __init__(self, policy: Policy, *, last_version: int = 0, log_capacity: int = 65_536) -> None:
        self.log = ChangeLog(log_capacity, last_version)
        self.lingers_saved = 0
        self.connections = 0
        """How many connections there are."""
        self._policy = policy
        self._version = last_version
        self._wall = Wall(last_version)
        self._users: dict[str, HeldUser] = {}
        self._views: dict[str, UserPresence] = {}  # of those held whom others were told of
        self._dues = Dues()
        self._recency = Recency()
        self._counts = dict.fromkeys(Availability, 0)

    def apply(self, command: Command, now: Now) -> Effects:
        """Decide a command and commit it, which in one process is one step: there is no race that could be lost.

        Args:
            command: what is done.
            now: when, as :meth:`believe` gives it.
        """
        user_id = command.user_id
        user = self._users.get(user_id)
        if user is None:
            user = HeldUser(user_id)
        return self._commit(user, decide(user, command, now, self._policy))

    def _commit(self, user: HeldUser, decision: Decision) -> Effects:
        user_id = user.user_id
        if decision.above > self._version:
            self._version = decision.above
        view = self._views.get(user_id)
        changes: tuple[Change, ...] = ()
        version = decision.above  # without a change, the look is the one that the store has
        for shift in decision.changes:
            version = self._next_version()
            change = _change(user_id, shift.shown, version, shift.cause)
            self.log.append(change)
            changes += (change,)
        row = None
        if decision.row:
            row = user.row(version if changes else self._next_version())
        shown, claim, due_ms = user.shown, user.claim, None
        if user.is_gone():
            self._users.pop(user_id, None)
            shown = None
        else:
            self._users[user_id] = user
            due_ms = user.due_ms()
        if shown is None:
            self._show(user_id, view, None)
        elif changes or view is None:
            self._show(user_id, view, presence(user_id, shown, version))
        self._dues.steady.set(user_id, due_ms)
        if claim is not None or decision.row:  # else there was none before either
            self._dues.wall.set(user_id, None if claim is None else claim.until_ms)
        self.connections += decision.connections
        self.lingers_saved += decision.saved_linger
        return Effects(changes, row, decision.evicted)

    def _show(self, user_id: str, before: UserPresence | None, after: UserPresence | None) -> None:
        """Make this what others see, in the counts and in the order of activity too."""
        if before is not None:
            self._counts[before.availability] -= 1
            if before.is_online:
                self._recency.remove(place_of(before))
        if after is None:
            self._views.pop(user_id, None)
            return
        self._views[user_id] = after
        self._counts[after.availability] += 1
        if after.is_online:
            self._recency.add(place_of(after))

    # -- time --------------------------------------------------------------------------------------------------------

    def believe(self, now: Now) -> Now:
        """Return the time as all here takes it."""
        return self._wall.believe(now)

    def stamp(self) -> int:
        """Give out a version that no change has: above all before it, below all after it."""
        return self._next_version()

    def due(self, now: Now, limit: int) -> list[str]:
        """Return up to ``limit`` users of whom something is due: an `Advance` each, or :meth:`put_off`.

        They are given once: what is due of them is found again only after the one or the other.
        """
        return self._dues.pop(now, limit)

    def put_off(self, user_id: str, steady_ms: int) -> None:
        """Give a user whose `Advance` failed another one at this time on the steady clock."""
        self._dues.steady.set(user_id, steady_ms)

    def wait_ms(self, now: Now) -> int | None:
        """Return in how many milliseconds something falls due, if the clocks run evenly; ``None``: nothing will."""
        return self._dues.wait_ms(now)

    def _next_version(self) -> int:
        # From the same clock as all stamps: so no `lastActive` is later than the version that tells of it, and a new
        # process, which begins above the highest stored version, begins above every stored `lastActive` too.
        self._version = max(self._version + 1, self._wall.latest_us)
        return self._version

    # -- what it can be asked ----------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The latest version given out."""
        return self._version

    @property
    def held(self) -> int:
        """How many users are held: those who are present, and those who claim something."""
        return len(self._users)

    def holds(self, user_id: str) -> bool:
        """Tell whether the user is held."""
        return user_id in self._users

    def user_ids(self) -> tuple[str, ...]:
        """Return the ids of all who are held."""
        return tuple(self._users)

    def count(self, availability: Availability) -> int:
        """Return how many users others see so, in O(1). For ``OFFLINE``: of those held."""
        return self._counts[availability]

    def view(self, user_id: str) -> UserPresence | None:
        """Return the user as others see them: the latest change. ``None``: not known here, ask the store."""
        return self._views.get(user_id)

    def own_view(self, user_id: str) -> UserPresence | None:
        """Return the user as their own connections see them; ``None`` for one who is not held.

        Invisibility does not hide here, and ``last_active_ms`` is exact. The version is that of :meth:`view`.
        """
        user = self._users.get(user_id)
        if user is None:
            return None
        return presence(user_id, Shown(user.look(to_others=False), user.last_active_ms), self._version_of(user_id))

    def row_of(self, user_id: str) -> StoredUser | None:
        """Return what the store is to say of the user, with the version of :meth:`view`; ``None``: not held."""
        user = self._users.get(user_id)
        return None if user is None else user.row(self._version_of(user_id))

    def _version_of(self, user_id: str) -> int:
        view = self._views.get(user_id)
        return 0 if view is None else view.version

    def claim_of(self, user_id: str) -> Claim | None:
        """Return what the user asked to be."""
        user = self._users.get(user_id)
        return None if user is None else user.claim

    def linger_of(self, user_id: str) -> tuple[int, Cause] | None:
        """Return when (steady clock, ms) the user's linger ends, and how it began; ``None``: they do not linger."""
        user = self._users.get(user_id)
        return None if user is None or user.linger is None else (user.linger.due_ms, user.linger.cause)

    def connections_of(self, user_id: str) -> tuple[Connection, ...]:
        """Return the user's connections, oldest first."""
        user = self._users.get(user_id)
        return () if user is None else user.describe_connections()

    def connections_on(self, node: str) -> Iterator[tuple[str, str]]:
        """Go through all connections that a node serves: the user, and the connection's id."""
        for user in self._users.values():
            for connection in user.connections.values():
                if connection.node == node:
                    yield user.user_id, connection.connection_id

    def online(self, limit: int, before: Entry | None = None) -> list[UserPresence]:
        """Return who is online, most recently active first: ``limit`` users, after the place that ``before`` marks."""
        return [self._views[user_id] for _, user_id in islice(self._recency.newest_first(before), limit)]


def _change(user_id: str, shown: Shown, version: int, cause: Cause) -> Change:
    availability, text, until_ms = shown.look
    is_online = availability is not Availability.OFFLINE
    return Change(user_id, is_online, availability, shown.last_active_ms, text, until_ms, version, cause)
