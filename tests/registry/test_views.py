"""What is kept of how users are shown, while reads and the log come late: a snapshot and what follows is the truth."""

import random

import pytest

from herenow.model import Availability, UserPresence
from herenow.registry.recency import Entry, place_of
from herenow.registry.redis.views import BEHIND_ALL, Views

USERS = tuple("abcdefghijkl")


class Redis:
    """What is there, and the log of it, of which some has not been heard yet."""

    def __init__(self) -> None:
        self.shown: dict[str, UserPresence] = {}
        self.unheard: list[UserPresence] = []
        self.version = 0

    def change(self, dice: random.Random) -> None:
        """Change one user."""
        self.version += 1
        user, is_online = dice.choice(USERS), dice.random() < 0.7
        known = self.shown.get(user)
        last_ms = known.last_active_ms if known is not None and dice.random() < 0.3 else self.version
        seen = Availability.ONLINE if is_online else Availability.OFFLINE
        view = UserPresence(user, is_online, seen, last_ms, None, None, self.version)
        self.shown.pop(user, None)
        if is_online or dice.random() < 0.5:  # some who are offline claim something, and are still there
            self.shown[user] = view
        self.unheard.append(view)

    def online(self) -> list[UserPresence]:
        """Who is online, most recently active first."""
        return sorted((each for each in self.shown.values() if each.is_online), key=place_of, reverse=True)

    def page(self, limit: int, after: Entry) -> list[UserPresence]:
        """A page of them."""
        return [each for each in self.online() if place_of(each) < after][:limit]


def then(snapshot: list[UserPresence], told: list[UserPresence]) -> dict[str, UserPresence]:
    """What somebody knows who has a snapshot, and is told what follows."""
    known = {view.user_id: view for view in snapshot}
    for view in told:
        if view.user_id not in known or known[view.user_id].version < view.version:
            known[view.user_id] = view
    return {user: view for user, view in known.items() if view.is_online}


@pytest.mark.parametrize("seed", range(300))
def test_a_snapshot_and_what_follows_is_the_truth(seed: int) -> None:
    dice, redis, views = random.Random(seed), Redis(), Views()
    under_way: list[tuple[int, bool, list[UserPresence], bool]] = []
    lengthens, before = False, dict[str, UserPresence]()
    for _ in range(300):
        match dice.randrange(8):
            case 0 | 1 | 2:
                redis.change(dice)
            case 3 | 4 if redis.unheard:
                views.hear([redis.unheard.pop(0)])
            case 5 if not lengthens and views.end != BEHIND_ALL:  # one at a time
                limit, lengthens = dice.randrange(1, 5), True
                read = redis.page(limit, views.end)
                under_way.append((views.begin(), True, read, len(read) < limit))
            case 6:
                asked = dice.sample(USERS, 3)
                _, others = views.get(asked)
                found = [redis.shown[user] for user in others if user in redis.shown]
                under_way.append((views.begin(), False, found, False))
            case 7 if under_way:
                begun, is_page, read, is_last = under_way.pop(dice.randrange(len(under_way)))
                if is_page:
                    views.extend(begun, read, is_last=is_last)
                    lengthens = False
                else:
                    views.take(begun, read)
                views.done()
        if dice.random() < 0.02:
            views.forget()
        truth = {view.user_id: view for view in redis.online()}
        if (everybody := views.page(len(USERS) + 1, None)) is not None:
            assert then(everybody, redis.unheard) == truth
        if (some := views.page(3, None)) is not None:
            places = [place_of(view) for view in some]
            assert places == sorted(places, reverse=True)
            assert set(then(some, redis.unheard).items()) <= set(truth.items())
        kept, _ = views.get(USERS)
        assert set(then(list(kept.values()), redis.unheard).items()) <= set(truth.items())
        assert all(view.version >= before[user].version for user, view in kept.items() if user in before)
        before = kept


def test_it_knows_nothing_at_first_and_nothing_once_it_was_told_to_forget() -> None:
    views, alice = Views(), UserPresence("alice", True, Availability.ONLINE, 5, None, None, 1)
    assert views.page(1, None) is None
    views.extend(views.begin(), [alice], is_last=True)
    views.done()
    assert views.page(2, None) == [alice]
    begun = views.begin()
    views.forget()
    views.take(begun, [alice])  # it was read before something that the log does not tell
    views.extend(begun, [alice], is_last=True)
    views.done()
    assert views.page(1, None) is None
    assert views.get(["alice"]) == ({}, ["alice"])
