"""The index of who wants to hear of whom."""

from hypothesis import given
from hypothesis import strategies as st

from herenow.gateway.watches import Watches

USERS = st.sampled_from("abcde")
WATCHERS = st.sampled_from("12345")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("watch"), WATCHERS, st.lists(USERS)),
        st.tuples(st.just("unwatch"), WATCHERS, st.lists(USERS)),
        st.tuples(st.just("watch_all"), WATCHERS),
        st.tuples(st.just("unwatch_all"), WATCHERS),
        st.tuples(st.just("forget"), WATCHERS),
    )
)


@given(STEPS)
def test_the_index_agrees_with_a_plain_set_of_pairs_and_keeps_nothing_else(steps: list[tuple[str, ...]]) -> None:
    watches: Watches[str] = Watches()
    pairs: set[tuple[str, str]] = set()
    everybody: set[str] = set()
    for action, watcher, *users in steps:
        getattr(watches, action)(watcher, *users)
        named = {(watcher, user) for user in users[0]} if users else set()
        if action == "watch":
            pairs |= named
        elif action == "unwatch":
            pairs -= named
        elif action == "watch_all":
            everybody.add(watcher)
        elif action == "unwatch_all":
            everybody.discard(watcher)
        else:
            everybody.discard(watcher)
            pairs = {pair for pair in pairs if pair[0] != watcher}
        assert set(watches.of_all) == everybody
        for user in "abcde":
            assert set(watches.of(user)) == {one for one, other in pairs if other == user}
        for one in "12345":
            mine = {user for each, user in pairs if each == one}
            assert watches.watched_by(one) == len(mine)
            assert watches.adds(one, "abc") == len(set("abc") - mine)
    assert watches._of_user.keys() == {user for _, user in pairs}
    assert watches._users_of.keys() == {watcher for watcher, _ in pairs}
