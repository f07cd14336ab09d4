"""Who somebody is: forged, expired and confused tokens, another's session, a foreign page, every door without a key.

Against ``herenow serve`` in a process of its own. What a token may hold, in full, is in ``gateway/test_tokens.py``.
"""

import asyncio
import base64
import contextlib
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from clients import Client, Refused
from e2e.servers import PresenceServer
from security.honest import SECRET
from support import Poller, closed, http_client, receive, websocket, websocket_url

RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
API_KEY = "an-api-key-of-some-length"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceServer]:
    """One server for all: nothing that is refused may change anything for the next."""
    server = PresenceServer(
        tmp_path_factory.mktemp("identity") / "app.db",
        flags=(),
        jwt_secret=SECRET,
        jwt_public_keys=json.dumps([PEM]),
        api_keys=json.dumps([API_KEY]),
        max_connections_per_address=3,
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def url(served: PresenceServer) -> str:
    return served.url


def good(user: str = "alice", **claims: Any) -> str:
    return jwt.encode({"sub": user, **claims}, SECRET)


def by_hand(header: dict[str, Any], key: bytes | None, sub: str = "alice") -> str:
    """A token that no library would make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, {"sub": sub})]
    head = b".".join(parts)
    made = b"" if key is None else jwt.get_algorithm_by_name("HS256").sign(head, key)
    return (head + b"." + base64.urlsafe_b64encode(made).rstrip(b"=")).decode()


BAD_TOKENS = {
    "forged": jwt.encode({"sub": "alice"}, "another secret of thirty-two bytes"),
    "forged by another's RSA key": jwt.encode(
        {"sub": "alice"}, rsa.generate_private_key(public_exponent=65_537, key_size=2048), algorithm="RS256"
    ),
    "expired": good(exp=int(time.time()) - 10),
    "expired, and signed with the public key": jwt.encode({"sub": "a", "exp": 1}, RSA, algorithm="RS256"),
    "alg: none": by_hand({"alg": "none"}, None),
    "alg: NoNe, with a signature": by_hand({"alg": "NoNe"}, SECRET.encode()),
    "HS256 with the public key as its secret": by_hand({"alg": "HS256"}, PEM.encode()),
    "RS256 with the secret": by_hand({"alg": "RS256"}, SECRET.encode()),
    "its payload changed": good("bob").split(".")[0]
    + "."
    + base64.urlsafe_b64encode(b'{"sub":"alice"}').decode().rstrip("=")
    + "."
    + good("bob").split(".")[2],
    "without its signature": good().rpartition(".")[0] + ".",
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_a_token_that_is_not_true_opens_nothing(url: str, token: str) -> None:
    with pytest.raises(Refused) as refused:
        await Client.connect(url, token=token)
    assert refused.value.error["data"]["code"] in ("unauthorized", "token_expired")
    alice = await Client.connect(url, token=good())
    assert (await alice.call("presence:refresh", {"token": token}))["error"]["code"] in (
        "unauthorized",
        "token_expired",
    )
    assert not alice.closed.is_set()
    await alice.close()


async def test_another_users_session_id_is_of_no_use_once_it_is_on_its_websocket(url: str) -> None:
    """Who knows it can harm only a session that polls, and it is as unguessable as a key."""
    async with websocket(url) as ws:
        sid = json.loads(str(await ws.recv())[1:])["sid"]
        await ws.send("40" + json.dumps({"token": good()}))
        await receive(ws)
        async with Poller(url) as thief:
            thief.sid = sid
            assert (await thief.get()).status_code == 400
            assert (await thief.post('42["presence:leave"]')).status_code == 400
        assert await closed(await websocket(url, sid=sid)) == 1008
        await ws.send('421["presence:get",{"users":[]}]')
        while not (answer := str(await receive(ws))).startswith("431"):
            pass
        assert '"ok":true' in answer
    assert len(sid) >= 20


async def test_the_connection_id_that_others_may_see_is_no_session_id(url: str) -> None:
    alice = await Client.connect(url, token=good())
    async with Poller(url) as thief:
        thief.sid = alice.ready["connectionId"]
        answer = await thief.get()
        assert (answer.status_code, answer.json()["message"]) == (400, "Session ID unknown")
    await alice.close()


async def test_who_is_refused_ten_times_is_closed(url: str) -> None:
    async with websocket(url) as ws:
        await ws.recv()
        for _ in range(11):
            await ws.send('40{"token":"x"}')
            assert str(await receive(ws)).startswith("44")
        assert await closed(ws) == 1000


async def test_a_stranger_may_not_send_much(url: str) -> None:
    async with websocket(url) as ws:
        await ws.recv()
        await ws.send('40{"token":"' + "x" * 200_000 + '"}')
        assert await closed(ws) == 1002


# -- pages -----------------------------------------------------------------------------------------------------------

FOREIGN = ("https://evil.example", "null", "http://127.0.0.1.evil.example", "http://127.0.0.1", "file://", "")


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_foreign_page_gets_neither_polling_nor_a_websocket(url: str, origin: str) -> None:
    async with http_client(base_url=url, headers={"Origin": origin}) as http:
        for method in ("GET", "POST", "OPTIONS"):
            answer = await http.request(method, "/socket.io/?EIO=4&transport=polling")
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
    with pytest.raises(InvalidStatus) as refused:
        await connect(websocket_url(url), additional_headers={"Origin": origin})
    assert refused.value.response.status_code == 403


async def test_the_servers_own_page_gets_both(url: str) -> None:
    async with http_client(base_url=url, headers={"Origin": url}) as http:
        answer = await http.get("/socket.io/?EIO=4&transport=polling")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, url)
    async with connect(websocket_url(url), additional_headers={"Origin": url}) as ws:
        assert str(await ws.recv()).startswith("0")


async def test_a_foreign_page_cannot_take_a_session_over(url: str) -> None:
    async with Poller(url) as poller:
        await poller.open()
        answer = await poller.http.post(poller.url, params=poller.query(), headers={"Origin": FOREIGN[0]}, content="1")
        assert answer.status_code == 403
        assert (await poller.post("40" + json.dumps({"token": good()}))).status_code == 200
        await poller.post("1")


async def test_every_handshake_that_is_refused_is_counted(url: str) -> None:
    async def count(code: str) -> float:
        shown = (await http.get("/metrics", headers={"Authorization": f"Bearer {API_KEY}"})).text
        found = re.search(rf'^herenow_connects_refused_total{{code="{code}"}} (\S+)', shown, re.MULTILINE)
        return float(found[1]) if found else 0.0

    async with http_client(base_url=url) as http:
        before = {code: await count(code) for code in ("too_many_connections", "forbidden", "bad_request")}
        polling = "/socket.io/?EIO=4&transport=polling"
        answers = [await http.get(polling, headers={"X-Forwarded-For": "203.0.113.9"}) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        await http.get(polling, headers={"Origin": FOREIGN[0]})
        with pytest.raises(InvalidStatus):
            await connect(websocket_url(url), additional_headers={"X-Forwarded-For": "203.0.113.9"})
        await http.get("/socket.io/?EIO=3&transport=polling")
        for code, more in (("too_many_connections", 3), ("forbidden", 1), ("bad_request", 1)):
            assert await count(code) == before[code] + more, code


# -- every door ------------------------------------------------------------------------------------------------------

OPEN = {"/healthz", "/readyz", "/docs", "/openapi.json"}


async def test_every_endpoint_but_health_and_its_description_wants_a_key(url: str) -> None:
    async with http_client(base_url=url) as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
        asked = 0
        for path, methods in paths.items():
            for method in methods.keys() - {"parameters"}:
                if path in OPEN:
                    continue
                for key in (None, "x", good(), SECRET):
                    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
                    body: Any = {"users": []} if "batchGet" in path else {} if method in ("put", "post") else None
                    answer = await http.request(method, path.replace("{id}", "alice"), headers=headers, json=body)
                    assert answer.status_code == 401, (method, path, key)
                    assert answer.json()["error"]["code"] == "unauthorized"
                    asked += 1
        assert asked > 50
        for path in ("/v1/admin/drift", "/v1/admin/users/alice/explain"):  # to read is not to maintain
            assert (await http.get(path, headers={"Authorization": f"Bearer {API_KEY}"})).status_code == 401


# -- one user may not act for another --------------------------------------------------------------------------------

PROBES: dict[str, Any] = {
    "presence:claim": {"userId": "bob", "availability": "busy"},
    "presence:leave": {"userId": "bob"},
    "presence:active": {"userId": "bob"},
    "presence:idle": {"users": ["bob"]},
    "presence:refresh": {"token": jwt.encode({"sub": "bob"}, SECRET)},
    "presence:watch": {"users": ["bob"]},
    "presence:get": {"users": ["bob"]},
    "presence:watch all": {"all": True},
    "presence:watch since": {"users": ["bob"], "since": 1},
}
"""Through every event: a user who may see nobody tries to see bob, or to act for him."""


@pytest.mark.parametrize("probe", PROBES)
async def test_no_event_reaches_another_user_who_may_not_be_seen(url: str, probe: str) -> None:
    bob = await Client.connect(url, token=good("bob"))
    mallory = await Client.connect(url, token=good("mallory", watch=[]))
    answer = await mallory.call(" ".join(probe.split(" ")[:1]), PROBES[probe])
    refused = answer.pop("refused", [{"userId": "bob", **answer.get("error", {})}])  # of some, or of the whole event
    assert [(each["userId"], each["code"] in ("bad_request", "forbidden")) for each in refused] == [("bob", True)]
    assert "bob" not in json.dumps(answer)
    seen = (await bob.call("presence:get", {"users": ["bob"]}))["users"][0]
    assert (seen["isOnline"], seen["availability"]) == (True, "online")
    await bob.leave()
    await mallory.settle(0.1)
    assert mallory.diffs == []
    await mallory.close()


async def test_a_server_that_is_attacked_has_lost_nothing(served: PresenceServer) -> None:
    """Last in this file: no fault in the log, and it serves."""
    alice = await Client.connect(served.url, token=good())
    await alice.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await alice.closed.wait()
    assert "Traceback" not in served.log()
    assert '"level": "error"' not in served.log()
