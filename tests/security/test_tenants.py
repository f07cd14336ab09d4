"""A tenant probes for another's users through every event and every endpoint, and finds what it would find of nobody.

``bob`` is there in acme; ``nobody`` is nowhere. To a client or a program of globex both must look the same, whatever
they ask, and none of what bob does may reach them.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from clients import Client
from e2e.servers import PresenceServer
from security.honest import SECRET
from support import http_client

ACME_KEY, GLOBEX_KEY = "a-key-of-the-tenant-acme", "a-key-of-the-tenant-globex"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceServer]:
    server = PresenceServer(
        tmp_path_factory.mktemp("tenants") / "app.db",
        flags=(),
        jwt_secret=SECRET,
        tenant_api_keys=json.dumps({"acme": [ACME_KEY], "globex": [GLOBEX_KEY]}),
    )
    server.start()
    yield server
    server.stop()


def token(user: str, tenant: str) -> str:
    return jwt.encode({"sub": user, "tenant": tenant}, SECRET)


def plain(answer: Any, user: str) -> str:
    """An answer without the name that was asked about, and without what differs from one moment to the next."""
    return json.dumps(answer).replace(user, "WHO")


EVENTS: dict[str, Any] = {
    "presence:watch": {"users": ["WHO"]},
    "presence:watch since": {"users": ["WHO"], "since": 1},
    "presence:watch all": {"all": True},
    "presence:get": {"users": ["WHO"]},
    "presence:unwatch": {"users": ["WHO"]},
    "presence:claim": {"userId": "WHO", "availability": "busy"},
    "presence:refresh": {"token": "WHO"},
}


@pytest.mark.parametrize("probe", EVENTS)
async def test_no_event_tells_another_tenants_user_from_nobody(served: PresenceServer, probe: str) -> None:
    bob = await Client.connect(served.url, token=token("bob", "acme"))
    mallory = await Client.connect(served.url, token=token("mallory", "globex"))
    await mallory.settle()
    answers = []
    for who in ("bob", "nobody"):
        if probe == "presence:refresh":
            payload: Any = {"token": token(who, "acme")}
        else:
            payload = json.loads(json.dumps(EVENTS[probe]).replace("WHO", who))
        answers.append(plain(await mallory.call(probe.split(" ")[0], payload), who))
    assert answers[0] == answers[1]
    mallory.diffs.clear()
    await bob.call("presence:claim", {"availability": "busy"})
    await bob.leave()
    await mallory.settle()
    assert [change for diff in mallory.diffs for change in diff["changes"] if change["userId"] != "mallory"] == []
    own = [user for user in ("bob", "nobody") if mallory.shows(user) not in (None, "offline")]
    assert own == []
    await mallory.close()


READS = ["/v1/users/{who}", "/v1/online", "/v1/online?cursor={who}", "/v1/stats"]
CLOSED = [
    ("GET", "/metrics"),
    ("PUT", "/v1/users/{who}/claim"),
    ("DELETE", "/v1/users/{who}/claim"),
    ("GET", "/v1/admin/status"),
    ("GET", "/v1/admin/drift"),
    ("GET", "/v1/admin/users/{who}/explain"),
    ("POST", "/v1/admin/users/{who}/disconnect"),
    ("POST", "/v1/admin/cleanup"),
    ("POST", "/v1/admin/stale"),
    ("GET", "/v1/users/{who}?tenant=acme"),
    ("GET", "/v1/online?tenant=acme"),
    ("GET", "/v1/stats?tenant=acme"),
    ("GET", "/v1/changes?tenant=acme"),
]


async def test_no_endpoint_tells_another_tenants_user_from_nobody(served: PresenceServer) -> None:
    bob = await Client.connect(served.url, token=token("bob", "acme"))
    async with http_client(base_url=served.url, headers={"Authorization": f"Bearer {GLOBEX_KEY}"}) as globex:
        for path in READS:
            answers = [await globex.get(path.format(who=who)) for who in ("bob", "nobody")]
            assert answers[0].status_code == answers[1].status_code
            assert plain(answers[0].json(), "bob") == plain(answers[1].json(), "nobody"), path
        batches = [await globex.post("/v1/users:batchGet", json={"users": [who]}) for who in ("bob", "nobody")]
        assert plain(batches[0].json(), "bob") == plain(batches[1].json(), "nobody")
        for method, path in CLOSED:
            refused = [await globex.request(method, path.format(who=who)) for who in ("bob", "nobody")]
            assert refused[0].status_code in (401, 403), (method, path, refused[0].text)
            assert plain(refused[0].json(), "bob") == plain(refused[1].json(), "nobody"), path
        ready = await globex.get("/readyz")
        assert set(ready.json()) <= {"ready", "reason", "node"}
    async with http_client(base_url=served.url, headers={"Authorization": f"Bearer {ACME_KEY}"}) as acme:
        seen = (await acme.get("/v1/users/bob")).json()
        assert seen["isOnline"], "he was there all the time: or this test shows nothing"
    await bob.close()


async def test_no_stream_carries_another_tenants_changes(served: PresenceServer) -> None:
    heard: dict[str, list[str]] = {"acme": [], "globex": []}

    async def follow(tenant: str, key: str) -> None:
        async with (
            http_client(base_url=served.url, headers={"Authorization": f"Bearer {key}"}) as program,
            program.stream("GET", "/v1/changes") as stream,
        ):
            async for line in stream.aiter_lines():
                heard[tenant].append(line)

    streams = [asyncio.create_task(follow("acme", ACME_KEY)), asyncio.create_task(follow("globex", GLOBEX_KEY))]
    await asyncio.sleep(0.3)
    eve = await Client.connect(served.url, token=token("eve", "acme"))
    async with asyncio.timeout(5):
        while not any("eve" in line for line in heard["acme"]):  # noqa: ASYNC110  # lines set no event
            await asyncio.sleep(0.02)
    assert not any("eve" in line or line.startswith("id:") for line in heard["globex"])
    await eve.leave()
    for stream in streams:
        stream.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stream
