"""The HTTP API over a real port, in a FastAPI and in a plain Starlette application."""

import asyncio
import hashlib
import json
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from fastapi import FastAPI
from pytest import MonkeyPatch
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from herenow.cli.socketio_client import Caller
from herenow.errors import StoreCorrupt, StoreUnavailable
from herenow.keeper.writer import Writer
from herenow.model import Availability, StoredUser
from herenow.presence import Presence
from herenow.store.base import Applied
from support import Poller, connect_socket, http_client, receive, serving, until, websocket

Kind = Literal["fastapi", "starlette"]
SECRET = "a secret of at least thirty-two bytes"
READ_KEY, OTHER_KEY = "a key that is long enough", "another key that is long enough"


def digest(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class Served:
    """A mounted presence, and a client of its HTTP API."""

    def __init__(self, presence: Presence, http: httpx.AsyncClient, state_file: Path) -> None:
        self.presence = presence
        self.http = http
        self.state_file = state_file
        self.url = str(http.base_url)

    @property
    def admin(self) -> dict[str, str]:
        """What a command sends."""
        return {"Authorization": f"Bearer {self.token()}"}

    def token(self) -> str:
        """What lets a command in."""
        token: str = json.loads(self.state_file.read_text())["token"]
        return token

    async def get(self, path: str, **options: Any) -> Any:
        """Read something that is there."""
        response = await self.http.get(path, **options)
        assert response.status_code == 200, response.text
        return response.json()

    async def order(self, path: str, **order: Any) -> Any:
        """Order something that is done."""
        response = await self.http.post(path, json=order)
        assert response.status_code == 200, response.text
        return response.json()

    async def haunt(self, *user_ids: str) -> None:
        """Make ghosts: online in the store, by another program."""
        rows = [StoredUser(user_id, True, Availability.ONLINE, 1000, None, 1) for user_id in user_ids]
        assert (await self.presence.store.apply(rows)).written == len(rows)


@asynccontextmanager
async def served(directory: Path, kind: Kind = "starlette", **settings: Any) -> AsyncIterator[Served]:
    async def theirs(_: Any) -> PlainTextResponse:
        return PlainTextResponse("theirs")

    app: Starlette = FastAPI() if kind == "fastapi" else Starlette()
    app.router.routes.append(Route("/v1/theirs", theirs))
    presence = Presence(f"sqlite:///{directory}/app.db", **({"dev": True} | settings))
    presence.mount(app, admin=True, health=True, openapi=True)
    async with serving(app) as url, http_client(base_url=url) as http:
        await until(lambda: presence.audit.mended_at_start is not None)  # it would mend what a test writes
        yield Served(presence, http, directory / "app.db-server")


@pytest.fixture(params=["fastapi", "starlette"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, request.param) as api:
        yield api


# -- reading ---------------------------------------------------------------------------------------------------------


async def test_health_is_open_and_tells_the_state_of_each_part(api: Served) -> None:
    assert await api.get("/healthz") == {"alive": True}
    asked = await api.http.head("/healthz")
    assert (asked.status_code, asked.content) == (200, b"")
    ready = await api.get("/readyz")
    assert ready["ready"] is True
    assert ready["store"]["healthy"] is True
    assert ready["node"]["name"] == "local"
    told = {"rounds", "failures", "ghosts", "missing", "wrong", "repaired", "troubles", "lastError"}
    assert set(ready["audit"]) == told


async def test_stats_count_users_and_connections(api: Served) -> None:
    clients = [await Caller.open(api.url, user) for user in ("alice", "alice", "bob", "carol")]
    await clients[2].emit("presence:idle", {})
    await clients[3].emit("presence:claim", {"availability": "busy"})
    stats = await api.get("/v1/stats")
    assert stats.pop("version") > 0
    assert stats == {
        "online": 1,
        "away": 1,
        "busy": 1,
        "users": 3,
        "connections": 4,
        "bounds": {"offlineWithinMs": 2000, "silentLossMs": 17000, "restartMs": 15000},
    }
    for client in clients:
        await client.cut()


async def test_online_is_paged_by_a_stable_cursor(api: Served) -> None:
    clients = [await Caller.open(api.url, f"user-{number}") for number in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await api.get("/v1/online", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
        seen += [user["userId"] for user in page["users"]]
        cursor = page.get("cursor")
        if cursor is None:
            break
    assert sorted(seen) == [f"user-{number}" for number in range(5)]
    assert len(seen) == 5
    for client in clients:
        await client.cut()


@pytest.mark.parametrize("user_id", ["alice", "a/b", "Zoë", "a b?c#d", "x" * 128, "explain", "../../etc"])
async def test_a_user_is_shown_whatever_the_id(api: Served, user_id: str) -> None:
    path = "/v1/users/" + "".join(f"%{byte:02X}" for byte in user_id.encode())
    assert await api.get(path) == {
        "userId": user_id,
        "isOnline": False,
        "availability": "offline",
        "lastActive": None,
        "version": 0,
    }
    client = await Caller.open(api.url, user_id)
    await client.emit("presence:claim", {"availability": "busy", "text": "in a call"})
    user = await api.get(path)
    assert (user["isOnline"], user["availability"], user["statusText"]) == (True, "busy", "in a call")
    explained = await api.get(path.replace("/v1/", "/v1/admin/") + "/explain")
    assert explained["verdict"] == f"{user_id} is shown busy: 1 connection."
    await client.cut()


async def test_some_users_in_the_order_asked_for(api: Served) -> None:
    client = await Caller.open(api.url, "bob")
    answer = (await api.http.post("/v1/users:batchGet", json={"users": ["alice", "bob", "alice"]})).json()
    assert [(user["userId"], user["isOnline"]) for user in answer["users"]] == [("alice", False), ("bob", True)]
    assert answer["version"] > 0
    most = {"users": ["\U0001f600" * 124 + f"{number:04}" for number in range(1000)]}
    assert len((await api.http.post("/v1/users:batchGet", json=most)).json()["users"]) == 1000
    await client.cut()


async def test_a_claim_on_a_users_behalf(api: Served) -> None:
    client = await Caller.open(api.url, "alice")
    path = "/v1/users/alice/claim"
    until = "2099-01-01T00:00:00.000Z"
    answer = await api.http.put(path, json={"availability": "busy", "text": "on stage", "until": until})
    assert answer.status_code == 200
    user = await api.get("/v1/users/alice")
    assert answer.json() == {"user": user}
    assert (user["availability"], user["statusText"], user["statusUntil"]) == ("busy", "on stage", until)
    answer = await api.http.put(path, json={"availability": "invisible"})
    assert answer.json()["user"]["isOnline"] is True
    assert (await api.get("/v1/users/alice"))["isOnline"] is False
    for _ in range(2):
        assert (await api.http.delete(path)).json()["user"]["availability"] == "online"
    await client.cut()


async def test_a_claim_may_come_before_its_user(api: Served) -> None:
    answer = await api.http.put("/v1/users/a%2Fclaim/claim", json={"availability": "away"})
    assert answer.json()["user"] | {"version": 0} == {
        "userId": "a/claim",
        "isOnline": False,
        "availability": "offline",
        "lastActive": answer.json()["user"]["lastActive"],
        "version": 0,
    }
    client = await Caller.open(api.url, "a/claim")
    assert (await api.get("/v1/users/a%2Fclaim"))["availability"] == "away"
    await client.cut()


# -- refusals --------------------------------------------------------------------------------------------------------

BAD: list[tuple[str, str, Any, str]] = [
    ("GET", "/v1/online?limit=0", None, "limit"),
    ("GET", "/v1/online?limit=1001", None, "limit"),
    ("GET", "/v1/online?limit=many", None, "limit"),
    ("GET", "/v1/online?cursor=nonsense", None, "cursor"),
    ("GET", "/v1/online?cursor=" + "9" * 5000, None, "cursor"),
    ("GET", "/v1/users/" + "x" * 129, None, "id"),
    ("GET", "/v1/users/", None, "id"),
    ("GET", "/v1/users/a%00b", None, "id"),
    ("GET", "/v1/users/a%E2%80%A8b", None, "id"),
    ("GET", "/v1/admin/users/a%0Ab/explain", None, "id"),
    ("GET", "/v1/users/a%0A", None, "id"),
    ("POST", "/v1/admin/users/a%0Ab/disconnect", None, "id"),
    ("POST", "/v1/admin/stale", {}, "olderThanMs"),
    ("POST", "/v1/admin/stale", {"olderThanMs": 0}, "olderThanMs"),
    ("POST", "/v1/admin/stale", {"olderThanMs": -5}, "olderThanMs"),
    ("POST", "/v1/admin/stale", {"olderThanMs": 10**30}, "olderThanMs"),
    ("POST", "/v1/admin/stale", {"olderThanMs": "soon"}, "olderThanMs"),
    ("POST", "/v1/admin/stale", [], "the body"),
    ("POST", "/v1/admin/cleanup", {"disconect": True}, "disconect"),
    ("POST", "/v1/admin/cleanup", {"disconnect": "perhaps"}, "disconnect"),
    ("POST", "/v1/admin/cleanup", None, "the body"),
    ("POST", "/v1/users:batchGet", {"users": ["a"] * 1001}, "users"),
    ("POST", "/v1/users:batchGet", {"users": ["x" * 129]}, "users"),
    ("POST", "/v1/users:batchGet", {"users": ["a\n"]}, "users"),
    ("POST", "/v1/users:batchGet", {"users": "alice"}, "users"),
    ("POST", "/v1/users:batchGet", {}, "users"),
    ("GET", "/v1/changes?since=-1", None, "since"),
    ("GET", "/v1/changes?since=9007199254740992", None, "since"),
    ("GET", "/v1/changes?since=yesterday", None, "since"),
    ("PUT", "/v1/users/a/claim", {"availability": "online"}, "availability"),
    ("PUT", "/v1/users/a/claim", {"text": "x" * 141}, "text"),
    ("PUT", "/v1/users/a/claim", {"text": "a\nb"}, "text"),
    ("PUT", "/v1/users/a/claim", {"until": "soon"}, "until"),
    ("PUT", "/v1/users/a/claim", {"until": "9999-12-31T23:59:59-14:00"}, "until"),
    ("PUT", "/v1/users/a/claim", {"availability": "busy", "until": "2099-01-01T00:00:00"}, "until"),
    ("PUT", "/v1/users/a/claim", {"availability": "busy", "until": "2020-01-01T00:00:00Z"}, "until"),
    ("PUT", "/v1/users/a/claim", {"until": "2099-01-01T00:00:00Z"}, "until"),
    ("PUT", "/v1/users/a/claim", {"colour": "red"}, "colour"),
    ("PUT", f"/v1/users/{'x' * 129}/claim", {}, "id"),
]


async def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        for method, path, body, names in BAD:
            response = await api.http.request(method, path, json=body)
            assert response.status_code == 400, (method, path, body)
            error = response.json()["error"]
            assert (error["code"], error["temporary"]) == ("bad_request", False)
            assert error["message"].startswith(names), (method, path, body)
            assert len(error["message"]) < 400


async def test_a_body_that_is_no_json_or_too_large_is_refused(api: Served) -> None:
    json = {"Content-Type": "application/json"}
    broken = await api.http.post("/v1/admin/cleanup", content=b"{", headers=json)
    assert (broken.status_code, broken.json()["error"]["message"]) == (400, "the body is not JSON")
    large = await api.http.post("/v1/admin/cleanup", content=b" " * 1_000_001, headers=json)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")


async def test_the_applications_own_paths_and_errors_stay_its_own(api: Served) -> None:
    assert (await api.http.get("/v1/theirs")).text == "theirs"
    assert "error" not in (await api.http.get("/v1/unknown")).text
    assert (await api.http.get("/v1/unknown")).status_code == 404


async def test_the_openapi_of_a_fastapi_application_knows_every_path(tmp_path: Path) -> None:
    async with served(tmp_path, "fastapi") as api:
        paths = (await api.get("/openapi.json"))["paths"]
        assert set(paths) >= {
            "/healthz",
            "/readyz",
            "/v1/stats",
            "/v1/online",
            "/v1/users/{id}",
            "/v1/admin/status",
            "/v1/admin/users/{id}/explain",
            "/v1/admin/cleanup",
        }
        assert (await api.http.get("/docs")).status_code == 200


async def test_a_fault_of_ours_tells_a_stranger_nothing(api: Served, monkeypatch: MonkeyPatch) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("the secret inside")

    monkeypatch.setattr(api.presence, "stats", fail)
    monkeypatch.setattr(api.presence.registry, "stats", fail)
    response = await api.http.get("/v1/stats")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "secret" not in response.text and "Traceback" not in response.text


@pytest.mark.parametrize(
    ("error", "status", "code", "temporary"),
    [
        (StoreUnavailable("app.db", "it is locked"), 503, "store_unavailable", True),
        (StoreCorrupt("app.db", "it is damaged"), 500, "store_failed", False),
    ],
)
async def test_a_store_that_fails_is_told_as_what_it_is(
    api: Served, monkeypatch: MonkeyPatch, error: Exception, status: int, code: str, temporary: bool
) -> None:
    async def fail() -> None:
        raise error

    monkeypatch.setattr(api.presence.store, "counts", fail)
    response = await api.http.get("/v1/admin/status")
    assert response.status_code == status
    assert response.json()["error"] == {"code": code, "message": str(error), "temporary": temporary}


async def test_a_store_that_takes_nothing_makes_the_server_unready_and_its_return_ready(
    api: Served, monkeypatch: MonkeyPatch
) -> None:
    apply = api.presence.store.apply

    async def fail(rows: object) -> Applied:
        raise StoreUnavailable("app.db", "the disk is full")

    monkeypatch.setattr(api.presence.store, "apply", fail)
    client = await Caller.open(api.url, "alice")
    await until(lambda: not api.presence.writer.state().healthy)
    response = await api.http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["store"]["pending"] == 1
    assert "the disk is full" in response.json()["store"]["lastError"]
    assert (await api.get("/v1/users/alice"))["isOnline"] is True
    monkeypatch.setattr(api.presence.store, "apply", apply)
    await until(lambda: api.presence.writer.state().healthy)
    assert (await api.http.get("/readyz")).status_code == 200
    await client.cut()


@pytest.mark.parametrize(
    ("path", "allowed"), [("/v1/users/a/claim", "DELETE, PUT"), ("/v1/users/a", "GET"), ("/v1/stats", "GET")]
)
async def test_a_wrong_method_is_told_the_right_ones(tmp_path: Path, path: str, allowed: str) -> None:
    async with served(tmp_path) as api:
        answer = await api.http.patch(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.json()["error"]["code"] == "method_not_allowed"


# -- access ----------------------------------------------------------------------------------------------------------


async def test_without_dev_reads_need_the_key_and_maintenance_the_token(tmp_path: Path) -> None:
    async with served(tmp_path, dev=False, jwt_secret=SECRET, api_keys=[OTHER_KEY, digest(READ_KEY)]) as api:
        key = {"Authorization": f"Bearer {READ_KEY}"}
        wrong = [{}, *({"Authorization": value} for value in ("Bearer nothing", READ_KEY, "Bearer", "Basic 1234"))]
        wrong += [{"Authorization": f"Bearer {digest(READ_KEY)}"}, {"Authorization": f"Bearer {READ_KEY} x"}]
        for headers in wrong:
            for path in ("/v1/stats", "/v1/online", "/v1/users/a", "/v1/admin/status", "/v1/admin/users/a/explain"):
                refused = await api.http.get(path, headers=headers)
                assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
                assert refused.headers["www-authenticate"] == "Bearer"
        assert (await api.http.get("/v1/stats", headers=key)).status_code == 200
        other = {"Authorization": f"bearer  {OTHER_KEY}"}
        assert (await api.http.get("/v1/stats", headers=other)).status_code == 200
        assert (await api.http.get("/v1/admin/status", headers=key)).status_code == 401
        assert (await api.http.post("/v1/admin/cleanup", headers=key, json={})).status_code == 401
        for path in ("/v1/stats", "/v1/admin/status"):
            assert (await api.http.get(path, headers=api.admin)).status_code == 200
        assert (await api.http.get("/healthz")).status_code == 200
        assert (await api.http.get("/readyz")).status_code == 200


async def test_an_operator_may_have_a_token_of_the_settings(tmp_path: Path) -> None:
    async with served(tmp_path, dev=False, jwt_secret=SECRET, admin_tokens=[digest(READ_KEY)]) as api:
        key = {"Authorization": f"Bearer {READ_KEY}"}
        for path in ("/v1/stats", "/v1/admin/status"):
            assert (await api.http.get(path, headers=key)).status_code == 200
        assert (await api.http.get("/v1/admin/status", headers={"Authorization": "Bearer x"})).status_code == 401


async def test_without_an_api_key_nobody_reads_by_an_empty_one(tmp_path: Path) -> None:
    async with served(tmp_path, dev=False, jwt_secret=SECRET) as api:
        for value in ("Bearer", "Bearer None"):
            assert (await api.http.get("/v1/stats", headers={"Authorization": value})).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "rebound.example"}, 401),
        ({"Host": "127.0.0.1.example"}, 401),
        ({"Host": "[nonsense"}, 401),
        ({"Origin": "https://page.example"}, 401),
        ({"Origin": "null"}, 401),
        ({"Origin": "http://127.0.0.1:1"}, 401),
        ({"Origin": "http://[nonsense"}, 401),
        ({"X-Forwarded-For": "203.0.113.9"}, 401),
    ],
)
async def test_under_dev_only_this_machine_comes_in_and_no_foreign_page(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with served(tmp_path) as api:
        assert (await api.http.get("/v1/admin/status", headers=headers)).status_code == status


async def test_under_dev_the_servers_own_page_comes_in(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        assert (await api.http.get("/v1/stats", headers={"Origin": api.url.rstrip("/")})).status_code == 200


async def test_how_the_store_does_is_told_only_to_operators(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    async with served(tmp_path, dev=False, jwt_secret=SECRET) as api:

        async def fail(rows: object) -> Applied:
            raise StoreUnavailable("/srv/secret/place.db", "the disk is full")

        apply = api.presence.store.apply
        monkeypatch.setattr(api.presence.store, "apply", fail)
        writer = api.presence.writer
        assert isinstance(writer, Writer)
        writer.submit([StoredUser("a", False, Availability.OFFLINE, None, None, 1)])
        await until(lambda: not api.presence.writer.state().healthy)
        stranger = await api.http.get("/readyz")
        assert (stranger.status_code, set(stranger.json())) == (503, {"ready", "reason", "node"})
        assert "secret" in (await api.http.get("/readyz", headers=api.admin)).text
        monkeypatch.setattr(api.presence.store, "apply", apply)


async def test_the_state_file_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        assert stat.S_IMODE(api.state_file.stat().st_mode) == 0o600
        assert len(api.token()) >= 43
    assert not api.state_file.exists()


async def test_a_state_file_that_is_another_servers_is_left_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.state_file.write_text("another's")
    assert api.state_file.read_text() == "another's"


# -- maintenance -----------------------------------------------------------------------------------------------------


async def test_drift_finds_ghosts_and_missing_and_mends_nothing(api: Served) -> None:
    client = await Caller.open(api.url, "alice")
    await until(lambda: api.presence.writer.state().written >= 1)
    assert await api.get("/v1/admin/drift") == {
        "checked": 1,
        "ghosts": 0,
        "missing": 0,
        "wrong": 0,
        "examples": [],
    }
    await api.haunt("casper")
    version = 2**51
    await api.presence.store.apply([StoredUser("alice", False, Availability.OFFLINE, 1000, None, version)])
    for _ in range(2):
        drift = await api.get("/v1/admin/drift")
        assert (drift["ghosts"], drift["missing"]) == (1, 1)
        assert drift["examples"] == [
            {"userId": "casper", "kind": "ghost"},
            {"userId": "alice", "kind": "missing"},
        ]
    await client.cut()


async def test_cleanup_does_what_its_dry_run_said(api: Served) -> None:
    alice, bob = [await Caller.open(api.url, user) for user in ("alice", "bob")]
    await bob.cut()  # lingers
    await until(lambda: api.presence.writer.state().pending == 0)
    await api.haunt("casper", "nick")
    await until_lingering(api, "bob")
    planned = await api.order("/v1/admin/cleanup", dryRun=True)
    assert planned == {"dryRun": True, "offline": 3, "protectedUsers": 1, "closed": 0}
    assert await api.order("/v1/admin/cleanup") == {**planned, "dryRun": False}
    assert (await api.get("/v1/stats"))["users"] == 1
    assert (await api.presence.store.counts()).online == 1
    with_connections = await api.order("/v1/admin/cleanup", disconnect=True, dryRun=True)
    assert with_connections == {"dryRun": True, "offline": 1, "protectedUsers": 0, "closed": 1}
    assert await api.order("/v1/admin/cleanup", disconnect=True) == {**with_connections, "dryRun": False}
    assert (await api.presence.store.counts()).online == 0
    await alice.cut()


async def until_lingering(api: Served, user_id: str) -> None:
    while (found := await api.presence.explain(user_id)) is None or found.lingers_ms is None:
        pass


async def test_stale_takes_ghosts_and_spares_who_is_here_or_lingers(api: Served) -> None:
    alice, bob = [await Caller.open(api.url, user) for user in ("alice", "bob")]
    await until(lambda: api.presence.writer.state().written >= 2)
    await bob.cut()
    await until_lingering(api, "bob")
    await api.haunt("casper")
    planned = await api.order("/v1/admin/stale", olderThanMs=1, dryRun=True)
    assert planned == {"dryRun": True, "offline": 1, "protectedUsers": 2, "closed": 0}
    assert await api.order("/v1/admin/stale", olderThanMs=1) == {**planned, "dryRun": False}
    assert (await api.get("/v1/users/bob"))["isOnline"] is True
    assert (await api.presence.store.read(["casper"]))["casper"].is_online is False
    await alice.cut()


async def test_disconnect_closes_all_of_a_user_at_once(api: Served) -> None:
    clients = [await Caller.open(api.url, user) for user in ("a/b", "a/b", "bob")]
    assert await api.order("/v1/admin/users/a%2Fb/disconnect") == {"closed": 2}
    assert (await api.get("/v1/users/a%2Fb"))["isOnline"] is False
    assert (await api.get("/v1/users/bob"))["isOnline"] is True
    assert await api.order("/v1/admin/users/nobody/disconnect") == {"closed": 0}
    for client in clients:
        await client.cut()


async def test_explain_follows_a_user_from_tab_to_grace_to_offline(tmp_path: Path) -> None:
    async with served(tmp_path, offline_within_s=1.0, ping_interval_s=0.2, ping_timeout_s=0.1) as api:
        client = await Caller.open(api.url, "alice")

        async def explained(condition: Callable[[Any], bool]) -> Any:
            while not condition(found := await api.get("/v1/admin/users/alice/explain")):
                pass
            return found

        heard = await explained(lambda found: found["connections"][0]["lastHeard"] is not None)
        assert heard["connections"][0]["deadline"] > heard["time"]
        assert heard["agrees"] is True
        await client.cut()
        lingering = await explained(lambda found: not found["connections"])
        assert "of grace are left" in lingering["verdict"]
        assert "offline, unless the user comes back" in lingering["next"]["what"]
        gone = await explained(lambda found: not found["isOnline"])
        assert gone["verdict"] == "alice is shown offline: no connection."
        assert gone["next"] is None


async def test_explain_says_when_a_silent_connection_was_last_heard_and_until_when_it_is_waited_for(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, ping_interval_s=0.8, ping_timeout_s=1.5) as api:
        ws = await connect_socket(api.url, '40{"userId":"alice"}')
        while await receive(ws, pings=True) != "2":
            pass
        sent_s = time.time()
        await ws.send("3")  # the last that is heard of it

        async def explained() -> tuple[float, float, float]:
            found = await api.get("/v1/admin/users/alice/explain")
            [connection] = found["connections"]
            texts = (found["time"], connection["lastHeard"] or found["time"], connection["deadline"])
            now_s, heard_s, until_s = (datetime.fromisoformat(text).timestamp() for text in texts)
            return now_s, heard_s if connection["lastHeard"] else 0.0, until_s

        async with asyncio.timeout(5):
            while not (await explained())[1]:
                pass
        _, first_s, _ = await explained()
        await asyncio.sleep(0.4)
        now_s, heard_s, until_s = await explained()
        assert heard_s == pytest.approx(first_s, abs=0.1)
        assert sent_s - 0.02 <= heard_s <= now_s - 0.38
        assert until_s == pytest.approx(heard_s + 0.8 + 1.5, abs=0.1)
        ws.transport.abort()


async def test_explain_names_the_transport_of_now(tmp_path: Path) -> None:
    """The stock client opens by polling, and then moves to its WebSocket."""
    async with served(tmp_path) as api, Poller(api.url) as poller:
        await poller.open()
        await poller.post('40{"userId":"alice"}')
        await poller.get()

        async def transport() -> Any:
            return (await api.get("/v1/admin/users/alice/explain"))["connections"][0]["transport"]

        assert await transport() == "polling"
        ws = await websocket(api.url, sid=poller.sid)
        await ws.send("2probe")
        assert await ws.recv() == "3probe"
        await ws.send("5")
        async with asyncio.timeout(5):
            while await transport() != "websocket":
                pass
        await ws.close()
