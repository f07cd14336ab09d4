"""Keys of users: made, split and shown, without two that are alike."""

from hypothesis import given
from hypothesis import strategies as st

from herenow.model import Availability, StoredUser
from herenow.tenancy import by_tenant, is_tenant, key_of, keyed, rows_by_tenant, shown, shown_key, split, tenant_of

TENANTS = st.none() | st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
IDS = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=128)
USERS = st.tuples(TENANTS, IDS)


def row(key: str) -> StoredUser:
    return StoredUser(key, False, Availability.OFFLINE, None, None, 1)


@given(USERS)
def test_a_key_gives_back_what_it_was_made_of(user: tuple[str | None, str]) -> None:
    assert split(key_of(*user)) == user
    assert tenant_of(key_of(*user)) == user[0]


@given(USERS | st.tuples(TENANTS, st.sampled_from(["a/b", "/a/b", "//a", "/a", "/", "a/", "a"])), USERS)
def test_no_two_users_have_one_key_or_are_shown_alike(
    one: tuple[str | None, str], other: tuple[str | None, str]
) -> None:
    for another in (other, (None, f"{one[0]}/{one[1]}"), (None, f"/{one[1]}"), (one[0], f"/{one[1]}")):
        if one != another:
            assert key_of(*one) != key_of(*another)
            assert shown(*one) != shown(*another)


def test_what_is_no_key_is_an_id_without_a_tenant() -> None:
    assert split("a b\x1falice") == (None, "a b\x1falice")
    assert split("\x1falice") == (None, "\x1falice")
    assert split("acme\x1fa\x1fb") == ("acme", "a\x1fb")


def test_a_tenant_is_called_by_few_letters() -> None:
    assert all(map(is_tenant, ("a", "A-1_b.c", "x" * 64)))
    assert not any(map(is_tenant, ("", "x" * 65, "a b", "ä", "a\n", "a/b", "a\x1fb", None, 7, ["a"])))


def test_a_user_is_shown_as_people_write_them() -> None:
    assert (shown("acme", "alice"), shown(None, "alice"), shown(None, "acme/alice")) == (
        "acme/alice",
        "alice",
        "/acme/alice",
    )
    assert shown(None, "a b/c") == "a b/c", "which no tenant is called by"
    assert (shown_key("acme\x1falice"), shown_key("acme/alice")) == ("acme/alice", "acme/alice")


def test_users_and_rows_are_sorted_by_their_tenants() -> None:
    keys = ["alice", "acme\x1falice", "globex\x1fbob", "acme\x1fcarol"]
    assert by_tenant(keys) == {None: ["alice"], "acme": ["alice", "carol"], "globex": ["bob"]}
    sorted_rows = rows_by_tenant([row(key) for key in keys])
    assert {tenant: [each.user_id for each in rows] for tenant, rows in sorted_rows.items()} == by_tenant(keys)
    assert [each.user_id for each in keyed("acme", sorted_rows["acme"])] == ["acme\x1falice", "acme\x1fcarol"]
    assert keyed(None, sorted_rows[None]) is sorted_rows[None]
