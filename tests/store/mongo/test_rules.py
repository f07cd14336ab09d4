"""A validator of the application's that refuses our fields: which rule it is, and the change that lets them in."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cli_support import herenow
from herenow.errors import StoreMismatch
from herenow.http.maintenance import Maintenance
from herenow.presence import Presence
from herenow.store.mongo.documents import Fields
from herenow.store.mongo.rules import amend
from herenow.store.mongo.store import MongoStore
from store.rows import online
from store.shop import Shop

CLOSED = {"properties": {"_id": {}, "email": {"bsonType": "string"}}, "additionalProperties": False}
ALL_THREE = {
    "isOnline": {"bsonType": "bool"},
    "lastActive": {"bsonType": ["date", "null"]},
    "presence": {"bsonType": "object"},
}


def closed(**properties: Any) -> dict[str, Any]:
    return {"$jsonSchema": {**CLOSED, "properties": {**CLOSED["properties"], **ALL_THREE, **properties}}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("validator", "rule", "change"),
    [
        (
            {"$jsonSchema": CLOSED},
            "$jsonSchema.additionalProperties is false",
            f"add to $jsonSchema.properties {json.dumps(ALL_THREE)}",
        ),
        (
            {"$jsonSchema": {"allOf": [{"required": ["email"]}, CLOSED]}},
            "$jsonSchema.allOf[1].additionalProperties is false",
            f"add to $jsonSchema.allOf[1].properties {json.dumps(ALL_THREE)}",
        ),
        (
            {"$jsonSchema": {"anyOf": [CLOSED, CLOSED]}},
            "$jsonSchema.anyOf[0].additionalProperties is false",
            f"add to $jsonSchema.anyOf[0].properties {json.dumps(ALL_THREE)}",
        ),
        (
            {"$and": [{"email": {"$exists": True}}, {"$jsonSchema": CLOSED}]},
            "$and[1].$jsonSchema.additionalProperties is false",
            f"add to $and[1].$jsonSchema.properties {json.dumps(ALL_THREE)}",
        ),
        (
            closed(isOnline={"bsonType": "string"}),
            '$jsonSchema.properties.isOnline is {"bsonType": "string"}',
            'write {"bsonType": "bool"} there',
        ),
        (
            closed(isOnline={"enum": [False]}),
            '$jsonSchema.properties.isOnline is {"enum": [false]}',
            'write {"bsonType": "bool"} there',
        ),
        (
            closed(lastActive={"bsonType": ["string", "long"]}),
            '$jsonSchema.properties.lastActive is {"bsonType": ["string", "long"]}',
            'write {"bsonType": ["date", "null"]} there',
        ),
        (
            closed(presence={"required": ["status"]}),
            '$jsonSchema.properties.presence is {"required": ["status"]}',
            'write {"bsonType": "object"} there',
        ),
        (
            closed(presence={"properties": {"version": {"bsonType": "int"}}}),
            '$jsonSchema.properties.presence is {"properties": {"version": {"bsonType": "int"}}}',
            'write {"bsonType": "object"} there',
        ),
        (
            {"$expr": {"$not": "$isOnline"}},
            '{"$expr": {"$not": "$isOnline"}} does',
            "change it so that users pass who have",
        ),
        (
            {"$jsonSchema": {"maxProperties": 3}},
            '{"$jsonSchema": {"maxProperties": 3}} does',
            "change it so that users pass who have",
        ),
    ],
)
async def test_the_rule_is_named_with_the_change_and_the_change_helps(
    shop: Shop, kept: MongoStore, validator: dict[str, Any], rule: str, change: str
) -> None:
    shop.users.insert_one({"_id": "alice", "email": "a@example.org"})
    shop.database.command("collMod", "users", validator=validator)
    assert (await kept.apply([online("alice")])).refused.keys() == {"alice"}
    objections = await kept.objections()
    assert objections[0].startswith(f"the validator of users refuses what herenow writes: {rule}: {change}")
    changed, found = amend(validator, Fields())
    if found:
        shop.database.command("collMod", "users", validator=changed)
        assert (await kept.apply([online("alice")])).written == 1
        assert await kept.objections() == ()


@pytest.mark.parametrize(
    ("validator", "action"),
    [
        ({}, "error"),
        ({"$jsonSchema": CLOSED}, "warn"),
        ({"$jsonSchema": {"anyOf": [{"required": ["email"]}, CLOSED]}}, "error"),
        ({"$or": [{"$jsonSchema": CLOSED}, {"email": {"$exists": True}}]}, "error"),
        ({"$jsonSchema": {**CLOSED, "patternProperties": {"^[ilp]": {}}}}, "error"),
        ({"$jsonSchema": {**CLOSED, "patternProperties": {r"^\p{L}++$": {}}}}, "error"),
        ({"$jsonSchema": {"required": ["email", "isOnline"], "properties": ALL_THREE}}, "error"),
    ],
)
async def test_a_validator_that_lets_our_fields_pass_is_not_blamed(
    shop: Shop, kept: MongoStore, validator: dict[str, Any], action: str
) -> None:
    shop.users.insert_one({"_id": "alice", "email": "a@example.org"})
    shop.database.command("collMod", "users", validator=validator, validationAction=action)
    assert await kept.objections() == ()
    assert (await kept.apply([online("alice")])).written == 1


async def test_without_a_user_yet_the_rules_are_read_alone(shop: Shop, kept: MongoStore) -> None:
    shop.database.command("collMod", "users", validator={"$jsonSchema": CLOSED})
    assert len(await kept.objections()) == 1


async def test_init_refuses_before_it_changes_anything(shop: Shop, tmp_path: Path) -> None:
    shop.database.create_collection("users", validator={"$jsonSchema": {"allOf": [CLOSED]}})
    shop.users.insert_one({"_id": "alice", "email": "a@example.org"})
    ended = await asyncio.to_thread(herenow, "init", "--database", shop.server.url(shop.name), cwd=tmp_path)
    assert ended.returncode == 2
    told = " ".join(ended.stderr.split())
    assert "allOf[0].additionalProperties is false" in told
    assert json.dumps(ALL_THREE) in told
    store = shop.store()
    with pytest.raises(StoreMismatch, match="is false"):
        await store.init(dry_run=True)
    with pytest.raises(StoreMismatch, match="is false"):
        await store.init(schema=True)
    await store.close()
    assert shop.database.list_collection_names() == ["users"]


async def test_a_server_says_it_at_its_start_and_while_it_runs(shop: Shop, kept: MongoStore) -> None:
    shop.users.insert_one({"_id": "alice", "email": "a@example.org"})
    shop.database.command("collMod", "users", validator={"$jsonSchema": CLOSED})
    presence = Presence(shop.server.url(shop.name), dev=True, audit_every_s=0.1)
    await presence.start()
    try:
        assert "additionalProperties is false" in presence.objections[0]
        assert not Maintenance(presence).writer().healthy
        shop.database.command("collMod", "users", validator={})
        async with asyncio.timeout(10):
            while presence.objections:  # noqa: ASYNC110  # it is another task's state
                await asyncio.sleep(0.02)
        assert Maintenance(presence).writer().healthy
    finally:
        await presence.stop()
