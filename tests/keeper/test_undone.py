"""Repairs that have no effect."""

from herenow.keeper.undone import TIMES, Undone


def test_who_was_put_right_in_vain_again_and_again_is_told_until_it_helped() -> None:
    undone = Undone()
    for _ in range(TIMES - 1):
        undone.note({"alice", "bob"}, ["alice", "bob"], 10)
        for _ in range(2):
            undone.note({"alice"}, [], 10)  # bob's helped
    assert undone.trouble is None
    undone.note({"alice", "bob"}, ["alice", "bob"], 10)
    assert undone.users == ["alice"]
    assert str(undone.trouble).startswith("1 user is wrong in the database again")
    assert not undone.is_most
    undone.note({"alice"}, ["alice"], 2)
    assert undone.is_most
    undone.note(set(), [], 0)
    assert undone.users == ["alice"], "it may only be on its way"
    undone.note(set(), [], 0)
    assert (undone.trouble, undone.is_most) == (None, False)
