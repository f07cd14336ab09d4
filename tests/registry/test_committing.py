"""How proposals are divided into commits: few enough that none holds Redis up."""

from herenow.registry.commands import Connect, Now
from herenow.registry.redis.blob import decode
from herenow.registry.redis.committing import BYTES_A_COMMIT, USERS_A_COMMIT, _parts
from herenow.registry.redis.proposal import Proposal, propose
from herenow.registry.rules import Policy

NOW = Now(1_800_000_000_000_000, 5)


def proposal(number: int, connections: int) -> Proposal:
    """What is proposed of a user who opens so many connections at once."""
    user = f"user-{number}"
    commands = [Connect(user, f"{place}" * 200, "n", "websocket", "192.0.2.7") for place in range(connections)]
    return propose(decode(user, None), commands, NOW, Policy(2000, None, 60_000))


def test_a_commit_has_so_many_users_and_no_more() -> None:
    proposals = [proposal(number, 1) for number in range(2 * USERS_A_COMMIT + 1)]
    parts = list(_parts(proposals))
    assert [len(part) for part in parts] == [USERS_A_COMMIT, USERS_A_COMMIT, 1]
    assert [each for part in parts for each in part] == proposals


def test_a_commit_has_so_many_bytes_unless_one_user_alone_has_more() -> None:
    small, large = proposal(0, 1), proposal(1, 2000)
    assert len(large.state or b"") > BYTES_A_COMMIT
    assert [len(part) for part in _parts([small, small, large, large, small])] == [2, 1, 1, 1]
