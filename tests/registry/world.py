"""A ledger, the clock that it is told, and what can be done to a crowd: to one user after the other."""

from collections.abc import Callable
from typing import NamedTuple

from herenow.model import Change, Evicted, StoredUser, UserPresence
from herenow.registry.commands import Advance, Command, Now
from herenow.registry.ledger import Ledger
from herenow.registry.rules import Policy
from registry.manual_clock import ManualClock

GRACE_MS = 2000


class Done(NamedTuple):
    """What some commands did, one after the other."""

    changes: list[Change]
    rows: list[StoredUser]
    evicted: list[Evicted]


class World:
    """A ledger, and the clock that it is told."""

    def __init__(self, *, idle_after_ms: int | None = None, last_version: int = 0) -> None:
        self.clock = ManualClock()
        self.rules = Ledger(Policy(GRACE_MS, idle_after_ms), last_version=last_version)

    def now(self) -> Now:
        """Return the time as the ledger takes it."""
        return self.rules.believe(self.clock.now())

    def do(self, *commands: Command) -> Done:
        """Apply commands at the present moment, and return what the last one did."""
        done = Done([], [], [])
        for command in commands:
            done = self.do_all(command)
        return done

    def do_all(self, *commands: Command) -> Done:
        """Apply commands at the present moment, and return what all of them did."""
        done = Done([], [], [])
        for command in commands:
            changes, row, evicted = self.rules.apply(command, self.now())
            done.changes.extend(changes)
            done.rows.extend([] if row is None else [row])
            done.evicted.extend(evicted)
        return done

    def do_to_all(self, command: Callable[[str], Command]) -> Done:
        """Do it to all who are held."""
        return self.do_all(*map(command, self.rules.user_ids()))

    def advance(self) -> Done:
        """Let whatever fell due take effect."""
        return self.do_all(*map(Advance, self.rules.due(self.now(), 1_000_000)))

    def wait(self, ms: int) -> list[Change]:
        """Let time go by and whatever fell due take effect."""
        self.clock.stall(ms)
        return self.advance().changes

    def view(self, user_id: str = "u") -> UserPresence:
        """Return how others see a user who is known here."""
        view = self.rules.view(user_id)
        assert view is not None
        return view

    def own_view(self, user_id: str = "u") -> UserPresence:
        """Return how a user who is held sees themselves."""
        view = self.rules.own_view(user_id)
        assert view is not None
        return view
