"""Tenants over HTTP: what each key is told, with the same user ids in all of them."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import mongod
from herenow.model import Availability, StoredUser
from herenow.presence import Presence
from herenow.tenancy import key_of
from support import http_client, serving, until

KEYS = {None: "a key of no tenant at all", "acme": "a key of the tenant acme", "globex": "a key of the tenant globex"}
ADMIN = "a key of an operator"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Served:
    """A server with tenants, asked by their programs."""

    def __init__(self, presence: Presence, http: httpx.AsyncClient) -> None:
        self.presence, self.http = presence, http

    async def ask(self, path: str, key: str, order: dict[str, Any] | None = None, method: str = "") -> httpx.Response:
        method = method or ("GET" if order is None else "POST")
        return await self.http.request(method, path, json=order, headers=bearer(key))

    async def get(self, path: str, key: str, order: dict[str, Any] | None = None) -> Any:
        response = await self.ask(path, key, order)
        assert response.status_code == 200, response.text
        return response.json()

    async def connect(self, user: str, tenant: str | None) -> None:
        await self.presence.registry_of(tenant).connect(user, f"{tenant}-{user}", node="local")

    async def written(self) -> None:
        await until(lambda: self.presence.writer.state().pending == 0)

    async def haunt(self, user: str, tenant: str | None, last_active_ms: int = 1000) -> None:
        """Make a ghost: online in the store, by another program."""
        row = StoredUser(key_of(tenant, user), True, Availability.ONLINE, last_active_ms, None, 1)
        assert (await self.presence.store.apply([row])).written == 1


@asynccontextmanager
async def served(database: str, **settings: Any) -> AsyncIterator[Served]:
    presence = Presence(
        database,
        jwt_secret="a secret of at least thirty-two bytes",
        api_keys=[KEYS[None]],
        tenant_api_keys={
            "acme": [KEYS["acme"]],
            "globex": ["sha256:" + hashlib.sha256(KEYS["globex"].encode()).hexdigest()],
        },
        admin_tokens=[ADMIN],
        **settings,
    )
    app = FastAPI()
    presence.mount(app, admin=True, health=True, openapi=True)
    async with serving(app) as url, http_client(base_url=url) as http:
        yield Served(presence, http)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(f"sqlite:///{tmp_path}/app.db") as api:
        yield api


# -- reading -----------------------------------------------------------------------------------------------------


async def test_each_key_reads_its_own_tenant(api: Served) -> None:
    for tenant in KEYS:
        await api.connect("alice", tenant)
        await api.connect(f"of-{tenant}", tenant)
    await api.presence.disconnect("alice", tenant="globex")
    await api.written()
    for tenant, key in KEYS.items():
        others = [f"of-{each}" for each in KEYS if each != tenant]
        is_here = tenant != "globex"
        assert (await api.get("/v1/users/alice", key))["isOnline"] is is_here
        found = await api.get("/v1/users:batchGet", key, {"users": [*others, "alice", f"of-{tenant}"]})
        assert [user["isOnline"] for user in found["users"]] == [False, False, is_here, True]
        assert [user["version"] for user in found["users"][:2]] == [0, 0]
        online = await api.get("/v1/online", key)
        shown = {f"of-{tenant}", "alice"} if is_here else {f"of-{tenant}"}
        assert {user["userId"] for user in online["users"]} == shown
        stats = await api.get("/v1/stats", key)
        assert (stats["online"], stats["users"], stats["connections"]) == ((2, 2, 2) if is_here else (1, 1, 1))
        for text in (json.dumps(each) for each in (found, online, stats)):
            assert "tenant" not in text and "\\u001f" not in text


async def test_a_version_does_not_tell_that_others_are_busy(api: Served) -> None:
    before = (await api.get("/v1/stats", KEYS["acme"]))["version"]
    for _ in range(3):
        await api.connect("alice", None)
        await api.connect("alice", "globex")
        await api.presence.disconnect("alice", tenant="globex")
        await api.presence.disconnect("alice")
    await api.written()
    assert (await api.get("/v1/stats", KEYS["acme"]))["version"] == before
    assert (await api.get("/v1/online", KEYS["acme"]))["version"] == before
    assert (await api.get("/v1/users:batchGet", KEYS["acme"], {"users": ["alice"]}))["version"] == before


async def test_a_cursor_of_another_tenant_shows_nothing(api: Served) -> None:
    for n in range(3):
        await api.connect(f"user-{n}", "acme")
    await api.connect("bob", "globex")
    cursor = (await api.get("/v1/online?limit=1", KEYS["acme"]))["cursor"]
    rest = await api.get(f"/v1/online?limit=10&cursor={cursor}", KEYS["globex"])
    assert {user["userId"] for user in rest["users"]} <= {"bob"}


async def events(lines: AsyncIterator[str], number: int) -> list[str]:
    """The next events of a stream: the data of changes, or that it begins anew."""
    found: list[str] = []
    async with asyncio.timeout(5):
        while len(found) < number:
            line = await anext(lines)
            if line.startswith(('data: {"', "event: reset")):
                found.append(line.removeprefix("data: "))
    return found


async def test_a_stream_carries_the_changes_of_one_tenant(api: Served) -> None:
    await api.connect("alice", "acme")
    version = (await api.get("/v1/stats", KEYS["acme"]))["version"]
    await api.connect("bob", "globex")
    foreign = (await api.get("/v1/stats", KEYS["globex"]))["version"]
    headers = {**bearer(KEYS["acme"]), "Last-Event-ID": str(version)}
    async with api.http.stream("GET", "/v1/changes", headers=headers) as stream:
        lines = stream.aiter_lines()
        for tenant in (None, "globex", "acme"):
            await api.connect("carol", tenant)
            await api.presence.disconnect("carol", tenant=tenant)
        found = await events(lines, 1)
        await api.presence.disconnect("alice", tenant="acme")
        for _ in range(3):
            await api.presence.tenants.sweep()  # nobody is left, but for who follows
        await api.connect("dave", "acme")
        while '"dave"' not in found[-1]:
            found += await events(lines, 1)
        assert {json.loads(each)["userId"] for each in found} == {"carol", "alice", "dave"}
        assert "tenant" not in "".join(found)
    # A version that only another tenant has reached is one that this one does not know.
    async with api.http.stream("GET", f"/v1/changes?since={foreign + 10**9}", headers=bearer(KEYS["acme"])) as stream:
        assert await events(stream.aiter_lines(), 1) == ["event: reset"]


async def test_a_tenants_key_names_no_other_tenant_and_reads_nothing_of_the_whole(api: Served) -> None:
    await api.connect("alice", "globex")
    for path in ("/v1/users/alice", "/v1/online", "/v1/stats", "/v1/changes"):
        for key in (KEYS["acme"], KEYS[None]):
            for tenant in ("globex", "nobody-is-called-so"):
                refused = await api.ask(f"{path}?tenant={tenant}", key)
                assert refused.status_code == 403
                assert refused.json()["error"]["message"] == "this key does not read that tenant"
    assert (await api.get("/v1/stats?tenant=acme", KEYS["acme"]))["users"] == 0
    assert (await api.ask("/metrics", KEYS["acme"])).status_code == 403
    ready = await api.get("/readyz", KEYS["acme"])
    assert set(ready) == {"ready", "reason", "node"}
    assert "store" in await api.get("/readyz", KEYS[None])
    assert "store" in await api.get("/readyz", ADMIN)
    for method, path in (
        ("GET", "/v1/admin/status"),
        ("GET", "/v1/admin/drift"),
        ("GET", "/v1/admin/users/alice/explain"),
        ("POST", "/v1/admin/users/alice/disconnect"),
        ("PUT", "/v1/users/alice/claim"),
        ("DELETE", "/v1/users/alice/claim"),
    ):
        assert (await api.ask(path, KEYS["acme"], {} if method == "PUT" else None, method)).status_code == 401
    assert (await api.ask("/v1/stats?tenant=acme", "no key at all")).status_code == 401
    assert (await api.ask("/v1/stats?tenant=acme", "sha256:" + "0" * 64)).status_code == 401
    assert (await api.ask("/metrics", "no key at all")).status_code == 401
    wrong = await api.ask("/v1/stats?tenant=a%20b", ADMIN)
    assert wrong.status_code == 400
    assert wrong.json()["error"]["message"] == "tenant: must be letters, digits, . _ and -"


# -- the operator ------------------------------------------------------------------------------------------------


async def test_an_operator_reads_any_tenant_and_the_whole(api: Served) -> None:
    await api.connect("alice", "acme")
    await api.connect("alice", "globex")
    await api.connect("bob", None)
    assert (await api.get("/v1/stats", ADMIN))["users"] == 1
    assert (await api.get("/v1/stats?tenant=acme", ADMIN))["users"] == 1
    assert (await api.get("/v1/users/alice?tenant=acme", ADMIN))["isOnline"]
    assert not (await api.get("/v1/users/alice", ADMIN))["isOnline"]
    await api.written()
    status = await api.get("/v1/admin/status", ADMIN)
    assert (status["stats"]["users"], status["onlineTotal"], status["stored"]["online"]) == (3, 3, 3)
    assert {(user.get("tenant"), user["userId"]) for user in status["onlineFirst"]} == {
        ("acme", "alice"),
        ("globex", "alice"),
        (None, "bob"),
    }
    assert status["drift"]["ghosts"] == status["drift"]["missing"] == 0
    one = await api.get("/v1/admin/status?tenant=acme", ADMIN)
    assert (one["stats"]["users"], [user["tenant"] for user in one["onlineFirst"]]) == (1, ["acme"])
    text = (await api.ask("/metrics", ADMIN)).text
    assert 'herenow_users{availability="online"} 3.0' in text and "herenow_tenants 2.0" in text
    assert "acme" not in text
    assert (await api.ask("/metrics", KEYS[None])).status_code == 200


async def test_an_operator_explains_claims_and_disconnects_in_one_tenant(api: Served) -> None:
    await api.connect("alice", "acme")
    await api.connect("alice", "globex")
    await api.written()
    claimed = await api.ask("/v1/users/alice/claim?tenant=acme", ADMIN, {"availability": "busy"}, "PUT")
    assert claimed.json()["user"]["availability"] == "busy"
    await api.written()
    found = await api.get("/v1/admin/users/alice/explain?tenant=acme", ADMIN)
    assert found["verdict"] == "acme/alice is shown busy: 1 connection."
    assert (found["tenant"], found["userId"], found["agrees"]) == ("acme", "alice", True)
    assert found["stored"]["claim"] == "busy"
    assert [change["cause"] for change in found["changes"]] == ["claim", "connect"]
    stranger = await api.get("/v1/admin/users/alice/explain", ADMIN)
    assert (stranger["verdict"], stranger["stored"], stranger["changes"]) == (
        "alice is shown offline: never seen here.",
        None,
        [],
    )
    assert (await api.ask("/v1/users/alice/claim?tenant=acme", ADMIN, None, "DELETE")).status_code == 200
    gone = await api.get("/v1/admin/users/alice/disconnect?tenant=acme", ADMIN, {})
    assert gone == {"closed": 1}
    assert (await api.get("/v1/users/alice?tenant=globex", ADMIN))["isOnline"]
    assert not (await api.get("/v1/users/alice?tenant=acme", ADMIN))["isOnline"]


async def test_drift_cleanup_and_stale_speak_of_everything_or_of_one_tenant(api: Served) -> None:
    for tenant in KEYS:
        await api.connect("alice", tenant)
        await api.haunt("casper", tenant)
    await api.written()
    drift = await api.get("/v1/admin/drift", ADMIN)
    assert (drift["ghosts"], drift["missing"]) == (3, 0)
    assert {(each.get("tenant"), each["userId"]) for each in drift["examples"]} == {(each, "casper") for each in KEYS}
    one = await api.get("/v1/admin/drift?tenant=acme", ADMIN)
    assert (one["ghosts"], one["examples"]) == (1, [{"userId": "casper", "kind": "ghost", "tenant": "acme"}])

    silent = {"olderThanMs": 60_000}
    dry = await api.get("/v1/admin/stale?tenant=acme", ADMIN, {**silent, "dryRun": True})
    assert (dry["offline"], dry["protectedUsers"]) == (1, 0)
    assert (await api.get("/v1/admin/stale?tenant=acme", ADMIN, silent))["offline"] == 1
    assert (await api.get("/v1/admin/drift", ADMIN))["ghosts"] == 2

    dry = await api.get("/v1/admin/cleanup?tenant=globex", ADMIN, {"dryRun": True})
    assert (dry["offline"], dry["protectedUsers"], dry["closed"]) == (1, 1, 0)
    assert (await api.get("/v1/admin/cleanup?tenant=globex", ADMIN, {}))["offline"] == 1
    everything = await api.get("/v1/admin/cleanup", ADMIN, {"disconnect": True})
    assert (everything["offline"], everything["closed"]) == (4, 3)
    await api.written()
    assert (await api.presence.store.counts()).online == 0
    assert (await api.get("/v1/admin/drift", ADMIN))["ghosts"] == 0


async def test_what_is_cleaned_up_in_the_store_is_older_than_what_a_tenant_decides_next(api: Served) -> None:
    await api.haunt("alice", "acme")
    await api.connect("bob", None)
    assert (await api.get("/v1/admin/cleanup", ADMIN, {}))["offline"] == 1
    await api.connect("alice", "acme")
    await api.written()
    assert (await api.presence.store.read(["acme\x1falice"]))["acme\x1falice"].is_online


async def test_a_store_that_keeps_no_tenants_is_asked_for_none(api: Served) -> None:
    async with served(mongod.empty_collection()) as api:
        of_acme = KEYS["acme"]
        for path, key in (("/v1/stats", of_acme), ("/v1/changes", of_acme), ("/v1/admin/drift?tenant=acme", ADMIN)):
            refused = await api.ask(path, key)
            assert refused.status_code == 403
            assert "tenant_field" in refused.json()["error"]["message"]
        claim = await api.ask("/v1/users/alice/claim?tenant=acme", ADMIN, {"availability": "busy"}, "PUT")
        assert claim.status_code == 403
