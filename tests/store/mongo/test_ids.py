"""One document, or row, is one user: the one way to write an id, for each kind that a database has."""

import json
import sqlite3
from pathlib import Path

import pytest
from bson import Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from herenow.errors import StoreMismatch
from herenow.model import Availability, StoredUser
from herenow.store.mongo.ids import IdKind, canonical, to_raw
from herenow.store.sqlite.rows import canonical as canonical_in_sql
from herenow.store.sqlite.schema import Affinity
from herenow.store.sqlite.store import SqlStore
from store.databases import execute, select
from store.shop import Shop

OID = "507f1f77bcf86cd799439011"
UUID = "550e8400-e29b-41d4-a716-446655440000"

SPELLINGS = {
    IdKind.OBJECT_ID: [(OID.upper(), OID), ("507F1f77bcf86cd799439011", OID)],
    IdKind.UUID: [
        (UUID.upper(), UUID),
        (UUID.replace("-", ""), UUID),
        (f"urn:uuid:{UUID}", UUID),
        (f"{{{UUID}}}", UUID),
    ],
    IdKind.NUMBER: [
        *((each, "7") for each in ("7", "007", "+7", "7.0", "7.", "7e0", "70E-1", " 7 ")),
        *((each, "0") for each in ("0", "-0", "+00", "0e99999")),
        ("-007", "-7"),
        ("9007199254740993.0", "9007199254740993"),
        ("0009223372036854775807", "9223372036854775807"),
    ],
    IdKind.STRING: [(each, each) for each in ("007", OID.upper(), UUID.upper(), "e\u0301", "ALICE", " a ")],
}

STRANGERS = {
    IdKind.OBJECT_ID: ["507F", "X" + OID[1:].upper(), OID.upper() + " ", "50 7f1f77bcf86cd79943901", "\uff11" * 24],
    IdKind.UUID: [UUID.upper()[1:], UUID.replace("5", "_", 1), UUID.upper()[:-1] + "G", "\u0665" * 32],
    IdKind.NUMBER: [
        "7.5",
        "1e19",
        "9223372036854775808",
        "\uff17",
        "7_0",
        "0x7",
        "A",
        "1e" + "9" * 100,
        "-",
        "1e-9999999",
    ],
}


@pytest.mark.parametrize(
    ("kind", "written", "user_id"), [(kind, *each) for kind, all_ in SPELLINGS.items() for each in all_]
)
def test_however_an_id_is_written_it_is_one_user(kind: IdKind, written: str, user_id: str) -> None:
    assert canonical(written, kind) == user_id
    assert str(to_raw(user_id, kind)) == user_id
    assert written == user_id or to_raw(written, kind) is None, "rows go by the one id only"


@pytest.mark.parametrize(("kind", "written"), [(kind, each) for kind, all_ in STRANGERS.items() for each in all_])
def test_what_no_document_can_have_stays_as_it_is(kind: IdKind, written: str) -> None:
    assert canonical(written, kind) == written
    assert to_raw(written, kind) is None


@given(st.text(max_size=40) | st.from_regex(r"[ +-]?[0-9.eE+-]{1,24} ?", fullmatch=True), st.sampled_from(IdKind))
def test_the_one_way_is_one(written: str, kind: IdKind) -> None:
    once = canonical(written, kind)
    assert canonical(once, kind) == once


WRITTEN = [
    "7",
    "007",
    "+7",
    "7.0",
    "70e-1",
    " 7 ",
    "-0",
    "0",
    "7.5",
    "7.50",
    "1e3",
    "1e30",
    "0x7",
    "7_0",
    "\uff17",
    "a",
]
TYPES = {"INTEGER": Affinity.NUMERIC, "INT": Affinity.NUMERIC, "UUID": Affinity.NUMERIC}
TYPES |= {"DOUBLE": Affinity.REAL, "TEXT": Affinity.TEXT, "VARCHAR(36)": Affinity.TEXT, "": Affinity.TEXT}


@pytest.mark.parametrize("type_", TYPES)
def test_two_ids_are_one_exactly_where_sqlite_compares_them_so(type_: str) -> None:
    """To a column of numbers the text 007 is 7: one row was two users, and each wrote it as their own."""
    affinity = TYPES[type_]
    for stored in WRITTEN:
        database = sqlite3.connect(":memory:")
        database.execute(f"CREATE TABLE users (id {type_} PRIMARY KEY)")
        try:
            database.execute("INSERT INTO users VALUES (?)", [stored])
        except sqlite3.IntegrityError:  # such a key can be no text
            continue
        find = "SELECT id FROM users WHERE id IN (SELECT value FROM json_each(?))"
        for written in WRITTEN:
            found = database.execute(find, [json.dumps([written])]).fetchone()
            user_id = canonical_in_sql(written, affinity)
            assert (found is not None) == (user_id == canonical_in_sql(stored, affinity)), (stored, written)
            assert found is None or str(found[0]) == user_id
        database.close()


@pytest.mark.parametrize("type_", TYPES)
async def test_the_store_reads_off_its_table_how_ids_are_written(path: Path, type_: str) -> None:
    execute(path, f"CREATE TABLE users (id {type_} PRIMARY KEY)", "INSERT INTO users VALUES (7)")
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    one = {Affinity.NUMERIC: "7", Affinity.REAL: "7.0", Affinity.TEXT: "007"}[TYPES[type_]]
    assert store.canonical("007") == one
    await store.close()


@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM"])
async def test_a_table_that_takes_two_ids_for_one_is_not_adopted(path: Path, collation: str) -> None:
    execute(path, f"CREATE TABLE users (id TEXT PRIMARY KEY COLLATE {collation})")
    store = SqlStore(f"sqlite:///{path}")
    with pytest.raises(StoreMismatch, match=f"has the collation {collation}"):
        await store.init()
    await store.close()


async def test_a_row_of_a_user_is_found_by_the_one_id_alone(path: Path) -> None:
    execute(path, "CREATE TABLE users (id INTEGER PRIMARY KEY)", "INSERT INTO users VALUES (7)")
    store = SqlStore(f"sqlite:///{path}")
    await store.init()
    row = StoredUser(store.canonical("007"), True, Availability.ONLINE, 1_000, None, 5)
    assert (await store.apply([row])).written == 1
    assert list(await store.read(["7"])) == ["7"]
    assert select(path, "SELECT id, isOnline FROM users") == [(7, 1)]
    await store.close()


async def test_the_collection_says_how_ids_are_written_as_soon_as_it_has_one(shop: Shop) -> None:
    async with shop.opened() as store:
        await store.init()
        assert store.canonical(OID.upper()) == OID.upper(), "nobody knows yet"
        shop.users.insert_one({"_id": ObjectId(OID)})
        await store.counts()
        assert store.canonical(OID.upper()) == OID
    async with shop.opened() as store:
        assert store.canonical(OID.upper()) == OID, "at once, where it is known"
    shop.users.delete_many({})
    shop.users.insert_one({"_id": Int64(7)})
    async with shop.opened() as store:
        assert store.canonical("007") == "7"
