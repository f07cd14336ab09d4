"""No secret, token or session id in any line of the log, at any level, whatever is asked."""

import contextlib
import json
import time
from pathlib import Path

import jwt
import pytest

from clients import Client, Refused
from e2e.servers import PresenceServer
from raw import Raw
from security.honest import SECRET
from support import Poller, closed, http_client, receive, websocket

API_KEY = "an-api-key-of-some-length"
ADMIN_TOKEN = "an-admin-token-of-some-length"


async def speak_in_secrets(url: str) -> list[str]:
    """Use, and misuse, every secret that there is; return them."""
    good = jwt.encode({"sub": "alice", "exp": time.time() + 3_000}, SECRET)
    forged = jwt.encode({"sub": "alice"}, "another secret of thirty-two bytes")
    newer = jwt.encode({"sub": "alice", "exp": time.time() + 4_000}, SECRET)
    secrets = [SECRET, API_KEY, ADMIN_TOKEN, good, forged, newer]
    alice = await Client.connect(url, token=good)
    for token in (newer, forged, "x" + good):
        await alice.call("presence:refresh", {"token": token})
    await alice.call(f"presence:{forged}", {"token": forged})
    await alice.send("presence:get", {"token": forged, "users": [forged]})
    with pytest.raises(Refused):
        await Client.connect(url, token=forged)
    async with Poller(url, headers={"Authorization": f"Bearer {good}", "Cookie": f"session={good}"}) as poller:
        secrets.append((await poller.open())["sid"])
        await poller.post("40" + json.dumps({"token": good}))
        await poller.get()
        ws = await websocket(url, sid=poller.sid)
        await ws.send("2probe")
        await ws.recv()
        thief = await websocket(url, sid=poller.sid)
        await closed(thief)
        await ws.send("5")
        await ws.send("42rubbish")
        await closed(ws)
        await poller.get()
        await poller.post("x")
    async with websocket(url) as ws:
        secrets.append(json.loads(str(await receive(ws))[1:])["sid"])
        await ws.send("40" + json.dumps({"token": good})[:-1])
        await closed(ws)
    async with http_client(base_url=url) as http:
        for key in (API_KEY, ADMIN_TOKEN, good, f"{API_KEY}x"):
            for path in ("/v1/stats", "/v1/admin/drift", f"/v1/users/{good}?token={good}", f"/nowhere/{API_KEY}"):
                await http.get(path, headers={"Authorization": f"Bearer {key}"})
        await http.put("/v1/users/alice/claim", content=good, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
    for head in (f"GET /?{good} HTTP/1.1\r\nAuthorization: {good}\x00\r\n\r\n", f"{good} / HTTP/9\r\n\r\n"):
        raw = await Raw.open(url)
        await raw.send(head.encode())
        await raw.ended()
        raw.abort()
    await alice.close()
    return secrets


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
async def test_the_log_holds_no_secret(level: str, tmp_path: Path) -> None:
    server = PresenceServer(
        tmp_path / "app.db",
        flags=("--log-level", level),
        jwt_secret=SECRET,
        api_keys=json.dumps([API_KEY]),
        admin_tokens=json.dumps([ADMIN_TOKEN]),
    )
    server.start()
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        secrets = await speak_in_secrets(server.url)
        secrets.append(json.loads((tmp_path / "app.db-server").read_text())["token"])
    log = server.log()
    for secret in secrets:
        assert secret not in log
        assert secret[-10:] not in log, "the end of a token's signature"
    assert ("connected" in log) == (level in ("debug", "info"))
