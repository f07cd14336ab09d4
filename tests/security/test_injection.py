"""What a client writes stays what it is: no header, no second line in the log, no script in a page, no depth."""

import json
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import jwt
import pytest

from clients import Client
from e2e.servers import PresenceServer
from herenow.http.headers import DOCS, DOCS_POLICY, SECURITY_HEADERS
from raw import Raw
from security.honest import SECRET
from support import ROOT, http_client

KEY = "an-admin-token-of-some-length"
HOSTILE = (
    "a\r\nSet-Cookie: x=1",
    "a\nb",
    "a\x00b",
    "\u2028x",
    "\x1b[2J",
    "\x85",
)
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceServer]:
    server = PresenceServer(
        tmp_path_factory.mktemp("injection") / "app.db",
        flags=("--page", str(ROOT / "examples/quickstart")),
        jwt_secret=SECRET,
        admin_tokens=json.dumps([KEY]),
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def http(served: PresenceServer) -> httpx.AsyncClient:
    return http_client(base_url=served.url, headers={"Authorization": f"Bearer {KEY}"})


@pytest.mark.parametrize("text", HOSTILE)
async def test_no_id_and_no_text_can_break_a_line(served: PresenceServer, http: httpx.AsyncClient, text: str) -> None:
    alice = await Client.connect(served.url, token=jwt.encode({"sub": "alice"}, SECRET))
    assert (await alice.call("presence:get", {"users": [text]}))["error"]["code"] == "bad_request"
    assert (await alice.call("presence:claim", {"text": text}))["error"]["code"] == "bad_request"
    await alice.call(f"presence:{text}", {})
    await alice.close()
    async with http:
        for path in (f"/v1/users/{quote(text)}", f"/nowhere/{quote(text)}", f"/{quote(text)}.html"):
            answer = await http.get(path)
            assert answer.status_code in (400, 404)
            assert "set-cookie" not in answer.headers
        assert (await http.put("/v1/users/alice/claim", json={"text": text})).status_code == 400
    for line in served.log().splitlines():
        if line.startswith("{"):
            json.loads(line)
        assert "\x1b[2J" not in line
        assert not line.startswith(("Set-Cookie", "b"))


async def test_what_a_preflight_asks_for_is_not_echoed_beyond_its_line(served: PresenceServer) -> None:
    raw = await Raw.open(served.url)
    host = served.url.removeprefix("http://")
    await raw.send(
        f"OPTIONS /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: {host}\r\nOrigin: {served.url}\r\n"
        "Access-Control-Request-Headers: a\x0bSet-Cookie: x=1\r\nConnection: close\r\n\r\n".encode()
    )
    answer = await raw.ended()
    assert b"\r\nset-cookie" not in answer.lower()
    raw.abort()


async def test_a_text_with_script_is_json_and_never_a_page(served: PresenceServer, http: httpx.AsyncClient) -> None:
    alice = await Client.connect(served.url, token=jwt.encode({"sub": SCRIPT}, SECRET))
    assert (await alice.call("presence:claim", {"text": SCRIPT}))["user"]["statusText"] == SCRIPT
    async with http:
        paths = [
            f"/v1/users/{quote(SCRIPT, safe='')}",
            "/v1/online",
            f"/v1/admin/users/{quote(SCRIPT, safe='')}/explain",
        ]
        for path in (*paths, f"/{quote(SCRIPT)}", f"/v1/users/{quote(SCRIPT)}/claim", f"/v1/online?cursor={SCRIPT}"):
            answer = await http.get(path)
            if "<script>" in answer.text:
                assert answer.headers["content-type"].startswith(("application/json", "text/plain"))
            assert answer.headers["x-content-type-options"] == "nosniff"
    await alice.close()


def test_our_own_page_writes_what_users_say_as_text_only() -> None:
    """The one page that shows texts: nothing in it makes markup of a string."""
    for path in (ROOT / "examples").rglob("*.js"):
        if "vendor" not in path.parts:
            source = path.read_text()
            for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "dangerouslySet"):
                assert way not in source, path


async def test_every_page_and_answer_has_its_security_headers(http: httpx.AsyncClient) -> None:
    async with http:
        for path in (
            "/",
            "/app.js",
            "/nowhere",
            "/docs",
            "/openapi.json",
            "/healthz",
            "/metrics",
            "/v1/stats",
            "/v1/x",
        ):
            answer = await http.get(path)
            wanted = dict(SECURITY_HEADERS) | (dict([DOCS_POLICY]) if path == DOCS else {})
            for name, value in wanted.items():
                assert answer.headers[name.decode()] == value.decode(), path


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"users":', "}")])
async def test_deep_json_over_http_is_a_bad_request(http: httpx.AsyncClient, opening: str, closing: str) -> None:
    async with http:
        for path in ("/v1/users:batchGet", "/v1/admin/cleanup"):
            answer = await http.post(path, content=opening * 50_000 + "1" + closing * 50_000)
            assert answer.status_code == 400, path
            assert answer.json()["error"]["code"] == "bad_request"
            stranger = await http.post(path, content=opening * 50_000, headers={"Authorization": "Bearer x"})
            assert stranger.status_code == 401  # before a byte of it is read


def test_the_log_of_all_this_has_no_fault(served: PresenceServer) -> None:
    """Last in this file."""
    assert "Traceback" not in served.log()
