"""Whether other nodes live, as their beats show it to one that watches."""

from herenow.registry.redis.watch import Watch


def test_who_stands_still_for_a_lease_is_dead_and_who_moves_is_not() -> None:
    watch = Watch(4.0, 1.0)
    for second in range(5):
        assert watch.look({"still": 7, "moves": second}, second) == ({"still": 7} if second == 4 else {})
    assert watch.still_s("still") == 4.0
    assert watch.look({"still": 8, "moves": 5}, 5) == {}


def test_a_pause_of_the_watchers_own_tells_nothing_of_the_others() -> None:
    watch = Watch(4.0, 1.0)
    watch.look({"a": 1}, 0)
    assert watch.look({"a": 1}, 60) == {}
    assert watch.still_s("a") == 0.0
    assert watch.still_s("nobody") == 0.0


def test_nodes_that_beat_seldom_are_given_up_too() -> None:
    watch = Watch(8.0, 2.0)
    for second in range(0, 9, 2):
        dead = watch.look({"a": 1}, second + 0.01 * second)
    assert dead == {"a": 1}
